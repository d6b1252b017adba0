package usage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// cell is a naive count's place.
type cell struct {
	minute uint32
	series Series
}

// model drives a Recorder and an Exporter at random, over a storage that fails
// and a process that dies at any change, and counts naively beside.
type model struct {
	t       *testing.T
	rnd     *rand.Rand
	clock   *clock
	high    time.Time // the latest the clock has shown
	store   *memory
	r       *Recorder
	e       *Exporter
	sink    *memorySink
	stored  map[string]Values // rows of minutes that were ever stored
	durable map[cell]*Values  // their sums
	counted map[cell]*Values  // and what this incarnation did not store yet
	days    uint32            // days before it may be gone
	crashes int
}

type memorySink struct {
	got  map[string]Event
	fail func() bool
	t    *testing.T
}

func (s *memorySink) Send(_ context.Context, events []Event) error {
	if s.fail() {
		return errFault // nothing came
	}
	for _, e := range events {
		if was, ok := s.got[e.ID]; ok && was != e {
			s.t.Fatalf("event %s was %v and is %v", e.ID, was, e)
		}
		s.got[e.ID] = e
	}
	if s.fail() {
		return errFault // it came, but nobody knows
	}
	return nil
}

func sum(m map[cell]*Values, c cell, v *Values) {
	if m[c] == nil {
		m[c] = new(Values)
	}
	m[c].Add(v)
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), clock: newClock(), store: newMemory(),
		stored: map[string]Values{}, durable: map[cell]*Values{}, counted: map[cell]*Values{}}
	m.high = m.clock.Now()
	m.sink = &memorySink{map[string]Event{}, func() bool { return m.rnd.IntN(5) == 0 }, t}
	m.store.onPut = func(k, v []byte) {
		if k[0] != tagMinute {
			return
		}
		values, err := parseValues(k, v)
		if was, ok := m.stored[string(k)]; ok {
			if was != values {
				t.Fatalf("row %x was %v and is %v", k, was, values)
			}
			return
		}
		s, err2 := parseSeries(k, minuteHead)
		check(t, errors.Join(err, err2))
		m.stored[string(k)] = values
		minute, _ := parseMinuteKey(k)
		sum(m.durable, cell{minute, s}, &values)
	}
	m.start()
	return m
}

// start begins an incarnation: what was not stored is forgotten.
func (m *model) start() {
	m.store.heal()
	o := m.clock.options(m.store)
	o.Backlog, o.Retain = 1440, Retention{2 * time.Hour, 50 * time.Hour, 98 * time.Hour}
	m.r = open(m.t, o)
	clear(m.counted)
	for c, v := range m.durable {
		sum(m.counted, c, v)
	}
	var err error
	m.e, err = NewExporter(m.t.Context(), ExportOptions{Name: "x", Recorder: m.r, Sink: m.sink, Source: "s", Batch: 1 + m.rnd.IntN(5)})
	check(m.t, err)
}

func (m *model) record() {
	s := Series{Tenant: []string{"", "a", "ab", "b"}[m.rnd.IntN(4)], Key: keyID(m.rnd.IntN(3)),
		Route: []string{"", "r", "r2"}[m.rnd.IntN(3)], Class: Class(1 + m.rnd.IntN(6)), Flags: Flags(m.rnd.IntN(4))}
	x := Sample{m.rnd.Int64N(1000) - 10, m.rnd.Int64N(1000), m.rnd.Int64N(1000), time.Duration(m.rnd.Int64N(int64(20 * time.Second)))}
	m.r.Record(m.clock.at(), s, x)
	var v Values
	v.count(&x)
	sum(m.counted, cell{minuteOf(m.clock.at()), s}, &v)
}

// step does one thing, with a fault in some.
func (m *model) step() {
	ctx := m.t.Context()
	if m.rnd.IntN(3) == 0 {
		m.store.failAfter(m.rnd.IntN(30))
	}
	var err error
	switch m.rnd.IntN(12) {
	case 0, 1, 2, 3:
		for range m.rnd.IntN(10) {
			m.record()
		}
	case 4:
		m.clock.pass(time.Duration(m.rnd.Int64N(int64(5 * time.Minute))))
	case 5:
		m.clock.pass(time.Duration(m.rnd.Int64N(int64(8 * time.Hour))))
	case 6:
		if to := m.clock.Now().Add(-time.Duration(m.rnd.Int64N(int64(80 * time.Minute)))); to.After(m.high.Add(-90 * time.Minute)) {
			m.clock.set(to)
			_ = m.r.Flush(ctx) // so that no table is a minute ahead
		}
	case 7, 8:
		err = m.r.Flush(ctx)
	case 9:
		err = m.r.Fold(ctx)
	case 10:
		_, err = m.e.Send(ctx)
	case 11:
		left, faulty := m.store.left, m.store.faulty
		m.drain()
		m.store.left, m.store.faulty = left, faulty
		for range m.rnd.IntN(20) {
			err = errors.Join(err, m.r.Trim(ctx))
		}
	}
	if now := m.clock.Now(); now.After(m.high) {
		m.high = now
	}
	m.days = max(m.days, before(m.high, 98*time.Hour)/1440)
	if err != nil && !errors.Is(err, errFault) {
		m.t.Fatal(err)
	}
	if m.store.heal(); m.rnd.IntN(15) == 0 || err != nil && m.rnd.IntN(3) == 0 {
		m.crashes++
		m.start()
	}
}

