package journal

import (
	"encoding/binary"
	"errors"
)

// Position is how far a journal was drained. The zero value is before all there
// is.
type Position struct {
	// Highest is the last sequence that was given out. All segments up to it
	// were drained wholly, but for Open.
	Highest uint64
	Open    []Mark
}

// Mark is how far one segment was drained.
type Mark struct {
	Sequence uint64
	Slot     uint32 // the first that was not
}

var errPosition = errors.New("the position in a journal does not have the form of one")

// Append appends p in the form that ParsePosition reads.
func (p *Position) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, p.Highest)
	for _, m := range p.Open {
		b = binary.BigEndian.AppendUint64(b, m.Sequence)
		b = binary.BigEndian.AppendUint32(b, m.Slot)
	}
	return b
}

// ParsePosition reads what Append wrote.
func ParsePosition(b []byte) (p Position, err error) {
	if len(b) < 8 || (len(b)-8)%12 != 0 {
		return p, errPosition
	}
	p.Highest = binary.BigEndian.Uint64(b)
	for b = b[8:]; len(b) > 0; b = b[12:] {
		p.Open = append(p.Open, Mark{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])})
	}
	return p, nil
}

// from returns the slot of a segment at which to go on, and whether there can
// be anything.
func (p *Position) from(sequence uint64) (slot uint32, ok bool) {
	for _, m := range p.Open {
		if m.Sequence == sequence {
			return max(m.Slot, 1), m.Slot < slotsInSegment
		}
	}
	return 1, sequence > p.Highest
}
