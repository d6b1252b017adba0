package limit

import (
	"runtime"
	"sync/atomic"
)

// lockBit marks a slot that a request with several asks holds. The TAT is in
// the bits above.
const lockBit = 1

// spinsBeforeYield is how often a locked slot is looked at before the
// goroutine gives way: locks last for some tens of nanoseconds unless their
// holder lost its processor.
const spinsBeforeYield = 16

// Slot is one token bucket of 8 bytes without pointers, to be kept inside
// another record. The zero value is a full bucket. A Slot must not be copied
// or moved while in use. It is safe for concurrent use.
type Slot struct{ word atomic.Int64 }

// Debt returns the nanoseconds until the slot is full again, 0 if it is full.
// now is a reading of Limiter.Now.
func (s *Slot) Debt(now int64) int64 { return max(s.tat()-clampNow(now), 0) }

// Restore sets the slot's debt in nanoseconds, as Debt returned it in an
// earlier process and less the time that has passed since. A negative debt is
// a full slot; the longest debt is ten years.
func (s *Slot) Restore(now, debt int64) {
	var tat int64
	if debt > 0 {
		tat = clampNow(now) + min(debt, maxSpan)
	}
	for spins := 0; ; spins++ {
		if w := s.word.Load(); w&lockBit == 0 && s.word.CompareAndSwap(w, tat<<1) {
			return
		}
		pause(spins)
	}
}

// tat waits until the slot is unlocked and returns its TAT.
func (s *Slot) tat() int64 {
	for spins := 0; ; spins++ {
		if w := s.word.Load(); w&lockBit == 0 {
			return w >> 1
		}
		pause(spins)
	}
}

// lock waits for the slot and takes it.
func (s *Slot) lock() {
	for spins := 0; ; spins++ {
		if w := s.word.Load(); w&lockBit == 0 && s.word.CompareAndSwap(w, w|lockBit) {
			return
		}
		pause(spins)
	}
}

// The holder of the lock alone may call these three.
func (s *Slot) held() int64    { return s.word.Load() >> 1 }
func (s *Slot) hold(tat int64) { s.word.Store(tat<<1 | lockBit) }
func (s *Slot) unlock()        { s.word.Store(s.word.Load() &^ lockBit) }

func pause(spins int) {
	if spins >= spinsBeforeYield {
		runtime.Gosched()
	}
}
