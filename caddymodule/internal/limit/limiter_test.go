package limit

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// clock is a fake monotonic clock that goroutines share.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() int64          { return c.ns.Load() }
func (c *clock) add(d time.Duration) { c.ns.Add(int64(d)) }

func newLimiter(capacity int) (*Limiter, *clock) {
	c := new(clock)
	return New(Options{Capacity: capacity, Now: c.now}), c
}

func rate(requests, burst uint32, window time.Duration) access.Rate {
	return access.Rate{Requests: requests, Burst: burst, Window: window}
}

func subject(n int) Subject {
	return Subject{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
}

// places runs f with an ask for each kind of bucket.
func places(t *testing.T, r access.Rate, f func(t *testing.T, l *Limiter, c *clock, asks []Ask)) {
	for _, name := range []string{"slot", "table", "slot among others"} {
		t.Run(name, func(t *testing.T) {
			l, c := newLimiter(1 << 10)
			asks := []Ask{{Class: 1, Subject: subject(1), Rate: r}}
			if name != "table" {
				asks[0].Slot = new(Slot)
			}
			if name == "slot among others" {
				asks = append(asks, Ask{Class: 2, Rate: rate(1e6, 1e6, time.Second)})
			}
			f(t, l, c, asks)
		})
	}
}

func TestTakeCountsDown(t *testing.T) {
	steps := []struct {
		at        time.Duration
		ok        bool
		remaining int64
		reset     time.Duration
		retry     time.Duration
	}{
		{0, true, 2, 10 * time.Second, 0},
		{0, true, 1, 20 * time.Second, 0},
		{5 * time.Second, true, 0, 25 * time.Second, 0},
		{5 * time.Second, false, 0, 25 * time.Second, 5 * time.Second},
		{10*time.Second - 1, false, 0, 20*time.Second + 1, 1},
		{10 * time.Second, true, 0, 30 * time.Second, 0},
		{9 * time.Second, false, 0, 31 * time.Second, 11 * time.Second},
		{40*time.Second - 1, true, 1, 10*time.Second + 1, 0},
		{time.Hour, true, 2, 10 * time.Second, 0},
	}
	places(t, rate(6, 3, time.Minute), func(t *testing.T, l *Limiter, c *clock, asks []Ask) {
		for i, s := range steps {
			c.ns.Store(max(c.now(), int64(s.at)))
			retry, ok := l.Peek(int64(s.at), asks[0])
			if ok != s.ok || retry != s.retry {
				t.Errorf("step %d: Peek = %v, %v", i, retry, ok)
			}
			want := Result{s.ok, 0, 3, s.remaining, s.reset, s.retry}
			if got := l.Take(int64(s.at), asks); got != want {
				t.Errorf("step %d: Take = %+v, want %+v", i, got, want)
			}
			st := l.States(int64(s.at), asks, nil)[0]
			if st.Remaining != s.remaining || st.Reset != s.reset || st.Limit != 3 {
				t.Errorf("step %d: state %+v, want %+v", i, st, want)
			}
			if next := s.retry; !s.ok && st.Next != next {
				t.Errorf("step %d: next %v, want %v", i, st.Next, next)
			}
		}
	})
}

func TestStateNext(t *testing.T) {
	g := gaugeOf(rate(6, 3, time.Minute))
	for debt, want := range map[time.Duration]time.Duration{
		0: 0, 1: 1, 10 * time.Second: 10 * time.Second, 10*time.Second + 1: 1, 29 * time.Second: 9 * time.Second,
		30 * time.Second: 10 * time.Second, 33 * time.Second: 13 * time.Second,
	} {
		if got := g.state(7, 7+int64(debt)).Next; got != want {
			t.Errorf("debt %v: next %v, want %v", debt, got, want)
		}
	}
}

func TestTightest(t *testing.T) {
	l, _ := newLimiter(0)
	asks := []Ask{
		{Slot: new(Slot), Rate: rate(10, 10, time.Second)},
		{Class: 1, Rate: rate(4, 4, time.Second)},
		{Class: 2, Rate: rate(4, 4, time.Minute)},
	}
	if r := l.Take(0, asks); !r.OK || r.Index != 2 || r.Remaining != 3 {
		t.Errorf("same share for longer: %+v", r)
	}
	l.Take(0, asks[:1])
	for range 6 {
		l.Take(0, asks[:1])
	}
	if r := l.Take(0, asks); !r.OK || r.Index != 0 || r.Remaining != 1 {
		t.Errorf("smallest share: %+v", r)
	}
	for range 2 {
		l.Take(0, asks)
	}
	if r := l.Take(0, asks); r.OK || r.Index == 1 {
		t.Errorf("a refusing one: %+v", r)
	}
	l.Take(0, asks[2:])
	l.Take(0, asks[2:])
	if r := l.Take(0, asks); r.OK || r.Index != 2 || r.Retry != 15*time.Second {
		t.Errorf("the longest wait: %+v", r)
	}
	if r := l.Take(0, nil); !r.OK || r.Index != -1 {
		t.Errorf("no asks: %+v", r)
	}
}

func TestDuplicatesCountTwice(t *testing.T) {
	l, c := newLimiter(0)
	s := new(Slot)
	r := rate(5, 5, 5*time.Second)
	for name, asks := range map[string][]Ask{
		"slot":  {{Slot: s, Rate: r}, {Class: 9, Rate: rate(100, 100, time.Second)}, {Slot: s, Rate: r}},
		"table": {{Class: 1, Rate: r}, {Class: 9, Rate: rate(100, 100, time.Second)}, {Class: 1, Rate: r}},
	} {
		for i, want := range []int64{3, 1} {
			if got := l.Take(c.now(), asks); !got.OK || got.Remaining != want {
				t.Errorf("%s %d: %+v", name, i, got)
			}
		}
		if got := l.Take(c.now(), asks); got.OK || got.Retry != time.Second {
			t.Errorf("%s: one token for two asks: %+v", name, got)
		}
		if got := l.Take(c.now(), asks[:1]); !got.OK || got.Remaining != 0 {
			t.Errorf("%s: the refusal took a token: %+v", name, got)
		}
		if got := l.Take(c.now(), asks); got.OK || got.Retry != 2*time.Second {
			t.Errorf("%s: empty: %+v", name, got)
		}
	}
}

func TestAllOrNothing(t *testing.T) {
	l, c := newLimiter(1 << 10)
	s := new(Slot)
	asks := []Ask{
		{Slot: s, Rate: rate(100, 100, time.Minute)},
		{Class: 1, Subject: subject(1), Rate: rate(100, 100, time.Minute)},
		{Class: 2, Subject: subject(1), Rate: rate(2, 2, time.Hour)},
	}
	l.Take(c.now(), asks)
	l.Take(c.now(), asks)
	before, n := l.States(c.now(), asks, nil), l.Len()
	for i := range 200 {
		asks[1].Subject = subject(1 + i%5)
		if r := l.Take(c.now(), asks); r.OK || r.Index != 2 {
			t.Fatalf("%d: %+v", i, r)
		}
	}
	asks[1].Subject = subject(1)
	for i, st := range l.States(c.now(), asks, nil) {
		if st != before[i] {
			t.Errorf("ask %d: a refused request changed %+v to %+v", i, before[i], st)
		}
	}
	if l.Len() != n {
		t.Errorf("refused requests left %d entries", l.Len()-n)
	}
}

func TestChangedRate(t *testing.T) {
	day, sec := rate(1000, 1000, 24*time.Hour), rate(10, 10, time.Second)
	places(t, day, func(t *testing.T, l *Limiter, c *clock, asks []Ask) {
		c.add(time.Hour)
		for l.Take(c.now(), asks).OK {
		}
		asks[0].Rate = sec
		if r := l.Take(c.now(), asks); r.OK || r.Retry != 100*time.Millisecond || r.Reset != time.Second {
			t.Fatalf("a raised rate starts empty, not a day in debt: %+v", r)
		}
		c.add(time.Second)
		n := 0
		for l.Take(c.now(), asks).OK {
			n++
		}
		if n != 10 {
			t.Errorf("%d passed at the new rate after a second, want 10", n)
		}
		asks[0].Rate = rate(1, 1, access.MaxWindow)
		for range 3 {
			c.add(time.Second)
			if l.Take(c.now(), asks).OK {
				n++
			}
		}
		if n != 11 {
			t.Errorf("%d passed at one a year", n-10)
		}
	})
}

func TestOldReadingForgivesNothing(t *testing.T) {
	places(t, rate(10, 10, time.Second), func(t *testing.T, l *Limiter, c *clock, asks []Ask) {
		c.add(time.Hour)
		for l.Take(c.now(), asks).OK {
		}
		if r := l.Take(0, asks); r.OK {
			t.Fatal("passed at an old reading")
		}
		if r := l.Take(c.now(), asks); r.OK || r.Retry != 100*time.Millisecond {
			t.Errorf("an old reading changed the debt: %+v", r)
		}
	})
}

func TestExtremes(t *testing.T) {
	const huge = 1<<63 - 1
	for _, r := range []access.Rate{
		{}, rate(1, 0, time.Second), rate(0, 1, time.Second), rate(1, 1, -1), rate(1, 1, huge),
	} {
		places(t, r, func(t *testing.T, l *Limiter, c *clock, asks []Ask) {
			for _, now := range []int64{-huge, 0, 1, huge} {
				if res := l.Take(now, asks); res.OK || res.Retry <= 0 {
					t.Errorf("%+v at %d: %+v", r, now, res)
				}
			}
		})
	}
	for _, r := range []access.Rate{rate(1, 1<<32-1, access.MaxWindow), rate(1<<32-1, 1<<32-1, time.Millisecond), rate(1, 1, access.MaxWindow)} {
		places(t, r, func(t *testing.T, l *Limiter, c *clock, asks []Ask) {
			c.ns.Store(huge)
			for _, now := range []int64{-huge, 0, huge, huge, 0} {
				res := l.Take(now, asks)
				if res.Remaining < 0 || res.Reset < 0 || res.Retry < 0 || res.OK == (res.Retry > 0) {
					t.Errorf("%+v at %d: %+v", r, now, res)
				}
			}
		})
	}
}

func TestSlotRestore(t *testing.T) {
	if n := unsafe.Sizeof(Slot{}); n != 8 {
		t.Errorf("a slot is %d bytes", n)
	}
	l, c := newLimiter(0)
	c.add(time.Hour)
	s := new(Slot)
	asks := []Ask{{Slot: s, Rate: rate(3, 3, 3*time.Second)}}
	l.Take(c.now(), asks)
	l.Take(c.now(), asks)
	debt := s.Debt(c.now())
	if debt != int64(2*time.Second) || s.Debt(c.now()+debt) != 0 || new(Slot).Debt(0) != 0 {
		t.Errorf("debt %v", debt)
	}
	r := new(Slot)
	r.Restore(5, debt)
	if r.Debt(5) != debt {
		t.Errorf("restored %v of %v", r.Debt(5), debt)
	}
	for debt, want := range map[int64]int64{-1: 0, 0: 0, -1 << 63: 0, 1<<63 - 1: maxSpan} {
		if r.Restore(9, debt); r.Debt(9) != want {
			t.Errorf("Restore(%d): debt %d, want %d", debt, r.Debt(9), want)
		}
	}
}

func TestSubjects(t *testing.T) {
	if SubjectOf("acme") == SubjectOf("acme2") || SubjectOf("acme") != SubjectOf("acme") {
		t.Error("SubjectOf")
	}
	if got := SubjectOf(strings.Repeat("x", 64) + "a"); got == SubjectOf(strings.Repeat("x", 64)+"b") {
		t.Error("long names are cut")
	}
	for _, c := range []struct {
		a, b   string
		v4, v6 int
		same   bool
	}{
		{"192.0.2.1", "192.0.2.1", 32, 64, true},
		{"192.0.2.1", "192.0.2.2", 32, 64, false},
		{"192.0.2.1", "::ffff:192.0.2.1", 32, 64, true},
		{"192.0.2.1", "192.0.2.200", 24, 64, true},
		{"192.0.2.129", "192.0.2.1", 25, 64, false},
		{"192.0.2.1", "10.0.0.1", -5, 64, true},
		{"192.0.2.1", "192.0.2.2", 99, 64, false},
		{"2001:db8::1", "2001:db8::ffff", 32, 64, true},
		{"2001:db8::1%eth0", "2001:db8::1%eth1", 32, 128, true},
		{"2001:db8::1", "2001:db8:0:1::1", 32, 64, false},
		{"2001:db8:0:10::", "2001:db8:0:1f::", 32, 60, true},
		{"2001:db8:0:10::", "2001:db8:0:20::", 32, 60, false},
		{"::1", "0.0.0.1", 32, 64, false},
		{"::", "0.0.0.0", 0, 0, false},
	} {
		a := AddrSubject(netip.MustParseAddr(c.a), c.v4, c.v6)
		if b := AddrSubject(netip.MustParseAddr(c.b), c.v4, c.v6); (a == b) != c.same {
			t.Errorf("%s and %s under /%d /%d: %x %x", c.a, c.b, c.v4, c.v6, a, b)
		}
	}
	if AddrSubject(netip.Addr{}, 32, 64) == AddrSubject(netip.MustParseAddr("::"), 32, 64) {
		t.Error("an invalid address is the unspecified one")
	}
}
