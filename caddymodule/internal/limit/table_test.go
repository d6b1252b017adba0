package limit

import (
	"testing"
	"time"
)

func (l *Limiter) places() (n int) {
	for i := range l.shards {
		n += len(l.shards[i].entries)
	}
	return n
}

func TestTableIsBounded(t *testing.T) {
	for _, capacity := range []int{1, 3, 64, 1000, 4096} {
		l, c := newLimiter(capacity)
		a := []Ask{{Class: 1, Rate: rate(2, 2, time.Hour)}}
		for i := range 20000 {
			a[0].Subject = subject(i)
			l.Take(c.now(), a)
		}
		if n, most := l.places(), ceilPow2(capacity); n > most || l.Len() > n {
			t.Errorf("capacity %d: %d places, %d live", capacity, n, l.Len())
		}
		if capacity >= 64 && l.Len() < capacity*3/4 {
			t.Errorf("capacity %d: %d live only", capacity, l.Len())
		}
	}
}

func TestIdleTableIsSmall(t *testing.T) {
	if n := New(Options{}).places(); n != 0 {
		t.Errorf("an unused table has %d places", n)
	}
}

func TestFullBucketsAreReclaimed(t *testing.T) {
	l, c := newLimiter(1 << 10)
	a := []Ask{{Class: 1, Rate: rate(2, 2, time.Second)}}
	for i := range 50_000 {
		if i%100 == 0 {
			c.add(time.Second)
		}
		a[0].Subject = subject(i)
		if r := l.Take(c.now(), a); !r.OK || r.Remaining != 1 {
			t.Fatalf("new subject %d: %+v", i, r)
		}
	}
	c.add(time.Hour)
	if l.Len() != 0 {
		t.Errorf("%d live after an hour", l.Len())
	}
}

// TestOverflow fills a table, has a subject drain overflow, makes room, and
// sees that the subject's new bucket remembers.
func TestOverflow(t *testing.T) {
	l, c := newLimiter(8)
	long := Ask{Class: 1, Rate: rate(3, 3, time.Hour)}
	for i := range 8 {
		long.Subject = subject(i)
		l.Take(c.now(), []Ask{long})
	}
	c.add(19 * time.Minute) // the eight owe one minute more
	long.Subject = subject(100)
	for i, want := range []bool{true, true, true, false} {
		if r := l.Take(c.now(), []Ask{long}); r.OK != want {
			t.Fatalf("turn %d through overflow: %+v", i, r)
		}
	}
	long.Subject = subject(101)
	if l.Take(c.now(), []Ask{long}).OK {
		t.Error("overflow is not shared")
	}
	short := Ask{Class: 2, Subject: subject(5), Rate: rate(5, 5, time.Second)}
	if r := l.Take(c.now(), []Ask{short}); !r.OK || r.Remaining != 4 {
		t.Errorf("a short limit waits for a long one: %+v", r)
	}
	c.add(2 * time.Minute)
	for _, who := range []int{100, 101} {
		long.Subject = subject(who)
		if r := l.Take(c.now(), []Ask{long}); r.OK || r.Retry != 18*time.Minute {
			t.Errorf("subject %d out of overflow: %+v", who, r)
		}
	}
	c.add(18 * time.Minute)
	if r := l.Take(c.now(), []Ask{long}); !r.OK || r.Remaining != 0 {
		t.Errorf("after the wait: %+v", r)
	}
	if l.Len() != 1 {
		t.Errorf("%d live, want the one who left overflow", l.Len())
	}
}

func TestRefusedRequestLeavesOverflowAlone(t *testing.T) {
	l, c := newLimiter(1)
	r := rate(3, 3, time.Hour)
	empty := Ask{Slot: new(Slot), Rate: rate(1, 1, access24h)}
	l.Take(c.now(), []Ask{{Class: 1, Subject: subject(1), Rate: r}, empty})
	over := Ask{Class: 1, Subject: subject(2), Rate: r}
	for range 10 {
		if l.Take(c.now(), []Ask{over, {Class: 1, Subject: subject(3), Rate: r}, empty}).OK {
			t.Fatal("passed an empty bucket")
		}
	}
	if st := l.States(c.now(), []Ask{over}, nil)[0]; st.Remaining != 3 {
		t.Errorf("%+v", st)
	}
}

// TestReclaimedBucketKeepsItsTime guards the floor: a bucket that was reclaimed
// at a later reading is not full for an earlier one.
func TestReclaimedBucketKeepsItsTime(t *testing.T) {
	l, c := newLimiter(1)
	a := []Ask{{Class: 1, Subject: subject(1), Rate: rate(1, 1, time.Minute)}}
	l.Take(c.now(), a)
	c.add(time.Hour)
	b := []Ask{{Class: 1, Subject: subject(2), Rate: rate(1, 1, time.Millisecond)}}
	if !l.Take(c.now(), b).OK {
		t.Fatal("the place was not reclaimed")
	}
	if l.Take(int64(30*time.Second), a).OK {
		t.Error("two in half a minute at one a minute")
	}
}

