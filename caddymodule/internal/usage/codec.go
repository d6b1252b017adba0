package usage

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The first bytes of the keys; see the package comment.
const (
	tagMinute    = 'm'
	tagHour      = 'h'
	tagDay       = 'd'
	tagHourDone  = 'H'
	tagDayDone   = 'D'
	tagBatch     = 'g'
	tagWater     = 'w'
	tagCursor    = 'c'
	tagThreshold = 't'
	tagInstance  = 'i'
	tagPosition  = 'p'
)

const (
	valuesFormat = 1
	minuteHead   = 13 // bytes of a minute's key before the series
	unitHead     = 5  // of an hour's or a day's
)

var be = binary.BigEndian

// batchID names one flush for good.
type batchID struct{ incarnation, number uint32 }

// after reports whether b was made later than o.
func (b batchID) after(o batchID) bool {
	return b.incarnation > o.incarnation || b.incarnation == o.incarnation && b.number > o.number
}

// unitKey is the key of a mark, or where the records of a unit begin.
func unitKey(tag byte, unit uint32) []byte { return be.AppendUint32([]byte{tag}, unit) }

// unitEnd is where the records of the units up to this one end.
func unitEnd(tag byte, unit uint32) []byte {
	if unit == ^uint32(0) {
		return []byte{tag + 1}
	}
	return unitKey(tag, unit+1)
}

func minuteKey(minute uint32, b batchID) []byte {
	k := unitKey(tagMinute, minute)
	return be.AppendUint32(be.AppendUint32(k, b.incarnation), b.number)
}

func batchKey(b batchID) []byte {
	return be.AppendUint32(be.AppendUint32([]byte{tagBatch}, b.incarnation), b.number)
}

// unitOf returns the unit of a stored row.
func unitOf(k []byte) (uint32, error) {
	if len(k) < unitHead {
		return 0, damaged(k)
	}
	return be.Uint32(k[1:]), nil
}

func parseBatchKey(k []byte) batchID { return batchID{be.Uint32(k[1:]), be.Uint32(k[5:])} }

func parseMinuteKey(k []byte) (minute uint32, b batchID) {
	return be.Uint32(k[1:]), batchID{be.Uint32(k[5:]), be.Uint32(k[9:])}
}

func appendSeries(b []byte, s *Series) []byte {
	b = append(append(b, s.Tenant...), 0)
	b = append(b, s.Key[:]...)
	return append(append(b, byte(s.Class), byte(s.Flags)), s.Route...)
}

// parseSeries reads what appendSeries wrote after head bytes of a key.
func parseSeries(k []byte, head int) (s Series, err error) {
	if len(k) < head {
		return s, damaged(k)
	}
	tenant, rest, ok := bytes.Cut(k[head:], []byte{0})
	if !ok || len(rest) < len(s.Key)+2 {
		return s, damaged(k)
	}
	s.Tenant = string(tenant)
	n := copy(s.Key[:], rest)
	s.Class, s.Flags, s.Route = Class(rest[n]), Flags(rest[n+1]), string(rest[n+2:])
	return s, nil
}

// appendValues writes the format, five sums, a mask of the buckets that are not
// empty, and these.
func appendValues(b []byte, v *Values) []byte {
	b = append(b, valuesFormat)
	for _, n := range v.sums() {
		b = binary.AppendVarint(b, *n)
	}
	var mask uint64
	for i, n := range v.Latency {
		if n != 0 {
			mask |= 1 << i
		}
	}
	b = binary.AppendUvarint(b, mask)
	for _, n := range v.Latency {
		if n != 0 {
			b = binary.AppendVarint(b, n)
		}
	}
	return b
}

func parseValues(key, b []byte) (v Values, err error) {
	if len(b) == 0 || b[0] != valuesFormat {
		return v, damaged(key)
	}
	b = b[1:]
	for _, n := range v.sums() {
		if b, err = varint(key, b, n); err != nil {
			return v, err
		}
	}
	mask, l := binary.Uvarint(b)
	if l <= 0 || mask>>Buckets != 0 {
		return v, damaged(key)
	}
	b = b[l:]
	for i := range v.Latency {
		if mask&(1<<i) != 0 {
			if b, err = varint(key, b, &v.Latency[i]); err != nil {
				return v, err
			}
		}
	}
	if len(b) != 0 {
		return v, damaged(key)
	}
	return v, nil
}

func (v *Values) sums() [5]*int64 {
	return [...]*int64{&v.Requests, &v.Credits, &v.BytesIn, &v.BytesOut, &v.Micros}
}

func varint(key, b []byte, n *int64) ([]byte, error) {
	x, l := binary.Varint(b)
	if l <= 0 {
		return nil, damaged(key)
	}
	*n = x
	return b[l:], nil
}

func damaged(key []byte) error { return fmt.Errorf("%w: key %x", ErrDamaged, key) }
