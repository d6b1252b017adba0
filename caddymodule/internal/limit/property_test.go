package limit

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// model is the token bucket by the book: a level that rises with time up to
// the capacity, in big integers of nanoseconds worth of tokens.
type model struct {
	level, capacity, cost *big.Int
	last                  int64
}

func newModel(r access.Rate) *model {
	cost := new(big.Int).Div(big.NewInt(int64(r.Window)+int64(r.Requests)-1), big.NewInt(int64(r.Requests)))
	capacity := new(big.Int).Mul(cost, big.NewInt(int64(r.Burst)))
	return &model{level: new(big.Int).Set(capacity), capacity: capacity, cost: cost}
}

func (m *model) refill(now int64) {
	m.level.Add(m.level, big.NewInt(now-m.last))
	if m.last = now; m.level.Cmp(m.capacity) > 0 {
		m.level.Set(m.capacity)
	}
}

func (m *model) has() bool        { return m.level.Cmp(m.cost) >= 0 }
func (m *model) take()            { m.level.Sub(m.level, m.cost) }
func (m *model) remaining() int64 { return new(big.Int).Div(m.level, m.cost).Int64() }

func randomRate(rnd *rand.Rand) access.Rate {
	for {
		r := access.Rate{
			Requests: 1 + rnd.Uint32N(1<<rnd.UintN(20)),
			Burst:    1 + rnd.Uint32N(1<<rnd.UintN(8)),
			Window:   time.Millisecond + time.Duration(rnd.Int64N(1<<(20+rnd.UintN(34)))),
		}
		if r.Validate() == nil {
			return r
		}
	}
}

// TestModel compares random schedules of requests with one to three asks,
// over slots and table, with a model for each bucket.
func TestModel(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		l, c := newLimiter(1 << 10)
		var all []Ask
		var models []*model
		for i := range 1 + rnd.IntN(5) {
			a := Ask{Class: uint64(i), Rate: randomRate(rnd)}
			if rnd.IntN(2) == 0 {
				a.Slot = new(Slot)
			}
			all, models = append(all, a), append(models, newModel(a.Rate))
		}
		for range 400 {
			r := all[rnd.IntN(len(all))].Rate
			c.add(time.Duration(rnd.Int64N(int64(r.Interval()) * 2)))
			var asks []Ask
			var ms []*model
			for _, i := range rnd.Perm(len(all))[:1+rnd.IntN(min(3, len(all)))] {
				asks, ms = append(asks, all[i]), append(ms, models[i])
			}
			compare(t, seed, l, c.now(), asks, ms)
		}
	}
}

func compare(t *testing.T, seed uint64, l *Limiter, now int64, asks []Ask, ms []*model) {
	t.Helper()
	want := true
	for i, m := range ms {
		m.refill(now)
		want = want && m.has()
		if _, ok := l.Peek(now, asks[i]); ok != m.has() {
			t.Fatalf("seed %d: Peek(%d) = %v", seed, i, ok)
		}
	}
	got := l.Take(now, asks)
	if got.OK != want {
		t.Fatalf("seed %d: passed %v, want %v", seed, got.OK, want)
	}
	for _, m := range ms {
		if want {
			m.take()
		}
	}
	for i, st := range l.States(now, asks, nil) {
		reset := new(big.Int).Sub(ms[i].capacity, ms[i].level).Int64()
		if st.Remaining != ms[i].remaining() || int64(st.Reset) != reset {
			t.Fatalf("seed %d: %+v, want %d and %d", seed, st, ms[i].remaining(), reset)
		}
	}
	if m := ms[got.Index]; want && got.Remaining != m.remaining() || !want && m.has() {
		t.Fatalf("seed %d: tightest %+v", seed, got)
	}
	if got.OK {
		return
	}
	for i, st := range l.States(now+int64(got.Retry), asks, nil) {
		if st.Remaining == 0 {
			t.Fatalf("seed %d: ask %d would not pass after Retry", seed, i)
		}
	}
	if _, ok := l.Peek(now+int64(got.Retry)-1, asks[got.Index]); ok {
		t.Fatalf("seed %d: would pass before Retry", seed)
	}
}

// TestNeverOverAdmits holds every window of random schedules, with readings
// that go back and forth, against burst + floor(rate × t) in exact arithmetic.
// Tiny tables make subjects go through reclaiming and overflow all the time.
func TestNeverOverAdmits(t *testing.T) {
	for seed := range uint64(120) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		r := randomRate(rnd)
		subjects := 1 + rnd.IntN(40)
		l, c := newLimiter(1 << rnd.IntN(6))
		slot := new(Slot)
		passed := make([][]int64, subjects)
		for range 1500 {
			c.add(time.Duration(rnd.Int64N(int64(r.Interval()))))
			if rnd.IntN(200) == 0 {
				c.add(time.Duration(int64(r.Burst))*r.Interval() + 2*time.Second)
			}
			now := c.now()
			if rnd.IntN(3) == 0 {
				now = max(now-rnd.Int64N(3*int64(r.Interval())+1), 0)
			}
			i := rnd.IntN(subjects)
			asks := []Ask{{Class: 3, Subject: subject(i), Rate: r}}
			switch {
			case i == 0:
				asks[0].Slot = slot
			case rnd.IntN(4) == 0:
				asks = append(asks, Ask{Class: 4, Subject: subject(rnd.IntN(9)), Rate: rate(1000, 1000, time.Hour)})
			}
			if l.Take(now, asks).OK {
				passed[i] = append(passed[i], now)
			}
		}
		for i, times := range passed {
			checkWindows(t, seed, i, r, times)
		}
	}
}

// checkWindows looks at every window that starts and ends with an admission.
func checkWindows(t *testing.T, seed uint64, who int, r access.Rate, times []int64) {
	t.Helper()
	slices.Sort(times)
	for i, from := range times {
		for j, to := range times[i:] {
			gain := new(big.Int).Mul(big.NewInt(to-from), big.NewInt(int64(r.Requests)))
			gain.Div(gain, big.NewInt(int64(r.Window)))
			if n := int64(j + 1); n > int64(r.Burst)+gain.Int64() {
				t.Fatalf("seed %d: subject %d got %d in %d ns of %+v", seed, who, n, to-from, r)
			}
		}
	}
}
