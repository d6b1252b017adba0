package counter

import (
	"runtime/debug"
	"sync/atomic"
	"unsafe"
)

// Slot is the account of one id. Its methods may be called by many goroutines;
// each is atomic, but for what Turn says. All but ID, At, Lease and Turn may meet
// a page that the disk does not give: see [File.Guard].
type Slot struct {
	r    *record
	f    *File
	mark *atomic.Uint64 // of its page
	n    uint32
	id   [16]byte
}

// ID returns the id that the slot belongs to.
func (s *Slot) ID() [16]byte { return s.id }

// At is where the slot is in memory, nil for the zero Slot.
func (s *Slot) At() *byte { return (*byte)(unsafe.Pointer(s.r)) }

// Period returns the start of the period that Used is of, as stored by Turn.
func (s *Slot) Period() int64 { return s.r.period.Load() }

// Used returns what was used in the period.
func (s *Slot) Used() int64 { return s.r.used.Load() }

// Carried returns what was added from the period before.
func (s *Slot) Carried() int64 { return s.r.carried.Load() }

// Leased returns up to where Used may go and be durable all the same: the
// largest argument of a Lease in this period that returned nil. It is of no
// meaning if it is not above Used.
func (s *Slot) Leased() int64 { return s.r.leased.Load() }

// Add adds delta, which may be negative, to Used and returns the sum. A sum
// that is not an int64 is ErrOverflow, and Used is as it was.
func (s *Slot) Add(delta int64) (int64, error) {
	for {
		old := s.r.used.Load()
		sum := old + delta
		if (old^sum)&(delta^sum) < 0 {
			return old, ErrOverflow
		}
		if s.r.used.CompareAndSwap(old, sum) {
			s.f.touch(s.mark, s.n)
			return sum, nil
		}
	}
}

// Spend adds amount to Used if that leaves it within most and Carried, and
// reports whether it does. Nothing is spent of a Used below zero, and a Carried
// below zero counts as none. Both arguments are from 0 to 2^62.
func (s *Slot) Spend(amount, most int64) bool {
	if carried := s.r.carried.Load(); carried > 0 {
		if most += carried; most < 0 {
			return false
		}
	}
	for {
		old := s.r.used.Load()
		if old < 0 || old > most-amount {
			return false
		}
		if s.r.used.CompareAndSwap(old, old+amount) {
			s.f.touch(s.mark, s.n)
			return true
		}
	}
}

// CompareAndSwap sets Used to new if it is old, and reports whether it was.
func (s *Slot) CompareAndSwap(old, new int64) bool {
	ok := s.r.used.CompareAndSwap(old, new)
	if ok {
		s.f.touch(s.mark, s.n)
	}
	return ok
}

// SetUsed sets Used.
func (s *Slot) SetUsed(v int64) {
	s.r.used.Store(v)
	s.f.touch(s.mark, s.n)
}

// SetCarried sets Carried.
func (s *Slot) SetCarried(v int64) {
	s.r.carried.Store(v)
	s.f.touch(s.mark, s.n)
}

// Turn begins a new period: all three values are set, and the lease ends. A
// kill leaves all of it or nothing. A power cut leaves the old, the new, or
// something between that has no more left than either: the period is first and
// used last. The caller sees to it that nobody else changes the slot meanwhile,
// Lease excepted. Turns of one file wait for one another, for well under a
// microsecond.
func (s *Slot) Turn(period, used, carried int64) (err error) {
	f := s.f
	defer f.Guard(debug.SetPanicOnFault(true), &err)
	f.turnMu.Lock()
	defer f.turnMu.Unlock()
	old, next := s.r.values(), values{period, carried, used, used, used}
	if !f.turned.Load() {
		f.turned.Store(true)
	}
	f.journal.begin(s.n, old, next)
	s.r.turns.Add(1)
	s.r.store(next)
	f.journal.end()
	f.touch(s.mark, s.n)
	return nil
}

// Lease makes durable that Used may go up to upTo, and returns when it is: the
// time of a disk flush, and that of a whole sync if one is running. After a
// power cut Used is upTo at least. Leases of different slots that come together
// share a flush. A lease below one that there is already costs nothing. After
// an error Leased is as it was.
func (s *Slot) Lease(upTo int64) (err error) {
	f := s.f
	defer f.Guard(debug.SetPanicOnFault(true), &err)
	turn, done := s.promise(upTo)
	if done {
		return nil
	}
	if err := f.syncSlot(s.n); err != nil {
		return err
	}
	f.turnMu.Lock()
	defer f.turnMu.Unlock()
	if s.r.turns.Load() != turn {
		return f.wrap(ErrTurned)
	}
	s.r.leased.Store(max(upTo, s.r.leased.Load()))
	f.touch(s.mark, s.n)
	return nil
}

// promise stores what is to become durable. It returns the number of the
// period, and whether there is nothing to be done.
func (s *Slot) promise(upTo int64) (turn uint32, done bool) {
	s.f.turnMu.Lock()
	defer s.f.turnMu.Unlock()
	if upTo <= s.r.leased.Load() {
		return 0, true
	}
	s.r.promised.Store(max(upTo, s.r.promised.Load()))
	s.f.touch(s.mark, s.n)
	return s.r.turns.Load(), false
}