// drain exports all there is.
func (m *model) drain() {
	m.store.heal()
	for {
		more, err := m.e.Send(m.t.Context())
		if err == nil && !more {
			return
		}
		if err != nil && !errors.Is(err, errFault) {
			m.t.Fatal(err)
		}
	}
}

// compare looks at each step: what is below the water of a level is not there.
func (m *model) compare(step Step) {
	unit := uint32(step.Duration() / time.Minute)
	least := map[Step]uint32{Minute: m.r.water.minute, Hour: m.r.water.hour, Day: m.days}[step]
	want := map[cell]*Values{}
	for c, v := range m.counted {
		if c.minute/unit >= least {
			sum(want, cell{c.minute / unit, c.series}, v)
		}
	}
	pp, err := m.r.Query(m.t.Context(), Filter{}, start.Add(-2*time.Hour), m.high.Add(time.Hour), step, ByTenant|ByKey|ByRoute|ByClass|ByFlags)
	check(m.t, err)
	got := map[cell]*Values{}
	for _, p := range pp {
		if u := uint32(p.Start.Unix()/60) / unit; u >= least {
			sum(got, cell{u, p.Series}, &p.Values)
		}
	}
	equal := func(a, b *Values) bool { return *a == *b }
	if !maps.EqualFunc(got, want, equal) {
		m.t.Fatalf("by %s: %s", step, difference(got, want))
	}
	f := Filter{Tenant: "a", Key: keyID(1)} // takes another way through the storage
	pp, err = m.r.Query(m.t.Context(), f, start.Add(-2*time.Hour), m.high.Add(time.Hour), step, 0)
	check(m.t, err)
	var a, b Values
	for i := range pp {
		if uint32(pp[i].Start.Unix()/60)/unit >= least {
			a.Add(&pp[i].Values)
		}
	}
	for c, v := range want {
		if f.match(&c.series) {
			b.Add(v)
		}
	}
	if a != b {
		m.t.Fatalf("by %s of one key: %v, want %v", step, a, b)
	}
}

func difference(got, want map[cell]*Values) string {
	for c, v := range want {
		if got[c] == nil || *got[c] != *v {
			return fmt.Sprintf("%v: %v, want %v", c, got[c], v)
		}
	}
	for c, v := range got {
		if want[c] == nil {
			return fmt.Sprintf("%v: %v, want nothing", c, v)
		}
	}
	return "equal"
}

func TestModel(t *testing.T) {
	seeds, steps := uint64(40), 800
	if testing.Short() || raceEnabled {
		seeds = 5
	}
	crashes, trimmed, folded := 0, 0, 0
	for seed := range seeds {
		m := newModel(t, seed)
		for i := range steps {
			m.step()
			if i%7 == 0 {
				m.compare(Step(1 + m.rnd.IntN(3)))
			}
		}
		check(t, m.r.Close(t.Context()))
		m.drain()
		m.events()
		crashes += m.crashes
		folded += m.store.count(tagDay)
		if m.r.water.hour > 0 {
			trimmed++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if crashes == 0 || trimmed == 0 || folded == 0 {
		t.Errorf("%d crashes, %d days, %d runs that deleted hours: the test tests nothing", crashes, folded, trimmed)
	}
	t.Logf("%d crashes, %d rows of days, hours deleted in %d of %d runs", crashes, folded, trimmed, seeds)
}

// events compares the events that arrived, repeats dropped, with what was stored.
func (m *model) events() {
	var requests, out int64
	for c, v := range m.durable {
		if c.series.Tenant != "" {
			requests += v.Requests
			out += v.BytesOut
		}
	}
	for _, e := range m.sink.got {
		requests -= e.Data.Requests
		out -= e.Data.BytesOut
	}
	if requests != 0 || out != 0 {
		m.t.Errorf("events lack %d requests and %d bytes", requests, out)
	}
}
