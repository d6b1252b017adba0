package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

var errFault = errors.New("made-up fault")

// memory is a Storage that can fail after any number of changes, with those
// before it made.
type memory struct {
	mu     sync.Mutex
	keys   []string // sorted
	values map[string][]byte
	faulty bool
	left   int               // changes until the fault
	onPut  func(k, v []byte) // sees what was made
}

func newMemory() *memory { return &memory{values: map[string][]byte{}} }

// failAfter makes the changes after the next n fail.
func (m *memory) failAfter(n int) { m.mu.Lock(); m.faulty, m.left = true, n; m.mu.Unlock() }
func (m *memory) heal()           { m.mu.Lock(); m.faulty = false; m.mu.Unlock() }

func (m *memory) Update(_ context.Context, fn func(Writer) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := fn(memoryWriter{m}); err != nil {
		return err
	}
	if m.faulty && m.left <= 0 {
		return errFault // done, but nobody knows
	}
	return nil
}

type memoryWriter struct{ m *memory }

func (w memoryWriter) spend() error {
	if !w.m.faulty {
		return nil
	}
	if w.m.left--; w.m.left < 0 {
		return errFault
	}
	return nil
}

func (w memoryWriter) Put(k, v []byte) error {
	if err := w.spend(); err != nil {
		return err
	}
	if w.m.onPut != nil {
		w.m.onPut(k, v)
	}
	if i, ok := slices.BinarySearch(w.m.keys, string(k)); !ok {
		w.m.keys = slices.Insert(w.m.keys, i, string(k))
	}
	w.m.values[string(k)] = bytes.Clone(v)
	return nil
}

func (w memoryWriter) Delete(k []byte) error {
	if err := w.spend(); err != nil {
		return err
	}
	if i, ok := slices.BinarySearch(w.m.keys, string(k)); ok {
		w.m.keys = slices.Delete(w.m.keys, i, i+1)
		delete(w.m.values, string(k))
	}
	return nil
}

func (m *memory) Range(_ context.Context, from, to []byte, yield func(k, v []byte) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, _ := slices.BinarySearch(m.keys, string(from))
	buf := []byte(nil)
	for ; i < len(m.keys) && m.keys[i] < string(to); i++ {
		buf = append(buf[:0], m.keys[i]...)
		more := yield(buf, m.values[m.keys[i]])
		clear(buf) // what was given is good no longer
		if !more {
			break
		}
	}
	return nil
}

// count returns how many keys begin with tag.
func (m *memory) count(tag byte) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.keys {
		if k[0] == tag {
			n++
		}
	}
	return n
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

// start is a midnight.
var start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func newClock() *clock                { return &clock{now: start} }
func (c *clock) Now() time.Time       { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) pass(d time.Duration) { c.mu.Lock(); c.now = c.now.Add(d); c.mu.Unlock() }
func (c *clock) set(t time.Time)      { c.mu.Lock(); c.now = t; c.mu.Unlock() }
func (c *clock) at() int64            { return c.Now().Unix() }
func (c *clock) options(m *memory) Options {
	return Options{Storage: m, Now: c.Now, Rand: bytes.NewReader(make([]byte, 8)), Pause: -1}
}

func open(t testing.TB, o Options) *Recorder {
	t.Helper()
	r, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func keyID(n int) (id access.KeyID) {
	copy(id[:], fmt.Sprintf("%016d", n*7919))
	return id
}

// Sample is what a request has besides its series.
type Sample struct {
	Credits, BytesIn, BytesOut int64
	Duration                   time.Duration
}

func (x Sample) numbers() [4]int64 {
	return [...]int64{Credits: x.Credits, BytesIn: x.BytesIn, BytesOut: x.BytesOut, Micros: int64(x.Duration / time.Microsecond)}
}

func record(r *Recorder, at int64, s Series, x Sample) {
	r.Record(&Request{
		Second: SecondOf(at), Class: uint8(s.Class), Flags: uint8(s.Flags), Key: s.Key, Tenant: s.Tenant, Route: s.Route,
		Numbers: x.numbers(),
	})
}

func series(tenant string, key int, route string, c Class) Series {
	return Series{Tenant: tenant, Key: keyID(key), Route: route, Class: c}
}

// total returns the sums of all there is of a step.
func total(t testing.TB, r *Recorder, f Filter, step Step) Values {
	t.Helper()
	pp, err := r.Query(t.Context(), f, start.Add(-24*time.Hour), start.Add(30*24*time.Hour), step, 0)
	check(t, err)
	var v Values
	for _, p := range pp {
		v.Add(&p.Values)
	}
	return v
}
