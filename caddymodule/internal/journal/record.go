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
	tailLen   = bodyLen - fixedLen
	maxName   = 255 // bytes of a tenant or a route
	maxRecord = fixedLen + Numbers*8 + 2*maxName
	maxSlots  = (maxRecord + bodyLen - 1) / bodyLen
	classPad  = 255 // fills the end of a segment
)

var ne = binary.NativeEndian

// zigzag has the sign in the lowest bit, so that small numbers are short.
func zigzag(v int64) uint64 { return uint64(v)<<1 ^ uint64(v>>63) }

// width is how many bytes a number takes, 0 to 8.
func width(u uint64) int { return (bits.Len64(u) + 7) >> 3 }

// tail is what a record that takes one slot has behind its key, and room for the
// last number to be stored in one piece. It is read by words, and so lies where
// they do.
type tail struct {
	_ [0]uint64
	b [tailLen + 8]byte
}

// put writes the numbers, and returns their lengths and where the names go. The
// lengths do not wait for one another, which is why this is no loop.
func (t *tail) put(n *[Numbers]int64) (lengths uint16, names int) {
	u0, u1, u2, u3 := zigzag(n[0]), zigzag(n[1]), zigzag(n[2]), zigzag(n[3])
	n0, n1, n2, n3 := width(u0), width(u1), width(u2), width(u3)
	binary.LittleEndian.PutUint64(t.b[:], u0)
	binary.LittleEndian.PutUint64(t.b[n0:], u1)
	binary.LittleEndian.PutUint64(t.b[n0+n1:], u2)
	binary.LittleEndian.PutUint64(t.b[n0+n1+n2:], u3)
	return uint16(n0<<12 | n1<<8 | n2<<4 | n3), n0 + n1 + n2 + n3
}

// first is the first word of a body.
func first(second uint32, lengths uint16, route int) uint64 {
	return uint64(second) | uint64(lengths)<<32 | uint64(uint8(route))<<48
}

// encode writes all of a record into b, which is zero, and returns how many
// slots it takes.
func (r *Record) encode(b *[maxSlots * bodyLen]byte) (slots int) {
	var t tail
	lengths, names := t.put(&r.Numbers)
	ne.PutUint64(b[:], first(r.Second, lengths, len(r.Route)))
	*(*[16]byte)(b[8:]) = r.Key
	at := fixedLen + copy(b[fixedLen:], t.b[:names])
	at += copy(b[at:], r.Tenant)
	at += copy(b[at:], r.Route)
	return (at + bodyLen - 1) / bodyLen
}

// decode reads the bodies of a record. Its names are parts of b. It reports
// whether that can be a record.
func (r *Record) decode(head uint64, b []byte) bool {
	if len(b) < fixedLen {
		return false
	}
	r.Class, r.Flags = uint8(head>>16), uint8(head>>8)
	word := ne.Uint64(b)
	r.Second = uint32(word)
	lengths, route, tenant := uint16(word>>32), int(uint8(word>>48)), int(uint8(head))
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
		h = mix(h, ne.Uint64(b), ne.Uint64(b[8:]), ne.Uint64(b[16:]), ne.Uint64(b[24:]), ne.Uint64(b[32:]), ne.Uint64(b[40:]), ne.Uint64(b[48:]))
	}
	return (h^h>>32)<<32 | head
}

// mix adds the words of a body to a sum. It does what a checksum has to, in a
// quarter of the time of CRC-32C, which is made for longer texts.
func mix(h, w0, w1, w2, w3, w4, w5, w6 uint64) uint64 {
	x, y, z := fold(w0^k0, w1^h), fold(w2^k1, w3^k2), fold(w4^k2, w5^k3)
	return fold(x^bits.RotateLeft64(y, 17)^bits.RotateLeft64(z, 41)^k3, w6^h^k1)
}

const (
	k0 = 0x9e3779b97f4a7c15
	k1 = 0xe7037ed1a0b428db
	k2 = 0x8ebc6af09c88c6e3
	k3 = 0x589965cc75374cc3
)

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
