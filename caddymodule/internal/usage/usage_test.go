package usage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Beyond the bound rows become others, first of the tenant, then of nobody, and
// the sums stay.
func TestBoundOfAMinute(t *testing.T) {
	c, m := newClock(), newMemory()
	o := c.options(m)
	o.Series = 10
	r := open(t, o)
	for i := range 1000 {
		record(r, c.at(), series(fmt.Sprint("t", i%50), i, "r", Class2xx), Sample{Credits: 1})
	}
	rows := 0
	for i := range r.shards {
		if l := r.shards[i].live; l != nil {
			rows += len(l.rows)
		}
	}
	if rows > 20+shards {
		t.Errorf("%d rows in memory", rows)
	}
	check(t, r.Flush(t.Context()))
	if n := m.count(tagMinute); n > 21 || n < 20 {
		t.Errorf("%d rows stored, want 10 series, 10 others and nobody", n)
	}
	c.pass(26 * time.Hour)
	check(t, r.Tick(t.Context()))
	for _, step := range []Step{Hour, Day} {
		if v := total(t, r, Filter{}, step); v.Requests != 1000 || v.Credits != 1000 {
			t.Errorf("by %s: %d requests, %d credits", step, v.Requests, v.Credits)
		}
	}
	if v := total(t, r, Filter{Tenant: OtherTenant, Key: OtherKey}, Hour); v.Requests == 0 {
		t.Error("nobody has nothing")
	}
	if v := total(t, r, Filter{Key: OtherKey}, Hour); v.Requests != 990 {
		t.Errorf("others have %d requests, want all but those of 10 series", v.Requests)
	}
}

// A minute later there is room for others again, also after a flush.
func TestBoundBeginsAnew(t *testing.T) {
	c, m := newClock(), newMemory()
	o := c.options(m)
	o.Series = 2
	r := open(t, o)
	for i := range 4 {
		record(r, c.at(), series("a", 10*i, "", Class2xx), Sample{})
		record(r, c.at(), series("a", 10*i+1, "", Class2xx), Sample{})
		if i%2 == 0 {
			c.pass(2 * time.Minute)
		} else {
			check(t, r.Flush(t.Context()))
		}
	}
	if v := total(t, r, Filter{Key: OtherKey}, Hour); v.Requests != 0 {
		t.Errorf("others have %d requests", v.Requests)
	}
}

// An hour that was folded within its bound, and then gets earlier rows, keeps
// other series than before: what it had is not counted twice.
func TestFoldAgainWithOtherRows(t *testing.T) {
	c, m := newClock(), newMemory()
	o := c.options(m)
	o.Series = 1 // an hour has 2
	r := open(t, o)
	minute := func(n, key int) {
		record(r, c.Now().Add(time.Duration(n)*time.Minute).Unix(), series("a", key, "", Class2xx), Sample{})
		check(t, r.Flush(t.Context()))
	}
	minute(30, 1)
	minute(40, 2)
	minute(50, 3)
	c.pass(25 * time.Hour)
	check(t, r.Tick(t.Context()))
	if v := total(t, r, Filter{Key: keyID(2)}, Day); v.Requests != 1 {
		t.Fatalf("key 2 has %d requests", v.Requests)
	}
	c.pass(-25 * time.Hour)
	minute(10, 4)
	minute(20, 5)
	c.pass(25 * time.Hour)
	check(t, r.Tick(t.Context()))
	for _, step := range []Step{Hour, Day} {
		all, two, other := total(t, r, Filter{}, step), total(t, r, Filter{Key: keyID(2)}, step), total(t, r, Filter{Key: OtherKey}, step)
		if all.Requests != 5 || two.Requests != 0 || other.Requests != 3 {
			t.Errorf("by %s: %d, %d of key 2, %d of others; want 5, 0, 3", step, all.Requests, two.Requests, other.Requests)
		}
	}
}

// What comes for a time whose minutes are gone is counted in the oldest minute.
func TestLateForDeletedMinutes(t *testing.T) {
	c, m := newClock(), newMemory()
	r := open(t, c.options(m))
	record(r, c.at(), series("a", 1, "", Class2xx), Sample{})
	c.pass(72 * time.Hour)
	check(t, r.Tick(t.Context()))
	if m.count(tagMinute) != 0 {
		t.Fatal("minutes are kept")
	}
	record(r, start.Unix(), series("a", 1, "", Class2xx), Sample{})
	for range 2 {
		if v := total(t, r, Filter{}, Hour); v.Requests != 2 {
			t.Errorf("%d requests, want 2", v.Requests)
		}
		check(t, r.Tick(t.Context()))
	}
	r = open(t, c.options(m))
	if v := total(t, r, Filter{}, Day); v.Requests != 2 {
		t.Errorf("%d requests after a restart, want 2", v.Requests)
	}
}

