package counter

import (
	"encoding/binary"
	"errors"
)

// Value is what a slot counts, without its lease.
type Value struct {
	ID                    [16]byte
	Period, Used, Carried int64
}

// valueLen is the length of a stored Value.
const valueLen = 16 + 3*8

var errValues = errors.New("the copy of counters does not have the form of one")

// AppendValues appends values in the form that ParseValues reads.
func AppendValues(b []byte, values []Value) []byte {
	for i := range values {
		v := &values[i]
		b = append(b, v.ID[:]...)
		for _, n := range [...]int64{v.Period, v.Used, v.Carried} {
			b = binary.LittleEndian.AppendUint64(b, uint64(n))
		}
	}
	return b
}

// ParseValues reads what AppendValues wrote.
func ParseValues(b []byte) ([]Value, error) {
	if len(b)%valueLen != 0 {
		return nil, errValues
	}
	values := make([]Value, 0, len(b)/valueLen)
	for ; len(b) > 0; b = b[valueLen:] {
		v := Value{ID: [16]byte(b)}
		for i, n := range [...]*int64{&v.Period, &v.Used, &v.Carried} {
			*n = int64(binary.LittleEndian.Uint64(b[16+8*i:]))
		}
		values = append(values, v)
	}
	return values, nil
}

// Extent is the number of slots that are or were in use: all have lower
// numbers.
func (f *File) Extent() uint32 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.next
}

// turnsApart is how many slots Values reads while it keeps Turns waiting.
const turnsApart = 64

// Values appends what the n slots from number first on count, but for those
// that are free or damaged. Each is as it was at some moment of the call, and
// never in the middle of a Turn. Counting goes on meanwhile.
func (f *File) Values(to []Value, first, n uint32) (_ []Value, err error) {
	if err := f.gone(); err != nil {
		return to, err
	}
	end := min(first+n, f.Extent())
	err = f.guarded(func() {
		for ; first < end; first += turnsApart {
			to = f.someValues(to, first, min(first+turnsApart, end))
		}
	})
	return to, err
}

func (f *File) someValues(to []Value, first, end uint32) []Value {
	f.turnMu.Lock()
	defer f.turnMu.Unlock()
	for n := first; n < end; n++ {
		_, r := f.record(n)
		if id := r.idBytes(); r.crc.Load() == slotCRC(n, id) && !f.bad(n) {
			to = append(to, Value{id, r.period.Load(), r.used.Load(), r.carried.Load()})
		}
	}
	return to
}

// Adopt brings a slot up to a copy of it: the later period counts, in the same
// one the higher use and the lower rest of the period before, so that neither
// of the two has less left than the result. It reports whether that changed the
// slot. Nobody else may use the slot meanwhile.
func (f *File) Adopt(v Value) (changed bool, err error) {
	s, err := f.Slot(v.ID)
	if err != nil {
		return false, err
	}
	err = f.guarded(func() {
		is := Value{v.ID, s.Period(), s.Used(), s.Carried()}
		switch {
		case v.Period < is.Period || v.Period == is.Period && v.Used <= is.Used && v.Carried >= is.Carried:
			return
		case v.Period == is.Period:
			v.Used, v.Carried = max(v.Used, is.Used), min(v.Carried, is.Carried)
		}
		changed, err = true, s.Turn(v.Period, v.Used, v.Carried)
	})
	return changed, err
}

// Fold returns the name of the copy that was last made of the file, as SetFold
// stored it; zero if there is none.
func (f *File) Fold() [8]byte {
	f.growMu.Lock()
	defer f.growMu.Unlock()
	return f.fold
}

// SetFold writes everything to the disk, and then the name of the copy that was
// made of it.
func (f *File) SetFold(name [8]byte) error {
	if err := f.gone(); err != nil {
		return err
	}
	if err := f.sync(0); err != nil {
		return err
	}
	f.growMu.Lock()
	defer f.growMu.Unlock()
	if err := f.gone(); err != nil {
		return err
	}
	f.mu.RLock()
	capacity := f.capacity
	f.mu.RUnlock()
	before := f.fold
	f.fold = name
	if err := f.writeState(state{boot: f.boot(), capacity: uint64(capacity)}); err != nil {
		f.fold = before
		return f.wrap(err)
	}
	return f.syncHeader()
}
