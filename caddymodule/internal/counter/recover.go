package counter

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// recover reads all slots, rebuilds the look-up and sets right what the last
// process left undone.
func (f *File) recover(st state, c *chunk) error {
	r := &f.recovery
	boot := f.boot()
	r.Clean = st.stopped
	r.SameBoot = st.boot == boot && boot != [16]byte{} && !st.damaged
	f.finishTurn(c)
	exact := r.Clean || r.SameBoot
	f.ids = make(map[[16]byte]uint32, st.count)
	if !st.stopped {
		f.ids = make(map[[16]byte]uint32, f.capacity/2)
	}
	b := make([]byte, 1<<20)
	for first := uint32(0); first < f.capacity; {
		n := min(uint32(int64(len(b))/slotLen), f.capacity-first)
		// Read, and not from the mapping: a bad disk is an error then.
		if _, err := f.fd.ReadAt(b[:int64(n)*slotLen], offset(first)); err != nil && err != io.EOF {
			return err
		}
		for i := range n {
			f.admit(first+i, b[int64(i)*slotLen:][:slotLen], &c.recs[first+i], exact)
		}
		first += n
	}
	r.Slots = len(f.ids)
	for n := range f.next {
		if c.recs[n].crc.Load() == 0 && !f.bad(n) {
			f.free = append(f.free, n)
		}
	}
	if missing := int(st.count) - len(f.ids) - len(r.Damaged); st.stopped && missing > 0 {
		f.damaged(Damage{Why: fmt.Sprintf("%d slots are missing", missing)}, nil)
	}
	return nil
}

// bad reports whether slot n is damaged and not to be used again.
func (f *File) bad(n uint32) bool {
	_, found := slices.BinarySearchFunc(f.recovery.Damaged, n, func(d Damage, n uint32) int { return cmp.Compare(d.Slot, n) })
	return found && !f.opt.DropDamaged
}

// finishTurn completes a Turn that a kill interrupted. One that was finished,
// with changes after it, is left alone.
func (f *File) finishTurn(c *chunk) {
	n, old, next, ok := f.journal.pending()
	f.journal.end()
	if !ok || n >= f.capacity {
		return
	}
	if v := c.recs[n].values(); v != next && between(v, old, next) {
		c.recs[n].store(next)
		f.recovery.Turned = true
	}
}

// admit takes in slot n, whose bytes are b.
func (f *File) admit(n uint32, b []byte, r *record, exact bool) {
	if empty(b) {
		return
	}
	f.next = n + 1
	id := [16]byte(b)
	crc := binary.NativeEndian.Uint32(b[slotLen-4:])
	_, twice := f.ids[id]
	switch {
	case crc == 0 && empty(b[16:]):
		r.clear() // its making was interrupted
		return
	case crc != slotCRC(n, id):
		f.damaged(Damage{n, id, "its checksum is wrong"}, r)
		return
	case twice:
		f.damaged(Damage{n, id, "another slot has its id"}, r)
		return
	}
	f.ids[id] = n
	lease := max(r.leased.Load(), r.promised.Load())
	used := r.used.Load()
	if !exact && lease > used && lease > 0 {
		r.used.Store(lease)
		f.recovery.Raised++
		used = lease
	}
	if lease > used { // the process that it was given to is gone
		r.leased.Store(used)
		r.promised.Store(used)
	}
}

// damaged notes a slot that is not to be trusted, and frees it if so wished. r
// is nil for what has no slot.
func (f *File) damaged(d Damage, r *record) {
	f.recovery.Damaged = append(f.recovery.Damaged, d)
	if f.opt.DropDamaged && r != nil {
		r.clear()
	}
}

func empty(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
