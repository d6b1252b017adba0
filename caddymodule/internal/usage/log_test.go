package usage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/journal"
	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

// journaled are options of a Recorder with a journal.
func (c *clock) journaled(t testing.TB, m *memory) Options {
	t.Helper()
	if !mapped.Supported {
		t.Skip("there is no journal here")
	}
	o := c.options(m)
	o.Journal = filepath.Join(t.TempDir(), "j")
	return o
}

// killed opens what a kill would leave now.
func killed(t testing.TB, r *Recorder, o Options) *Recorder {
	t.Helper()
	b, err := os.ReadFile(r.o.Journal)
	check(t, err)
	o.Journal = filepath.Join(t.TempDir(), "j")
	check(t, os.WriteFile(o.Journal, b, 0o600))
	return open(t, o)
}

// Whatever the last flush had done, and however often it was tried to open it
// again, what was counted is there once, and what was exported is of it.
func TestFlushCountsAsAWhole(t *testing.T) {
	const rows = 20
	for cut := range 3*rows + 15 { // changes that the last flush made
		m, c := newMemory(), newClock()
		o := c.journaled(t, m)
		o.OnError = func(err error) { t.Error(err) }
		r := open(t, o)
		record := func(n int) {
			for i := range rows {
				for range n {
					record(r, c.at(), series("acme", i, "", Class2xx), Sample{Credits: 7})
				}
			}
		}
		record(1)
		check(t, r.Flush(t.Context()))
		record(2)
		c.pass(time.Minute)
		record(3)
		m.failAfter(cut)
		_ = r.Flush(t.Context())
		m.heal()
		sink := &memorySink{map[string]Event{}, func() bool { return false }, t}
		export := func(r *Recorder) (requests int64) {
			e, err := NewExporter(t.Context(), ExportOptions{Name: "x", Recorder: r, Sink: sink, Source: "s"})
			check(t, err)
			for more := true; more; {
				more, err = e.Send(t.Context())
				check(t, err)
			}
			for _, e := range sink.got {
				requests += e.Data.Requests
			}
			return requests
		}
		export(r)
		m.failAfter(cut / 2) // a kill during the opening
		if _, err := Open(t.Context(), func() Options { o := o; o.Journal += "2"; return o }()); err != nil && !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		m.heal()
		for range 2 {
			r = killed(t, r, o)
			if v := total(t, r, Filter{}, Minute); v.Requests != 6*rows || v.Credits != 7*6*rows {
				t.Fatalf("after %d changes: %+v", cut, v)
			}
			if n := export(r); n != 6*rows {
				t.Fatalf("after %d changes: %d requests were exported", cut, n)
			}
		}
	}
}

// A storage that was put back to an older state gets what the journal has and
// it does not.
func TestOlderStorage(t *testing.T) {
	m, c := newMemory(), newClock()
	o := c.journaled(t, m)
	r := open(t, o)
	record(r, c.at(), series("a", 1, "", Class2xx), Sample{})
	check(t, r.Flush(t.Context()))
	older := newMemory()
	for k, v := range m.values {
		check(t, memoryWriter{older}.Put([]byte(k), v))
	}
	record(r, c.at(), series("a", 2, "", Class2xx), Sample{})
	check(t, r.Flush(t.Context()))
	record(r, c.at(), series("a", 3, "", Class2xx), Sample{})
	o.Storage = older
	if v := total(t, killed(t, r, o), Filter{}, Minute); v.Requests != 3 {
		t.Errorf("%d requests, want 3", v.Requests)
	}
	o.Storage = newMemory()
	told := 0
	o.OnError = func(err error) { told++ }
	o.Rand = strings.NewReader("another!")
	if v := total(t, killed(t, r, o), Filter{}, Minute); v.Requests != 0 || told != 1 {
		t.Errorf("another storage: %d requests, told %d times", v.Requests, told)
	}
}

// A journal that is full while the storage is down costs no request; the one or
// the other is told, and what was in the journal outlives a kill.
func TestJournalFull(t *testing.T) {
	m, c := newMemory(), newClock()
	o := c.journaled(t, m)
	o.segments = 8
	var told []string
	o.OnError = func(err error) { told = append(told, err.Error()) }
	r := open(t, o)
	m.failAfter(0)
	const requests = 20_000
	for i := range requests {
		record(r, c.at(), series("a", i%10, "", Class2xx), Sample{Credits: 1})
		if i%500 == 0 {
			r.makeRoom(false)
		}
	}
	r.makeRoom(true)
	r.makeRoom(true)
	missed := r.missed.Load()
	if len(told) != 1 || !strings.Contains(told[0], "no room in the journal") || missed == 0 || missed == requests {
		t.Errorf("%d missed, told %q", missed, told)
	}
	select {
	case <-r.hurry:
	default:
		t.Error("nobody hurries")
	}
	if v := total(t, r, Filter{}, Minute); v.Requests != requests {
		t.Errorf("%d requests", v.Requests)
	}
	if err := r.Flush(t.Context()); !errors.Is(err, errFault) {
		t.Error(err)
	}
	m.heal()
	if v := total(t, killed(t, r, o), Filter{}, Minute); v.Requests != requests-missed {
		t.Errorf("%d requests after a kill, want %d", v.Requests, requests-missed)
	}
}

