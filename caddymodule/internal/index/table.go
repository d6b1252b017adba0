package index

import "sync/atomic"

const (
	minSlots = 1 << 10

	// freed marks a slot whose record was unlinked: searches go on past it, and
	// an insertion may take it.
	freed = uint64(1) << 32
)

// table maps 32-bit tags to record numbers; several records may share a tag.
// A slot holds tag<<32 | number+1, or 0 if it was never used, or freed. The
// place of a slot is given by the tag's high bits, so that a rebuild reads the
// old slots in order and no records at all.
//
// One goroutine changes it, any number search it meanwhile. A slot in use is
// only ever replaced by freed, and never goes back to 0: a search that runs
// beside changes finds each record that was linked all the while. A rebuild
// makes a new array and leaves the old one as it was; who still searches the
// old one may find records that were unlinked since, which is why unlinking
// also blanks the record.
type table struct {
	current atomic.Pointer[slots]
	live    int // slots that hold a record
	used    int // slots that are not 0
}

type slots struct {
	shift uint32 // 32 less the binary logarithm of len(words)
	words []atomic.Uint64
}

func newSlots(n int) *slots {
	s := &slots{shift: 32, words: make([]atomic.Uint64, n)}
	for ; n > 1; n >>= 1 {
		s.shift--
	}
	return s
}

// probe walks the record numbers that stand under a tag.
type probe struct {
	words []atomic.Uint64
	at    uint32
	tag   uint32
}

func (t *table) probe(tag uint32) probe {
	s := t.current.Load()
	return probe{s.words, tag >> s.shift, tag}
}

// next returns the next record number, or ok = false after the last one.
func (p *probe) next() (number uint32, ok bool) {
	for {
		w := p.words[p.at&uint32(len(p.words)-1)].Load()
		p.at++
		if w == 0 {
			return 0, false
		}
		if uint32(w>>32) == p.tag && uint32(w) != 0 {
			return uint32(w) - 1, true
		}
	}
}

// link adds a record number under tag. Everything a reader reads of the record
// must have been written before.
func (t *table) link(tag, number uint32) {
	if n := len(t.current.Load().words); (t.used+1)*3 > n*2 {
		t.rebuild()
	}
	if t.current.Load().put(uint64(tag)<<32|uint64(number+1)) == 0 {
		t.used++
	}
	t.live++
}

// unlink takes the record number away from under tag.
func (t *table) unlink(tag, number uint32) {
	s := t.current.Load()
	word := uint64(tag)<<32 | uint64(number+1)
	for at := tag >> s.shift; ; at++ {
		slot := &s.words[at&uint32(len(s.words)-1)]
		switch slot.Load() {
		case word:
			slot.Store(freed)
			t.live--
			return
		case 0:
			return
		}
	}
}

// rebuild makes room: the new array is at most two fifths full, whatever part
// of the old one were freed slots.
func (t *table) rebuild() {
	old, n := t.current.Load(), minSlots
	for t.live*5 > n*2 {
		n *= 2
	}
	s := newSlots(n)
	for i := range old.words {
		if w := old.words[i].Load(); uint32(w) != 0 {
			s.put(w)
		}
	}
	t.used = t.live
	t.current.Store(s)
}

// put stores word in the first slot that is free and returns what was there.
func (s *slots) put(word uint64) uint64 {
	for at := uint32(word>>32) >> s.shift; ; at++ {
		slot := &s.words[at&uint32(len(s.words)-1)]
		if was := slot.Load(); uint32(was) == 0 {
			slot.Store(word)
			return was
		}
	}
}
