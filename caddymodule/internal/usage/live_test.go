package usage

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// leave is the end of a process: what it did not store is in the copy alone.
func leave(t testing.TB, c *clock, m *memory, live []byte) *Recorder {
	t.Helper()
	o := c.options(m)
	o.Live = live
	return open(t, o)
}

// What was not flushed is there after a kill, once, whatever the flush had done.
func TestLiveOutlivesTheProcess(t *testing.T) {
	const rows = 30
	for cut := 0; cut < 2*rows+10; cut++ { // changes that the last flush made
		m, c := newMemory(), newClock()
		r := open(t, c.options(m))
		record := func(n int64) {
			for i := range rows {
				for range n {
					r.Record(c.at(), series("acme", i, "", Class2xx), Sample{Credits: 7})
				}
			}
		}
		record(1)
		check(t, r.Flush(t.Context()))
		record(2)
		c.pass(time.Minute)
		record(3)
		live := r.Live(nil)
		m.failAfter(cut)
		_ = r.Flush(t.Context())
		m.heal()
		for again := range 3 { // a kill during the recovery, and one after it
			o := c.options(m)
			o.Live = live
			if again == 0 {
				m.failAfter(cut / 2)
				_, _ = Open(t.Context(), o)
				m.heal()
				continue
			}
			r = open(t, o)
			for _, step := range []Step{Minute} {
				if v := total(t, r, Filter{}, step); v.Requests != 6*rows || v.Credits != 7*6*rows {
					t.Fatalf("after %d changes, opening %d: %+v", cut, again, v)
				}
			}
		}
	}
}

// A copy of another storage, of an older process, or one that is damaged is
// passed over.
func TestLiveOfOthers(t *testing.T) {
	m, c := newMemory(), newClock()
	r := open(t, c.options(m))
	if live := r.Live([]byte("x")); string(live) != "x" {
		t.Errorf("of nothing: %q", live)
	}
	r.Record(c.at(), series("acme", 1, "", Class2xx), Sample{})
	live := r.Live(nil)
	for i := range live {
		bad := append([]byte{}, live...)
		bad[i] ^= 1
		told := 0
		o := c.options(newMemory())
		o.OnError = func(error) { told++ }
		r := open(t, o) // makes the storage
		o.Live = bad
		if r = open(t, o); told != 1 || total(t, r, Filter{}, Minute).Requests != 0 {
			t.Fatalf("byte %d: told %d times", i, told)
		}
	}
	for n := range live {
		if _, _, _, err := parseLive(live[:n]); err == nil {
			t.Fatalf("cut off at %d", n)
		}
	}
	leave(t, c, m, nil) // a process between
	if v := total(t, leave(t, c, m, live), Filter{}, Minute); v.Requests != 0 {
		t.Errorf("of an older process: %+v", v)
	}
}

// Kills at random, with counts, flushes, folds and deletions between: what a
// copy had is there once.
func TestLiveWithKills(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	m, c := newMemory(), newClock()
	o := c.options(m)
	o.Retain = Retention{2 * time.Hour, 50 * time.Hour, 98 * time.Hour}
	r := open(t, o)
	want := int64(0)
	for range 3000 {
		switch rnd.IntN(6) {
		case 0, 1, 2:
			n := rnd.IntN(20)
			for i := range n {
				r.Record(c.at(), series(fmt.Sprint("t", i%3), rnd.IntN(5), "", Class2xx), Sample{})
			}
			want += int64(n)
		case 3:
			c.pass(time.Duration(rnd.IntN(90)) * time.Second)
		case 4:
			if m.failAfter(rnd.IntN(40)); rnd.IntN(2) == 0 {
				m.heal()
			}
			_ = r.Tick(t.Context())
			m.heal()
		case 5:
			o.Live = r.Live(nil)
			if rnd.IntN(3) == 0 {
				m.failAfter(rnd.IntN(40))
				_ = r.Flush(t.Context())
				m.heal()
			}
			r = open(t, o)
		}
	}
	for range 5 {
		check(t, r.Tick(t.Context()))
	}
	if got := total(t, r, Filter{}, Day).Requests; got != want {
		t.Errorf("%d requests, want %d", got, want)
	}
}

// A copy can be made while requests are counted.
func TestLiveWhileRecording(t *testing.T) {
	m, c := newMemory(), newClock()
	r := open(t, c.options(m))
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 5000 {
				r.Record(c.at(), series("acme", i%(10+w), "", Class2xx), Sample{})
			}
		})
	}
	for range 50 {
		r.Live(nil)
	}
	all.Wait()
	if v := total(t, leave(t, c, m, r.Live(nil)), Filter{}, Minute); v.Requests != 20_000 {
		t.Errorf("%+v", v)
	}
}

// BenchmarkLive is a copy of a minute of 10,000 series.
func BenchmarkLive(b *testing.B) {
	c := newClock()
	r := open(b, c.options(newMemory()))
	for i := range 10_000 {
		r.Record(c.at(), series(fmt.Sprint("tenant-", i%100), i, "route", Class2xx), Sample{Credits: 1e6, Duration: time.Millisecond})
	}
	var live []byte
	b.ReportAllocs()
	for b.Loop() {
		live = r.Live(live[:0])
	}
	b.ReportMetric(float64(len(live)), "bytes")
}