// What comes after Close is kept by another one.
func TestRecordAfterClose(t *testing.T) {
	m, c := newMemory(), newClock()
	o := c.journaled(t, m)
	r := open(t, o)
	for range 2 {
		record(r, c.at(), series("a", 1, "", Class2xx), Sample{})
		check(t, r.Close(t.Context()))
	}
	if v := total(t, open(t, o), Filter{}, Minute); v.Requests != 2 {
		t.Errorf("%d requests, one of them after Close", v.Requests)
	}
}

// Close with a storage that is down loses nothing.
func TestCloseWhileTheStorageIsDown(t *testing.T) {
	m, c := newMemory(), newClock()
	o := c.journaled(t, m)
	for again := range 2 {
		r := open(t, o)
		for i := range 100 {
			record(r, c.at(), series("a", i, "", Class2xx), Sample{})
		}
		m.failAfter(50)
		if err := r.Close(t.Context()); !errors.Is(err, errFault) {
			t.Error(err)
		}
		m.heal()
		if again == 1 {
			check(t, r.Close(t.Context()))
		}
	}
	if v := total(t, open(t, o), Filter{}, Minute); v.Requests != 200 {
		t.Errorf("%d requests, want 200", v.Requests)
	}
}

// All at once: requests, the background, flushes, queries and exports.
func TestConcurrentJournal(t *testing.T) {
	const workers, each = 4, 30_000
	m, c := newMemory(), newClock()
	o := c.journaled(t, m)
	o.segments = 16
	r := open(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	ticks := make(chan time.Time)
	var side, all sync.WaitGroup
	side.Go(func() { r.Run(ctx, ticks) })
	var left atomic.Int32
	left.Store(workers)
	for w := range workers {
		all.Go(func() {
			defer left.Add(-1)
			for i := range each {
				record(r, c.at(), series("a", i%(1+w%3*100), "r", Class2xx), Sample{Credits: 3})
			}
		})
	}
	last := int64(0)
	for left.Load() > 0 {
		c.pass(20 * time.Second)
		select {
		case ticks <- c.Now():
		default:
		}
		if v := total(t, r, Filter{}, Hour); v.Requests < last {
			t.Errorf("%d requests after %d", v.Requests, last)
		} else {
			last = v.Requests
		}
	}
	all.Wait()
	if v := total(t, r, Filter{}, Hour); v.Requests != workers*each {
		t.Errorf("%d requests of %d", v.Requests, workers*each)
	}
	cancel()
	side.Wait()
	check(t, r.Close(t.Context()))
	if v := total(t, open(t, o), Filter{}, Hour); v.Requests != workers*each || v.Credits != 3*workers*each {
		t.Errorf("%d requests of %d are stored", v.Requests, workers*each)
	}
	t.Logf("%d had no room", r.missed.Load())
}

// A request is counted in its own minute, whatever was counted before it.
func TestMinutesOfLateRequests(t *testing.T) {
	c, m := newClock(), newMemory()
	r := open(t, c.journaled(t, m))
	for i := range 400 {
		record(r, c.Now().Add(time.Duration(i%4)*time.Minute).Unix(), series("a", i%7, "", Class2xx), Sample{})
	}
	pp, err := r.Query(t.Context(), Filter{}, start, start.Add(time.Hour), Minute, 0)
	check(t, err)
	for _, p := range pp {
		if p.Requests != 100 {
			t.Errorf("%s has %d requests", p.Start, p.Requests)
		}
	}
	if len(pp) != 4 {
		t.Errorf("%d minutes", len(pp))
	}
}

// A flush rests between its updates until it is told to stop, and goes on where
// all that is there is counted.
func TestFlushRests(t *testing.T) {
	m, c := newMemory(), newClock()
	o := c.journaled(t, m)
	o.Pause = time.Hour
	r := open(t, o)
	for i := range 3 * pacedChanges {
		record(r, c.at(), series("a", i, "", Class2xx), Sample{})
	}
	ctx, cancel := context.WithCancel(t.Context())
	put := make(chan struct{}, 1)
	m.onPut = func(k, _ []byte) {
		select {
		case put <- struct{}{}:
		default:
		}
	}
	ended := make(chan error)
	go func() { ended <- r.Flush(ctx) }()
	<-put
	if v := total(t, r, Filter{}, Minute); v.Requests != 3*pacedChanges { // a flush that rests keeps nobody waiting
		t.Errorf("%d requests", v.Requests)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := m.count(tagMinute); n > pacedChanges {
		t.Errorf("%d rows were written without a rest", n)
	}
	check(t, r.Close(t.Context()))
	if n := m.count(tagMinute); n != 3*pacedChanges {
		t.Errorf("%d rows", n)
	}
}

// What says how far the storage is has its form, or the storage is damaged.
func TestPositionDamaged(t *testing.T) {
	m, c := newMemory(), newClock()
	open(t, c.options(m))
	for _, v := range []string{"", "1234567", "123456789"} {
		check(t, m.Update(t.Context(), func(w Writer) error { return w.Put([]byte{tagPosition}, []byte(v)) }))
		if _, err := Open(t.Context(), c.options(m)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", v, err)
		}
	}
	d := done{batchID{1, 2}, journal.Position{Highest: 7, Open: []journal.Mark{{Sequence: 7, Slot: 3}}}}
	check(t, apply(t.Context(), m, []change{d.change()}))
	r := open(t, c.options(m))
	if fmt.Sprint(r.position) != fmt.Sprint(d.position) {
		t.Errorf("%+v became %+v", d.position, r.position)
	}
}
