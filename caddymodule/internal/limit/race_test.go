package limit

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const goroutines = 16

// hammer runs f from many goroutines while the clock moves on; each turn gets
// a reading that may be old by the time it is used.
func hammer(c *clock, step time.Duration, turns int, f func(g int, rnd *rand.Rand, now int64)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for g := range goroutines {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 3))
			<-start
			for range turns {
				now := c.now()
				if rnd.IntN(8) == 0 {
					c.add(time.Duration(rnd.Int64N(int64(step))))
				}
				f(g, rnd, now)
			}
		})
	}
	close(start)
	wg.Wait()
}

func TestRaceOneBucket(t *testing.T) {
	r := rate(1000, 50, time.Second)
	places(t, r, func(t *testing.T, l *Limiter, c *clock, asks []Ask) {
		var passed atomic.Int64
		hammer(c, time.Millisecond, 5000, func(_ int, _ *rand.Rand, now int64) {
			if l.Take(now, asks).OK {
				passed.Add(1)
			}
		})
		most := 50 + c.now()/int64(r.Interval())
		if n := passed.Load(); n > most || n < most/2 {
			t.Errorf("%d passed in %v, want at most %d and at least half", n, time.Duration(c.now()), most)
		}
	})
}

func TestRaceFrozenClockIsExact(t *testing.T) {
	places(t, rate(1e6, 600_000, access24h), func(t *testing.T, l *Limiter, c *clock, asks []Ask) {
		var passed atomic.Int64
		hammer(c, 1, 40_000, func(_ int, _ *rand.Rand, now int64) {
			if l.Take(now, asks).OK {
				passed.Add(1)
			}
		})
		if passed.Load() != 600_000 {
			t.Errorf("%d passed, want 600000", passed.Load())
		}
	})
}

// TestRaceConservation gives every request a random set of buckets in random
// order, with repetitions. What each bucket lost must be what the requests that
// passed took from it: to the token, since the clock stands still.
func TestRaceConservation(t *testing.T) {
	l, c := newLimiter(1 << 10)
	var all [12]Ask
	var took [12]atomic.Int64
	for i := range all {
		burst := uint32(2000 + 500*i)
		all[i] = Ask{Class: uint64(i % 3), Subject: subject(i), Rate: rate(burst, burst, access24h)}
		if i%2 == 0 {
			all[i].Slot = new(Slot)
		}
	}
	hammer(c, 1, 3000, func(_ int, rnd *rand.Rand, now int64) {
		var room [4]Ask
		var which [4]int
		n := 1 + rnd.IntN(4)
		for k := range n {
			which[k] = rnd.IntN(len(all))
			room[k] = all[which[k]]
		}
		if l.Take(now, room[:n]).OK {
			for _, i := range which[:n] {
				took[i].Add(1)
			}
		}
	})
	for i, st := range l.States(0, all[:], nil) {
		if st.Limit-st.Remaining != took[i].Load() {
			t.Errorf("bucket %d lost %d, requests took %d", i, st.Limit-st.Remaining, took[i].Load())
		}
	}
}

// TestRaceNoFalseRefusal has half the goroutines fail on an empty bucket with
// asks that include a shared one, while the rest take exactly its contents:
// none of them may be refused because of what failing requests touch.
func TestRaceNoFalseRefusal(t *testing.T) {
	const turns = 3000
	r := rate(goroutines/2*turns, goroutines/2*turns, access24h)
	for name, shared := range map[string]Ask{
		"slot":  {Slot: new(Slot), Rate: r},
		"table": {Class: 1, Rate: r},
	} {
		l, c := newLimiter(0)
		empty := Ask{Slot: new(Slot), Class: 2, Rate: rate(1, 1, access24h)}
		l.Take(c.now(), []Ask{empty})
		var refused, wrong atomic.Int64
		hammer(c, 1, turns, func(g int, _ *rand.Rand, now int64) {
			if g%2 == 0 {
				if l.Take(now, []Ask{shared, empty}).OK {
					wrong.Add(1)
				}
			} else if !l.Take(now, []Ask{shared}).OK {
				refused.Add(1)
			}
		})
		if refused.Load() > 0 || wrong.Load() > 0 {
			t.Errorf("%s: %d refused falsely, %d passed an empty bucket", name, refused.Load(), wrong.Load())
		}
	}
}

// TestRaceSmallTable adds the traffic of reclaiming, overflow, snapshots and
// readers to the count of what one subject gets.
func TestRaceSmallTable(t *testing.T) {
	l, c := newLimiter(256)
	r := rate(100, 5, time.Second)
	var passed [64]atomic.Int64
	hammer(c, 20*time.Millisecond, 4000, func(_ int, rnd *rand.Rand, now int64) {
		i := rnd.IntN(2000)
		a := []Ask{{Class: 1, Subject: subject(i), Rate: r}, {Class: 2, Subject: subject(i % 7), Rate: rate(1e6, 1e6, time.Second)}}
		if l.Take(now, a).OK && i < len(passed) {
			passed[i].Add(1)
		}
		if rnd.IntN(500) == 0 {
			l.States(now, a, nil)
			if err := l.Restore(now, time.Hour, l.Snapshot(now)); err != nil {
				t.Error(err)
			}
			if n := l.Len(); n > 256 {
				t.Errorf("%d entries", n)
			}
		}
	})
	for i := range passed {
		if n, most := passed[i].Load(), 5+c.now()/int64(r.Interval()); n > most {
			t.Errorf("subject %d got %d, want at most %d", i, n, most)
		}
	}
}

const access24h = 24 * time.Hour