// TestGrowthKeepsItsTime is the same for a bucket that growth left behind.
func TestGrowthKeepsItsTime(t *testing.T) {
	l, c := newLimiter(64)
	a := []Ask{{Class: 1, Subject: subject(1), Rate: rate(1, 1, time.Minute)}}
	l.Take(c.now(), a)
	c.add(time.Hour)
	if !l.shards[0].grow(l, c.now()) {
		t.Fatal("the shard did not grow")
	}
	if l.Take(int64(30*time.Second), a).OK {
		t.Error("two in half a minute at one a minute")
	}
}

// TestGrowthWithinARequest has requests of many new subjects in one shard, so
// that the shard grows between their asks; half of them are refused.
func TestGrowthWithinARequest(t *testing.T) {
	for range 200 {
		l, c := newLimiter(entriesPerShard*2 - 1)
		r := rate(9, 9, time.Hour)
		l.limit = 1 << 12 // one shard, and yet room for all
		l.shards, l.shift = l.shards[:1], 64
		empty := Ask{Slot: new(Slot), Rate: rate(1, 1, access24h)}
		l.Take(c.now(), []Ask{empty})
		for call := range 20 {
			var asks []Ask
			for i := range 6 {
				asks = append(asks, Ask{Class: 1, Subject: subject(call*6 + i), Rate: r})
			}
			if l.Take(c.now(), append(asks, empty)).OK {
				t.Fatal("passed an empty bucket")
			}
			if got := l.Take(c.now(), asks); !got.OK || got.Remaining != 8 || l.Len() != (call+1)*6 {
				t.Fatalf("call %d: %+v with %d live", call, got, l.Len())
			}
		}
	}
}

func TestManyAsks(t *testing.T) {
	l, c := newLimiter(1 << 12)
	var asks []Ask
	for i := range 3 * inlineAsks {
		a := Ask{Class: uint64(i % 5), Subject: subject(i % 11), Rate: rate(100, 100, time.Hour)}
		if i%2 == 0 {
			a.Slot = new(Slot)
		}
		asks = append(asks, a)
	}
	if r := l.Take(c.now(), asks); !r.OK {
		t.Errorf("%+v", r)
	}
}

func TestDefaultClockRuns(t *testing.T) {
	l := New(Options{})
	if a, b := l.Now(), l.Now(); a < 0 || b < a {
		t.Errorf("%d, %d", a, b)
	}
}

func cases() map[string][]Ask {
	easy, hard := rate(1e6, 1e6, time.Second), rate(1, 1, access24h)
	table := func(n int) Ask { return Ask{Class: uint64(n), Subject: subject(n), Rate: easy} }
	return map[string][]Ask{
		"slot":        {{Slot: new(Slot), Rate: easy}},
		"table":       {table(1)},
		"slot+table":  {{Slot: new(Slot), Rate: easy}, table(1)},
		"slot+3table": {{Slot: new(Slot), Rate: easy}, table(1), table(2), table(3)},
		"deny slot":   {{Slot: new(Slot), Rate: hard}},
		"deny table":  {{Class: 4, Rate: hard}},
		"deny both":   {{Slot: new(Slot), Rate: easy}, {Class: 5, Rate: hard}},
	}
}

func TestAllocations(t *testing.T) {
	for name, asks := range cases() {
		l, c := newLimiter(0)
		dst := make([]State, 0, len(asks))
		f := func() {
			c.add(time.Microsecond)
			l.Take(c.now(), asks)
			l.Peek(c.now(), asks[0])
			dst = l.States(c.now(), asks, dst[:0])
		}
		if f(); testing.AllocsPerRun(200, f) != 0 {
			t.Errorf("%s allocates", name)
		}
	}
	if testing.AllocsPerRun(100, func() { SubjectOf("a-tenant-id-that-is-rather-long-but-within-64-bytes") }) != 0 {
		t.Error("SubjectOf allocates")
	}
}

func BenchmarkTake(b *testing.B) {
	for name, asks := range cases() {
		b.Run(name, func(b *testing.B) {
			l, c := newLimiter(0)
			for b.Loop() {
				c.add(time.Microsecond)
				l.Take(c.now(), asks)
			}
		})
		b.Run(name+" parallel", func(b *testing.B) {
			l, c := newLimiter(0)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l.Take(c.now(), asks)
				}
			})
		})
	}
	b.Run("a million subjects", func(b *testing.B) {
		l, c := newLimiter(0)
		asks := []Ask{{Class: 1, Rate: rate(10, 10, time.Hour)}}
		i := 0
		for b.Loop() {
			i++
			asks[0].Subject = subject(i % 1_000_000)
			l.Take(c.now(), asks)
		}
	})
}
