package engine

import (
	"sync"
	"sync/atomic"
	"testing"
)

// Whoever spends after a tenant was looked at is looked at again: of many
// amounts, the last one is seen.
func TestWatchMissesNothing(t *testing.T) {
	var w Watch
	var used [8]atomic.Int64
	var seen [8]atomic.Uint32
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	known := make(map[string]int64)
	look := func() {
		for _, name := range w.take() {
			known[name] = used[name[0]-'a'].Load()
		}
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := range 20_000 {
				used[i%8].Add(1)
				w.Touch(&seen[i%8], names[i%8])
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		look()
	}
	for i, name := range names {
		if known[name] != used[i].Load() {
			t.Errorf("%s: %d seen of %d", name, known[name], used[i].Load())
		}
	}
	if n := len(w.take()); n != 0 {
		t.Errorf("%d tenants that spent nothing", n)
	}
	w.Touch(&seen[0], "a")
	if n := testing.AllocsPerRun(100, func() { w.Touch(&seen[0], "a") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkWatchTouch(b *testing.B) {
	var w Watch
	var seen atomic.Uint32
	for b.Loop() {
		w.Touch(&seen, "a")
	}
}

func TestTotalsSettle(t *testing.T) {
	var s Totals
	for _, c := range []struct{ charged, final int64 }{{5, 5}, {5, 0}, {5, 7}, {0, 1}, {0, 0}} {
		s.Settle(c.charged, c.final)
	}
	if c, r := s.Charged.Load(), s.Refunded.Load(); c != 3 || r != 5 {
		t.Errorf("charged %d, refunded %d; want 3 more and 5", c, r)
	}
}
