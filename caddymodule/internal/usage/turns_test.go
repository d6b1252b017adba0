package usage

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// One tick in ten syncs, however often the journal is full between; and a journal
// that has no room is looked at once before the next tick.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ticks, full := make(chan time.Time), make(chan struct{}, 1)
		room, turnsDone, synced := true, 0, 0
		ctx, cancel := context.WithCancel(t.Context())
		go turns(ctx, ticks, full, func(sync bool) bool {
			turnsDone++
			if sync {
				synced++
			}
			return room
		})
		ask := func() {
			select {
			case full <- struct{}{}:
			default:
			}
			synctest.Wait()
		}
		for range 10 * drainsOfSync {
			ticks <- time.Time{}
			ask()
		}
		if turnsDone != 20*drainsOfSync || synced != 10 {
			t.Errorf("%d turns, %d with sync", turnsDone, synced)
		}
		room, turnsDone = false, 0
		for range 100 {
			ask()
		}
		if turnsDone != 1 {
			t.Errorf("%d turns without room", turnsDone)
		}
		cancel()
	})
}

// A storage that is down is asked again after a while, and not as often as the
// journal is.
func TestHurryWhileTheStorageIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, c := newMemory(), newClock()
		o := c.options(m)
		var asked atomic.Int32
		o.OnError = func(error) { asked.Add(1) }
		r := open(t, o)
		record(r, c.at(), series("a", 1, "", Class2xx), Sample{})
		m.failAfter(0)
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx, nil)
		hurry := func() {
			for range 100 {
				select {
				case r.hurry <- struct{}{}:
				default:
				}
				synctest.Wait()
			}
		}
		hurry()
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times at once", n)
		}
		time.Sleep(hurryAgain) // of the bubble's clock
		hurry()
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times in all", n)
		}
		cancel()
	})
}
