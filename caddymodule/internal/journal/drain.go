package journal

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

// Drain calls yield for each record that Append returned for before, and that
// it was not called for yet: first for those that were found when the file was
// opened. A record and its names are good until yield returns. bad is how many
// were not as they were written. A record whose writer does not get to the end of
// it, or that somebody else's zeros are in the place of, is waited for no longer
// than about a second in all: what is left then in its segment is for a later
// call, or the next Open.
func (f *File) Drain(yield func(*Record)) (bad int) {
	f.patience = maxPatience
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
		if head == 0 && !s.found {
			if head = f.await(s); head == 0 && f.broken.Load() == nil {
				f.lag(s)
				return bad
			}
		}
		s.late = false
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

// Bounds of waiting for writers.
const (
	maxPatience    = time.Second           // of one Drain
	patienceBroken = 10 * time.Millisecond // of one slot, after a fault: its writer may have met it
)

// await returns the head of the next slot, once its writer has published it: he
// is about to. It returns 0 for one that nobody did.
func (f *File) await(s *segment) (head uint64) {
	for range 100 {
		if runtime.Gosched(); s.head(s.drained).Load() != 0 {
			return s.head(s.drained).Load()
		}
	}
	begun, waited := time.Now(), time.Duration(0)
	for head == 0 && !s.late && waited < f.patience && (waited < patienceBroken || f.broken.Load() == nil) {
		time.Sleep(20 * time.Microsecond) // he has no processor
		waited, head = time.Since(begun), s.head(s.drained).Load()
	}
	f.patience -= waited
	return head
}

// lag leaves a segment to its writers for now. If it is theirs no longer the file
// was written by somebody else, and the journal takes no more records.
func (f *File) lag(s *segment) {
	s.late = true
	if s.opened(f.opt.ID) != s.sequence {
		f.stop(f.wrap(fmt.Errorf("%w: somebody else wrote to it", ErrFault)))
	}
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
