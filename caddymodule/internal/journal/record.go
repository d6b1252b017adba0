package journal

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// Numbers is how many numbers a Record has.
const Numbers = 4

// Record is what one call of Append writes. Class 255 is taken, and names are
// of 255 bytes at most.
type Record struct {
	Second       uint32 // unix
	Class, Flags uint8
	Key          [16]byte
	Numbers      [Numbers]int64
	Tenant       string
	Route        string
}

const (
	slotLen   = 64
	headLen   = 8                 // of each slot, not part of what is summed
	bodyLen   = slotLen - headLen // of each slot
	fixedLen  = 24                // of the first body: second, lengths, key
	maxName   = 255               // bytes of a tenant or a route
	maxRecord = fixedLen + Numbers*8 + 2*maxName
	maxSlots  = (maxRecord + bodyLen - 1) / bodyLen
	classPad  = 255 // fills the end of a segment
)

var ne = binary.NativeEndian

// zigzag has the sign in the lowest bit, so that small numbers are short.
func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

// width is how many bytes a number takes, 0 to 8.
func width(u uint64) int { return (bits.Len64(u) + 7) >> 3 }

// encode writes all but the names into b, which is zero, and returns where the
// names go. The numbers' widths do not wait for one another, which is why this is
// no loop.
func (r *Record) encode(b *[bodyLen + 8]byte) (names int) {
	u0, u1, u2, u3 := zigzag(r.Numbers[0]), zigzag(r.Numbers[1]), zigzag(r.Numbers[2]), zigzag(r.Numbers[3])
	n0, n1, n2, n3 := width(u0), width(u1), width(u2), width(u3)
	ne.PutUint32(b[:], r.Second)
	ne.PutUint16(b[4:], uint16(n0<<12|n1<<8|n2<<4|n3))
	b[6] = byte(len(r.Route))
	*(*[16]byte)(b[8:]) = r.Key
	binary.LittleEndian.PutUint64(b[fixedLen:], u0)
	at := fixedLen + n0
	binary.LittleEndian.PutUint64(b[at:], u1)
	at += n1
	binary.LittleEndian.PutUint64(b[at:], u2)
	at += n2
	binary.LittleEndian.PutUint64(b[at:], u3)
	return at + n3
}

// decode reads the bodies of a record. Its names are parts of b. It reports
// whether that can be a record.
func (r *Record) decode(head uint64, b []byte) bool {
	if len(b) < fixedLen {
		return false
	}
	r.Class, r.Flags = uint8(head>>16), uint8(head>>8)
	r.Second = ne.Uint32(b)
	lengths := ne.Uint16(b[4:])
	route, tenant := int(b[6]), int(uint8(head))
	copy(r.Key[:], b[8:])
	at := fixedLen
	for i := range r.Numbers {
		n := int(lengths >> (4 * (Numbers - 1 - i)) & 15)
		if n > 8 || at+n > len(b) {
			return false
		}
		var u uint64
		for k := range n {
			u |= uint64(b[at+k]) << (8 * k)
		}
		r.Numbers[i] = int64(u>>1) ^ -int64(u&1)
		at += n
	}
	if at+tenant+route > len(b) {
		return false
	}
	r.Tenant = view(b[at : at+tenant])
	r.Route = view(b[at+tenant : at+tenant+route])
	return true
}

// view is a string that shares the bytes of b.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// headOf is a head without its sum.
func headOf(slots int, class, flags uint8, tenant int) uint64 {
	return uint64(slots)<<24 | uint64(class)<<16 | uint64(flags)<<8 | uint64(tenant)
}

func slotsOf(head uint64) int { return int(head >> 24 & 0xff) }
func isPad(head uint64) bool  { return uint8(head>>16) == classPad }

// withSum completes a head: b are the bodies, of a whole number of slots.
func withSum(seed, head uint64, b []byte) uint64 {
	h := seed ^ head<<32
	for ; len(b) >= bodyLen; b = b[bodyLen:] {
		h = mix(h, (*[bodyLen]byte)(b))
	}
	return (h^h>>32)<<32 | head
}

// mix adds a body to a sum. It does what a checksum has to, in a quarter of the
// time of CRC-32C, which is made for longer texts.
func mix(h uint64, b *[bodyLen]byte) uint64 {
	const (
		k0 = 0x9e3779b97f4a7c15
		k1 = 0xe7037ed1a0b428db
		k2 = 0x8ebc6af09c88c6e3
		k3 = 0x589965cc75374cc3
	)
	x := fold(ne.Uint64(b[:])^k0, ne.Uint64(b[8:])^h)
	y := fold(ne.Uint64(b[16:])^k1, ne.Uint64(b[24:])^k2)
	z := fold(ne.Uint64(b[32:])^k2, ne.Uint64(b[40:])^k3)
	return fold(x^bits.RotateLeft64(y, 17)^bits.RotateLeft64(z, 41)^k3, ne.Uint64(b[48:])^h^k1)
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
