package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// cell is a naive count's place.
type cell struct {
	minute uint32
	series Series
}

// model drives a Recorder and an Exporter at random, over a storage that fails,
// a process that dies and a machine that loses power at any change, and counts
// naively beside.
type model struct {
	t       *testing.T
	rnd     *rand.Rand
	clock   *clock
	high    time.Time // the latest the clock has shown
	store   *memory
	file    string // of the journal
	synced  []byte // what no power cut takes
	r       *Recorder
	e       *Exporter
	sink    *memorySink
	stored  map[string]Values // rows of minutes that were ever stored
	counted map[cell]*Values  // all there ever was
	risked  map[cell]*Values  // of these, what a power cut may take
	days    uint32            // days before it may be gone
	kills   int
	cuts    int
	lost    int64
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
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), clock: newClock(), store: newMemory(), file: filepath.Join(t.TempDir(), "j"),
		stored: map[string]Values{}, counted: map[cell]*Values{}, risked: map[cell]*Values{}}
	m.high = m.clock.Now()
	m.sink = &memorySink{map[string]Event{}, func() bool { return m.rnd.IntN(5) == 0 }, t}
	m.store.onPut = func(k, v []byte) {
		if k[0] != tagMinute {
			return
		}
		values, err := parseValues(k, v)
		check(t, err)
		if was, ok := m.stored[string(k)]; ok && was != values {
			t.Fatalf("row %x was %v and is %v", k, was, values)
		}
		m.stored[string(k)] = values
	}
	m.start()
	return m
}

// start begins an incarnation, which may fail a few times before.
func (m *model) start() {
	o := m.clock.options(m.store)
	o.Backlog, o.Retain, o.Journal = 1440, Retention{2 * time.Hour, 50 * time.Hour, 98 * time.Hour}, m.file
	o.OnError = func(err error) { m.t.Error(err) }
	for m.rnd.IntN(3) == 0 {
		m.store.failAfter(m.rnd.IntN(30))
		o.Rand = bytes.NewReader(make([]byte, 8))
		if r, err := Open(m.t.Context(), o); err == nil {
			check(m.t, r.journal.Close())
		} else if !errors.Is(err, errFault) {
			m.t.Fatal(err)
		}
	}
	m.store.heal()
	o.Rand = bytes.NewReader(make([]byte, 8))
	m.r = open(m.t, o)
	var err error
	m.e, err = NewExporter(m.t.Context(), ExportOptions{Name: "x", Recorder: m.r, Sink: m.sink, Source: "s", Batch: 1 + m.rnd.IntN(5)})
	check(m.t, err)
	m.sync()
}

// sync does what is done each second.
func (m *model) sync() {
	m.r.makeRoom(true)
	var err error
	m.synced, err = os.ReadFile(m.file)
	check(m.t, err)
	clear(m.risked)
}

// end is that of the process, or of the machine.
func (m *model) end() {
	now, err := os.ReadFile(m.file)
	check(m.t, err)
	power := m.rnd.IntN(2) == 0
	if power {
		for at := 4096; at < len(now); at += 4096 {
			if m.rnd.IntN(2) == 0 {
				clear(now[at : at+4096])
				if at < len(m.synced) {
					copy(now[at:at+4096], m.synced[at:])
				}
			}
		}
	}
	check(m.t, m.r.journal.Close())
	m.file = filepath.Join(m.t.TempDir(), "j")
	check(m.t, os.WriteFile(m.file, now, 0o600))
	risked := maps.Clone(m.risked)
	m.start()
	if power {
		m.cuts++
		m.lose(risked)
	} else {
		m.kills++
	}
}

// lose sees what a power cut took, which may be what was risked.
func (m *model) lose(risked map[cell]*Values) {
	pp, err := m.r.Query(m.t.Context(), Filter{}, start.Add(-2*time.Hour), m.high.Add(time.Hour), Minute, ByTenant|ByKey|ByRoute|ByClass|ByFlags)
	check(m.t, err)
	got := map[cell]*Values{}
	for _, p := range pp {
		sum(got, cell{uint32(p.Start.Unix() / 60), p.Series}, &p.Values)
	}
	for c, v := range risked {
		if c.minute < m.r.water.minute {
			continue // it was stored, and deleted since
		}
		is, all := got[c], m.counted[c]
		if is == nil {
			is = new(Values)
		}
		if is.Requests > all.Requests || is.Requests < all.Requests-v.Requests {
			m.t.Fatalf("after a power cut %v has %d requests of %d, of which %d were risked", c, is.Requests, all.Requests, v.Requests)
		}
		m.lost += all.Requests - is.Requests
		if m.counted[c] = is; is.Requests == 0 {
			delete(m.counted, c)
		}
	}
}

func (m *model) record() {
	s := Series{Tenant: []string{"", "a", "ab", "b"}[m.rnd.IntN(4)], Key: keyID(m.rnd.IntN(3)),
		Route: []string{"", "r", "r2"}[m.rnd.IntN(3)], Class: Class(1 + m.rnd.IntN(6)), Flags: Flags(m.rnd.IntN(4))}
	x := Sample{m.rnd.Int64N(1000) - 10, m.rnd.Int64N(1000), m.rnd.Int64N(1000), time.Duration(m.rnd.Int64N(int64(20 * time.Second)))}
	record(m.r, m.clock.at(), s, x)
	var v Values
	v.count(new(x.numbers()))
	sum(m.counted, cell{minuteOf(m.clock.at()), s}, &v)
	sum(m.risked, cell{minuteOf(m.clock.at()), s}, &v)
}

// step does one thing, with a fault in some.
func (m *model) step() {
	ctx := m.t.Context()
	if m.rnd.IntN(3) == 0 {
		m.store.failAfter(m.rnd.IntN(30))
	}
	var err error
	switch m.rnd.IntN(14) {
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
	case 12:
		m.sync()
	case 13:
		m.r.drain()
	}
	if now := m.clock.Now(); now.After(m.high) {
		m.high = now
	}
	m.days = max(m.days, before(m.high, 98*time.Hour)/1440)
	if err != nil && !errors.Is(err, errFault) {
		m.t.Fatal(err)
	}
	if m.store.heal(); m.rnd.IntN(15) == 0 || err != nil && m.rnd.IntN(3) == 0 {
		m.end()
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
	seeds, steps := uint64(10), 800
	if testing.Short() || raceEnabled {
		seeds = 3
	}
	kills, cuts, lost, trimmed, folded := 0, 0, int64(0), 0, 0
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
		kills, cuts, lost = kills+m.kills, cuts+m.cuts, lost+m.lost
		folded += m.store.count(tagDay)
		if m.r.water.hour > 0 {
			trimmed++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if kills == 0 || lost == 0 || trimmed == 0 || folded == 0 {
		t.Errorf("%d kills, %d lost, %d days, %d runs that deleted hours: the test tests nothing", kills, lost, folded, trimmed)
	}
	t.Logf("%d kills, %d power cuts that took %d requests, %d rows of days, hours deleted in %d of %d runs", kills, cuts, lost, folded, trimmed, seeds)
}

// events compares the events that arrived, repeats dropped, with what was counted.
func (m *model) events() {
	var requests, out int64
	for c, v := range m.counted {
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
