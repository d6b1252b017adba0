package counter

import (
	"math/bits"
	"sync/atomic"
)

// A system that is to write a mapped page takes the right to store into it
// away, so that it notices the next store: that one waits for microseconds, and
// for longer while the page is being written. So the file knows which pages
// were touched since they were last written, and whoever writes them makes them
// writable again: a page in use is so when the next request comes, and one that
// is not in use any more is left alone after that.

const (
	recordsPerTouch = 4096 / 64 // in the smallest page there is
	pagesInWord     = 64
	slotsInWord     = pagesInWord * recordsPerTouch
)

// markOf returns the word that has the mark of slot n's page, in bit
// n / recordsPerTouch.
func (c *chunk) markOf(n uint32) *atomic.Uint64 { return &c.marks[n/slotsInWord-c.first/slotsInWord] }

// touch notes that slot n, of whose page the mark is, has something to write to
// the disk. It comes after the change. What is noted already costs two loads.
func (f *File) touch(mark *atomic.Uint64, n uint32) {
	if bit := uint64(1) << (n / recordsPerTouch % pagesInWord); mark.Load()&bit == 0 {
		mark.Or(bit)
	}
	if !f.dirty.Load() { // after the mark, as syncs reset it before the marks
		f.dirty.Store(true)
	}
}

// take forgets the marks, and keeps them in taken.
func (c *chunk) take() {
	for i := range c.marks {
		if c.taken[i] = 0; c.marks[i].Load() != 0 {
			c.taken[i] = c.marks[i].Swap(0)
		}
	}
}

// slots returns the slots from page from to before page to of word i: the first
// of them, and how many.
func (c *chunk) slots(i, from, to int) (first, n uint32) {
	base := c.first/slotsInWord*slotsInWord + uint32(i)*slotsInWord
	first = max(base+uint32(from)*recordsPerTouch, c.first)
	end := min(uint64(base)+uint64(to)*recordsPerTouch, uint64(c.first)+uint64(len(c.recs)))
	return first, uint32(max(end, uint64(first)) - uint64(first))
}

// open makes the pages of word i that have a mark writable before a request
// comes to them. It does what it can: the store that finds a page it could not
// help waits, or faults, as any would.
func (f *File) open(c *chunk, i int, marks uint64) {
	for marks != 0 {
		from := bits.TrailingZeros64(marks)
		to := from + bits.TrailingZeros64(^(marks >> from))
		if to < pagesInWord {
			marks &^= 1<<to - 1
		} else {
			marks = 0
		}
		if first, n := c.slots(i, from, to); n > 0 {
			f.openSlots(c, first-c.first, n)
		}
	}
}

// openSlots opens the pages of n slots of c.
func (f *File) openSlots(c *chunk, first, n uint32) {
	if f.sys.unlatch != nil && f.sys.unlatch(c.bytes(first, n)) == nil {
		return
	}
	_ = f.guarded(func() {
		for i := first; i < first+n; i += recordsPerTouch {
			c.recs[i].used.Add(0)
		}
		c.recs[first+n-1].used.Add(0)
	})
}

// bytes returns the memory of n slots of c.
func (c *chunk) bytes(first, n uint32) []byte {
	pad := len(c.mem) - len(c.recs)*int(slotLen)
	return c.mem[pad+int(first)*int(slotLen):][:int(n)*int(slotLen)]
}

// openHeader opens the page of the journal if it was touched.
func (f *File) openHeader() {
	if f.turned.Swap(false) && (f.sys.unlatch == nil || f.sys.unlatch(f.header) != nil) {
		_ = f.guarded(func() { f.journal.slot.Add(0) })
	}
}

// stopping reports whether the file is being closed: nobody comes any more.
func (f *File) stopping() bool {
	select {
	case <-f.stop:
		return true
	default:
		return false
	}
}
