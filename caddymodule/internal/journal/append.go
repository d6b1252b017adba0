package journal

import (
	"fmt"
	"runtime/debug"
	"unsafe"
)

// Append writes a record, which is as safe then as the package comment says. It
// returns false if there is no room, or if the record cannot be written at all:
// nothing of it will be read then. It does not allocate.
func (f *File) Append(r *Record) (ok bool) {
	var t tail
	lengths, names := t.put(&r.Numbers)
	if len(r.Tenant)+len(r.Route) > tailLen-names || r.Class == classPad {
		return f.appendLong(r, &t)
	}
	names += copy(t.b[names:], r.Tenant)
	copy(t.b[names:], r.Route)
	done, old := false, debug.SetPanicOnFault(true)
	defer func() { // as guard, which would cost as much as all the rest here
		if !done {
			debug.SetPanicOnFault(old)
			ok = false
			f.fault(recover())
		}
	}()
	if s, slot := f.reserve(1, &t); s != nil {
		w0, w1, w2 := first(r.Second, lengths, len(r.Route)), ne.Uint64(r.Key[:]), ne.Uint64(r.Key[8:])
		w3, w4, w5, w6 := ne.Uint64(t.b[:]), ne.Uint64(t.b[8:]), ne.Uint64(t.b[16:]), ne.Uint64(t.b[24:])
		b, head := s.words(slot), headOf(1, r.Class, r.Flags, len(r.Tenant))
		b[0], b[1], b[2], b[3], b[4], b[5], b[6] = w0, w1, w2, w3, w4, w5, w6 // one by one: an array is put together first
		h := mix(s.seed(slot)^head<<32, w0, w1, w2, w3, w4, w5, w6)
		s.head(slot).Store((h^h>>32)<<32 | head)
		ok = true
	}
	done = true
	debug.SetPanicOnFault(old)
	return ok
}

// appendLong is Append for what takes several slots.
func (f *File) appendLong(r *Record, here *tail) (ok bool) {
	if len(r.Tenant) > maxName || len(r.Route) > maxName || r.Class == classPad {
		return false
	}
	var b [maxSlots * bodyLen]byte
	n := r.encode(&b)
	defer f.guard(debug.SetPanicOnFault(true), &ok)
	s, slot := f.reserve(n, here)
	if s == nil {
		return false
	}
	for i := range n {
		copy(s.body(slot+uint32(i)), b[i*bodyLen:(i+1)*bodyLen])
	}
	s.head(slot).Store(withSum(s.seed(slot), headOf(n, r.Class, r.Flags, len(r.Tenant)), b[:n*bodyLen]))
	return true
}

// reserve takes n slots, or returns no segment if there is no room. here is
// something on the stack: it tells goroutines apart, and so spreads them over
// the shards.
func (f *File) reserve(n int, here *tail) (*segment, uint32) {
	const golden = 0x9e3779b97f4a7c15
	sh := &f.shards[uint64(uintptr(unsafe.Pointer(here))>>11)*golden>>f.shift&uint64(len(f.shards)-1)]
	for {
		word := sh.word.Load()
		if uint32(word) < slotsInSegment {
			word = sh.word.Add(uint64(n)) - uint64(n)
			slot := uint32(word)
			if slot+uint32(n) <= slotsInSegment {
				return f.segments[word>>32], slot
			}
			if slot < slotsInSegment {
				f.pad(f.segments[word>>32], slot)
			}
		}
		if !f.next(sh, word>>32) {
			return nil, 0
		}
	}
}

// pad fills the end of a segment, so that nobody waits for it. That is fewer
// slots than a record can have.
func (f *File) pad(s *segment, slot uint32) {
	s.head(slot).Store(withSum(s.seed(slot), headOf(int(slotsInSegment-slot), classPad, 0, 0), nil))
}

// next gives a shard another segment, unless it has another than the one seen
// already. It returns false if there is none.
func (f *File) next(sh *shard, seen uint64) bool {
	if f.frees.Load() == 0 && sh.word.Load()>>32 == seen {
		f.ask()
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if sh.word.Load()>>32 != seen {
		return true
	}
	n := len(f.free)
	if n == 0 || f.stopped {
		return false
	}
	s := f.free[n-1]
	f.sequence++
	s.start(f.opt.ID, f.sequence)
	f.free = f.free[:n-1]
	f.frees.Store(int32(n - 1))
	f.used = append(f.used, s)
	f.leave(sh.word.Swap(uint64(s.index)<<32 | 1))
	f.ask()
	return true
}

// leave notes where a segment ends that no writer reserves in any more. mu is
// held.
func (f *File) leave(word uint64) {
	if word>>63 == 0 {
		f.segments[word>>32].end = min(uint32(word), slotsInSegment)
	}
}

// start takes a segment into use. Its records come after this.
func (s *segment) start(id [8]byte, sequence uint64) {
	s.sequence, s.end, s.drained, s.synced, s.found, s.late = sequence, 0, 1, 0, false, false
	b := s.body(0)
	copy(b, id[:])
	ne.PutUint32(b[8:], s.seal(id, sequence))
	s.head(0).Store(sequence)
}

// seal is the sum of a segment's first slot.
func (s *segment) seal(id [8]byte, sequence uint64) uint32 {
	var b [bodyLen]byte
	copy(b[:], id[:])
	ne.PutUint32(b[8:], s.index)
	return uint32(withSum(sequence<<slotBits, 0, b[:]) >> 32)
}

// opened returns the sequence of a segment of the storage; 0 if it is none.
func (s *segment) opened(id [8]byte) uint64 {
	sequence, b := s.head(0).Load(), s.body(0)
	if [8]byte(b) != id || ne.Uint32(b[8:]) != s.seal(id, sequence) {
		return 0
	}
	return sequence
}

// ask wakes whoever drains.
func (f *File) ask() {
	select {
	case f.full <- struct{}{}:
	default: // it is awake
	}
}

// guard is to be deferred around what reads or writes mapped memory. A page that
// the disk does not give would otherwise end the process. With it the function
// ends there and ok is false; the journal takes no more records.
func (f *File) guard(old bool, ok *bool) {
	debug.SetPanicOnFault(old)
	if r := recover(); r != nil {
		f.fault(r)
		*ok = false
	}
}

// fault notes what was recovered, or panics again.
func (f *File) fault(r any) {
	e, is := r.(interface {
		error
		Addr() uintptr
	})
	if !is || !f.owns(e.Addr()) {
		panic(r)
	}
	f.stop(f.wrap(fmt.Errorf("%w: a fault at its memory", ErrFault)))
}
