package usage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

func TestRecordDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, journaled := range []bool{false, true} {
		c := newClock()
		o := c.options(newMemory())
		if journaled {
			o = c.journaled(t, newMemory())
		}
		o.Series = 2
		r := open(t, o)
		known, other := series("a", 1, "route", Class2xx), series("b", 9, "route", Class2xx)
		record(r, c.at(), known, Sample{})
		record(r, c.at(), series("b", 2, "route", Class2xx), Sample{})
		for _, s := range []Series{known, other} {
			record(r, c.at(), s, Sample{})
			if n := testing.AllocsPerRun(1000, func() { record(r, start.Unix(), s, Sample{1, 2, 3, time.Second}) }); n != 0 {
				t.Errorf("%v: %v allocations", s, n)
			}
		}
	}
}

// A flush allocates little for each row, whatever their number.
func TestFlushAllocatesLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const rows = 5000
	c := newClock()
	o := c.journaled(t, newMemory())
	o.Storage = nowhere{}
	r := open(t, o)
	var all [rows]Series
	for i := range all {
		all[i] = series("acme", i, "route", Class2xx)
	}
	fill := func() {
		for i := range all {
			r.count(c.at(), &all[i], new(Sample{}.numbers()))
		}
	}
	with := testing.AllocsPerRun(5, func() { fill(); check(t, r.Flush(t.Context())) })
	if with > 2.1*rows { // the names of a new series are two
		t.Errorf("%v allocations", with)
	}
}

func benchRecorder(b *testing.B, n int) (*Recorder, []Series) {
	o := Options{Storage: newMemory(), Now: newClock().Now, Series: max(n, 1)}
	r := open(b, o)
	ss := make([]Series, n)
	for i := range ss {
		ss[i] = series(fmt.Sprint("tenant-", i%1000), i, "synthesize", Class2xx)
		record(r, start.Unix(), ss[i], Sample{})
	}
	return r, ss
}

func BenchmarkRecord(b *testing.B) {
	for _, n := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, ss := benchRecorder(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				record(r, start.Unix(), ss[i], Sample{1e6, 100, 1000, 20 * time.Millisecond})
				if i += 7919; i >= n {
					i %= n
				}
			}
		})
	}
}

// BenchmarkRecordJournal is what a request pays with a journal: one key, and
// others in random order. "all-ns" is the processor's time of the whole process
// for each, with what drains the journal.
func BenchmarkRecordJournal(b *testing.B) {
	for _, n := range []int{1, 10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchJournal(b, n) })
	}
}

func benchJournal(b *testing.B, n int) {
	o := newClock().journaled(b, newMemory())
	o.Storage = nowhere{}
	r := open(b, o)
	keys := make([]access.KeyID, n)
	for i := range keys {
		be.PutUint64(keys[i][:], uint64(i+1)*0x9e3779b97f4a7c15)
		be.PutUint64(keys[i][8:], uint64(i))
	}
	tenants := make([]string, 1000)
	for i := range tenants {
		tenants[i] = fmt.Sprint("tenant-", i)
	}
	rnd, at := rand.New(rand.NewPCG(1, 2)), start.Unix()
	const round = 7000             // fits into what is spare
	picks := make([]Series, round) // a request has looked at its key and tenant before
	var spent, whole time.Duration
	records := 0
	b.ReportAllocs()
	for b.Loop() {
		for i := range picks {
			k := rnd.IntN(n)
			picks[i] = Series{Tenant: strings.Clone(tenants[k%1000]), Key: keys[k], Route: "synthesize", Class: Class2xx}
		}
		before, begun := processTime(), time.Now()
		for i := range picks {
			record(r, at, picks[i], Sample{1e6, 100, 1000, 20 * time.Millisecond})
		}
		spent += time.Since(begun)
		r.makeRoom(false)
		if r.hurried.Load() {
			check(b, r.Flush(b.Context()))
			r.makeRoom(false)
		}
		whole += processTime() - before
		records += round
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(records), "request-ns")
	b.ReportMetric(float64(whole.Nanoseconds())/float64(records), "all-ns")
	b.ReportMetric(float64(r.missed.Load())/float64(records), "missed")
}

// BenchmarkRecordHotKey counts one series from all processors.
func BenchmarkRecordHotKey(b *testing.B) {
	r, ss := benchRecorder(b, 1)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			record(r, start.Unix(), ss[0], Sample{1e6, 100, 1000, 20 * time.Millisecond})
		}
	})
}

// BenchmarkRecordColdKeys counts a million keys in turn, within the default bound.
func BenchmarkRecordColdKeys(b *testing.B) {
	r := open(b, Options{Storage: newMemory(), Now: newClock().Now})
	tenants := make([]string, 1000)
	for i := range tenants {
		tenants[i] = fmt.Sprint("tenant-", i)
	}
	s := Series{Route: "synthesize", Class: Class2xx}
	b.ReportAllocs()
	i := uint64(0)
	for b.Loop() {
		i = (i + 7919) % 1_000_000
		s.Tenant = tenants[i%1000]
		be.PutUint64(s.Key[:], i*0x9e3779b97f4a7c15)
		be.PutUint64(s.Key[8:], i)
		record(r, start.Unix(), s, Sample{1e6, 100, 1000, 20 * time.Millisecond})
	}
}

// BenchmarkRecordBeyond counts keys that are beyond the bound.
func BenchmarkRecordBeyond(b *testing.B) {
	r, _ := benchRecorder(b, 1)
	s := series("other", 77, "synthesize", Class2xx)
	b.ReportAllocs()
	for b.Loop() {
		record(r, start.Unix(), s, Sample{1e6, 100, 1000, 20 * time.Millisecond})
	}
}

// nowhere is a Storage that forgets, to see what the rest costs.
type nowhere struct{}

func (nowhere) Update(_ context.Context, fn func(Writer) error) error { return fn(nowhere{}) }
func (nowhere) Put(k, v []byte) error                                 { return nil }
func (nowhere) Delete(k []byte) error                                 { return nil }
func (nowhere) Range(context.Context, []byte, []byte, func(k, v []byte) bool) error {
	return nil
}

// BenchmarkMinute counts 10,000 series once and flushes them.
func BenchmarkMinute(b *testing.B) {
	_, ss := benchRecorder(b, 10_000)
	r := open(b, Options{Storage: nowhere{}, Pause: -1})
	at := start.Unix()
	b.ReportAllocs()
	for b.Loop() {
		for i := range ss {
			record(r, at, ss[i], Sample{1e6, 100, 1000, 20 * time.Millisecond})
		}
		at += 60
		if err := r.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
