package journal

import (
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

// Drain calls yield for each record that Append returned for before, and that
// it was not called for yet: first for those that were found when the file was
// opened. A record and its names are good until yield returns. bad is how many
// were not as they were written.
func (f *File) Drain(yield func(*Record)) (bad int) {
	for _, u := range f.undrained() {
		bad += f.drain(u.s, u.end, yield)
	}
	return bad
}

// upTo is a segment and the slot before which it is to be drained.
type upTo struct {
	s   *segment
	end uint32
}

func (f *File) undrained() (out []upTo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.used {
		end := s.end
		if end == 0 {
			end = f.reserved(s)
		}
		if s.drained < end {
			out = append(out, upTo{s, end})
		}
	}
	return out
}

// reserved returns how far the segment of a shard is reserved. mu is held.
func (f *File) reserved(s *segment) uint32 {
	for i := range f.shards {
		if word := f.shards[i].word.Load(); word>>32 == uint64(s.index) {
			return min(uint32(word), slotsInSegment)
		}
	}
	return slotsInSegment
}

// drain reads a segment up to a slot.
func (f *File) drain(s *segment, end uint32, yield func(*Record)) (bad int) {
	ok := true
	defer f.guard(debug.SetPanicOnFault(true), &ok)
	var r Record
	for s.drained < end {
		head := s.head(s.drained).Load()
		if head == 0 {
			head = f.await(s)
		}
		n := f.read(s, end, head, &r)
		switch {
		case n > 0 && !isPad(head):
			yield(&r)
		case n == 0 && head != 0 && !s.found:
			bad++
		}
		s.drained += uint32(max(n, 1))
	}
	return bad
}

// await returns the head of the next slot, once its writer has published it: he
// is about to. It returns 0 for one that nobody will.
func (f *File) await(s *segment) (head uint64) {
	for tries := 0; head == 0 && !s.found && f.broken.Load() == nil; tries++ {
		if tries < 100 {
			runtime.Gosched()
		} else {
			time.Sleep(20 * time.Microsecond) // he has no processor
		}
		head = s.head(s.drained).Load()
	}
	return head
}

// read reads the record at the next slot and returns how many slots it has; 0
// if there is none.
func (f *File) read(s *segment, end uint32, head uint64, r *Record) int {
	n := slotsOf(head)
	if n == 0 || s.drained+uint32(n) > slotsInSegment || n > maxSlots {
		return 0
	}
	if isPad(head) {
		if withSum(s.seed(s.drained), head&(1<<32-1), nil) != head {
			return 0
		}
		return n
	}
	b := f.scratch[:n*bodyLen]
	for i := range n {
		copy(b[i*bodyLen:], s.body(s.drained+uint32(i)))
	}
	if withSum(s.seed(s.drained), head&(1<<32-1), b) != head || !r.decode(head, b) {
		return 0
	}
	return n
}

// Position returns how far the journal was drained.
func (f *File) Position() Position {
	if f.fd == nil {
		return f.last
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := Position{Highest: f.sequence}
	for _, s := range f.used {
		if s.end == 0 || s.drained < s.end {
			p.Open = append(p.Open, Mark{s.sequence, s.drained})
		}
	}
	return p
}

// Release says that the storage has all up to p. Segments that are wholly before
// it are used again.
func (f *File) Release(p Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = slices.DeleteFunc(f.used, func(s *segment) bool {
		if s.end == 0 || s.sequence > p.Highest {
			return false
		}
		if _, open := p.from(s.sequence); open || s.drained < s.end {
			return false
		}
		f.dirty = append(f.dirty, s)
		return true
	})
}