// While the storage fails memory is bounded and nothing is lost.
func TestBacklog(t *testing.T) {
	c, m := newClock(), newMemory()
	o := c.options(m)
	o.Backlog = 3
	r := open(t, o)
	m.failAfter(0)
	for i := range 100 {
		record(r, c.at(), series("a", 1, "", Class2xx), Sample{})
		if err := r.Flush(t.Context()); i < 50 && !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		c.pass(time.Minute)
	}
	tables := 0
	for i := range r.shards {
		tables += len(r.shards[i].sealed)
	}
	if r.Waiting() > 4 || tables > 3 {
		t.Errorf("%d batches and %d tables wait", r.Waiting(), tables)
	}
	if v := total(t, r, Filter{}, Hour); v.Requests != 100 {
		t.Errorf("%d requests, want 100", v.Requests)
	}
	m.heal()
	check(t, r.Flush(t.Context()))
	check(t, r.Flush(t.Context()))
	if v := total(t, open(t, o), Filter{}, Hour); v.Requests != 100 {
		t.Errorf("%d requests stored, want 100", v.Requests)
	}
}

func TestConcurrent(t *testing.T) {
	const workers, each = 8, 5000
	c, m := newClock(), newMemory()
	r := open(t, c.options(m))
	var wg sync.WaitGroup
	var done atomic.Bool
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				record(r, c.at(), series("a", i%(1+w%3*100), "r", Class2xx), Sample{Credits: 3})
			}
		})
	}
	var side sync.WaitGroup
	side.Go(func() {
		for !done.Load() {
			c.pass(20 * time.Second)
			if err := r.Tick(context.Background()); err != nil {
				t.Error(err)
			}
			if _, err := r.Query(context.Background(), Filter{Tenant: "a"}, start, start.Add(48*time.Hour), Hour, ByKey); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	done.Store(true)
	side.Wait()
	check(t, r.Close(t.Context()))
	pp, err := r.Query(t.Context(), Filter{}, start, c.Now().Add(time.Hour), Day, 0)
	check(t, err)
	var v Values
	for _, p := range pp {
		v.Add(&p.Values)
	}
	if v.Requests != workers*each || v.Credits != 3*workers*each {
		t.Errorf("%d requests, %d credits", v.Requests, v.Credits)
	}
}

func TestQueryGroupsAndBounds(t *testing.T) {
	c, m := newClock(), newMemory()
	r := open(t, c.options(m))
	for i := range 60 {
		s := series([]string{"a", "b"}[i%2], i%3, []string{"x", "y"}[i%2], Class(2+i%3))
		record(r, c.at(), s, Sample{Credits: 1, Duration: time.Second})
		c.pass(time.Minute)
		if i%5 == 0 {
			check(t, r.Flush(t.Context()))
		}
	}
	tests := []struct {
		by   Group
		f    Filter
		step Step
		want int
	}{
		{0, Filter{}, Hour, 1}, {0, Filter{}, Minute, 60}, {ByTenant, Filter{}, Hour, 2}, {ByKey, Filter{}, Hour, 3},
		{ByTenant | ByKey, Filter{}, Day, 6}, {ByRoute, Filter{Tenant: "a"}, Hour, 1}, {ByClass, Filter{Route: "x"}, Hour, 3},
		{ByClass, Filter{Class: Class3xx}, Minute, 20}, {ByFlags, Filter{}, Hour, 1}, {0, Filter{Tenant: "c"}, Hour, 0},
	}
	for _, tt := range tests {
		pp, err := r.Query(t.Context(), tt.f, start, start.Add(time.Hour), tt.step, tt.by)
		check(t, err)
		if len(pp) != tt.want {
			t.Errorf("%v: %d points, want %d", tt, len(pp), tt.want)
		}
	}
	if _, err := r.Query(t.Context(), Filter{}, time.Unix(0, 0), start, Minute, 0); !errors.Is(err, ErrTooMuch) {
		t.Error(err)
	}
	if _, err := r.Query(t.Context(), Filter{}, start, start.Add(time.Hour), 9, 0); err == nil {
		t.Error("there is no step 9")
	}
	for _, d := range []time.Duration{0, -time.Hour} {
		if pp, err := r.Query(t.Context(), Filter{}, start, start.Add(d), Hour, 0); err != nil || len(pp) != 0 {
			t.Error(pp, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check(t, r.Flush(t.Context()))
	if err := r.Fold(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	m := newMemory()
	for name, o := range map[string]Options{
		"no storage": {}, "series": {Storage: m, Series: -1}, "backlog": {Storage: m, Backlog: 1441},
		"minutes": {Storage: m, Retain: Retention{Minute: time.Hour}}, "hours": {Storage: m, Retain: Retention{Hour: 72 * time.Hour}},
		"days": {Storage: m, Retain: Retention{Day: 90 * 24 * time.Hour}},
	} {
		if _, err := Open(t.Context(), o); err == nil || !strings.HasPrefix(err.Error(), "usage: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, k := range []string{"i", "Hx", "wm"} {
		m := newMemory()
		check(t, m.Update(t.Context(), func(w Writer) error { return w.Put([]byte(k), []byte("x")) }))
		if _, err := Open(t.Context(), Options{Storage: m}); !errors.Is(err, ErrDamaged) {
			t.Errorf("key %q: %v", k, err)
		}
	}
}

// Incarnations never repeat, whatever the clock.
func TestIncarnations(t *testing.T) {
	c, m := newClock(), newMemory()
	last := uint32(0)
	for _, d := range []time.Duration{0, 0, time.Hour, -48 * time.Hour, time.Second} {
		c.pass(d)
		r := open(t, c.options(m))
		if r.last.incarnation <= last {
			t.Errorf("incarnation %d after %d", r.last.incarnation, last)
		}
		last = r.last.incarnation
	}
}

func TestRun(t *testing.T) {
	c, m := newClock(), newMemory()
	o := c.options(m)
	errs := make(chan error, 1)
	o.OnError = func(err error) { errs <- err }
	r := open(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	ticks, ended := make(chan time.Time), make(chan struct{})
	go func() { defer close(ended); r.Run(ctx, ticks) }()
	record(r, c.at(), series("a", 1, "", Class2xx), Sample{})
	m.failAfter(0)
	ticks <- c.Now()
	if err := <-errs; !errors.Is(err, errFault) {
		t.Error(err)
	}
	m.heal()
	ticks <- c.Now()
	ticks <- c.Now() // so the one before is through
	cancel()
	<-ended
	if m.count(tagMinute) != 1 {
		t.Error("nothing was flushed")
	}
}

func TestSumsDoNotWrap(t *testing.T) {
	for _, tt := range []struct{ a, b, want int64 }{
		{1, 2, 3}, {0, 0, 0}, {-1, 1, 0}, {5, -7, -2}, {math.MaxInt64, 0, math.MaxInt64}, {math.MinInt64, 0, math.MinInt64},
		{math.MaxInt64, 1, math.MaxInt64}, {math.MaxInt64, math.MaxInt64, math.MaxInt64}, {math.MinInt64, -1, math.MinInt64},
		{math.MinInt64, math.MaxInt64, -1}, {0, math.MinInt64, math.MinInt64},
	} {
		if got := add(tt.a, tt.b); got != tt.want {
			t.Errorf("%d+%d = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
	var v Values
	v.count(new(Sample{BytesIn: -5, BytesOut: -5, Duration: -time.Second}.numbers()))
	if v != (Values{Requests: 1, Latency: Latency{1}}) {
		t.Errorf("%v: what is below 0 counts as 0", v)
	}
}

func TestQuantile(t *testing.T) {
	v := Values{Latency: Latency{0: 50, 4: 45, 11: 5}}
	for q, want := range map[float64]time.Duration{0: 5 * time.Millisecond, .5: 5 * time.Millisecond, .51: 100 * time.Millisecond, .95: 100 * time.Millisecond, .96: -1, 1: -1} {
		if got := v.Quantile(q); got != want {
			t.Errorf("%v: %s, want %s", q, got, want)
		}
	}
	if new(Values).Quantile(.5) != 0 || new(Values).Mean() != 0 {
		t.Error("nothing takes time")
	}
}

func FuzzRow(f *testing.F) {
	s := series("acme", 3, "route", Class4xx)
	v := Values{1, -2, 3, 4, 5, Latency{3: 7, 11: math.MaxInt64}}
	f.Add(appendSeries([]byte("mAAAABBBBCCCC"), &s), appendValues(nil, &v))
	f.Fuzz(func(t *testing.T, k, b []byte) {
		if s, err := parseSeries(k, minuteHead); err == nil {
			if got := string(appendSeries(k[:minuteHead:minuteHead], &s)); got != string(k) {
				t.Errorf("series %q became %q", k, got)
			}
		}
		if v, err := parseValues(k, b); err == nil {
			if w, err := parseValues(k, appendValues(nil, &v)); err != nil || w != v {
				t.Errorf("values %v became %v, %v", v, w, err)
			}
		}
		parseCursor(b)
		if len(k) > 0 {
			parseSubject(k)
		}
	})
}
