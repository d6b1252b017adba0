package limit

import (
	"crypto/sha256"
	"net/netip"
)

// Subject is whom a bucket of the table belongs to: a tenant, an address, a
// key. Subjects of different kinds are kept apart by the class of an ask.
type Subject [16]byte

// SubjectOf returns the subject for a name such as a tenant id: the first half
// of its SHA-256, so that nobody can choose two names with one bucket. It does
// not allocate for names of at most 64 bytes.
func SubjectOf(name string) Subject {
	var sum [sha256.Size]byte
	if len(name) <= 64 {
		var buf [64]byte
		sum = sha256.Sum256(buf[:copy(buf[:], name)])
	} else {
		sum = sha256.Sum256([]byte(name))
	}
	return Subject(sum[:16])
}

// AddrSubject returns the subject for the network of a: its first v4bits bits
// if it is IPv4 or IPv4-mapped IPv6, else its first v6bits bits. Zones are
// ignored, and bits out of range mean the nearest bound. All invalid addresses
// are one subject, which is no network's.
func AddrSubject(a netip.Addr, v4bits, v6bits int) Subject {
	if !a.IsValid() {
		var s Subject
		for i := range s {
			s[i] = 0xff
		}
		return s
	}
	keep := min(max(v6bits, 0), 128)
	if a = a.Unmap(); a.Is4() {
		keep = 96 + min(max(v4bits, 0), 32)
	}
	s := Subject(a.As16())
	for i := range s {
		switch bits := keep - 8*i; {
		case bits <= 0:
			s[i] = 0
		case bits < 8:
			s[i] &= 0xff << (8 - bits)
		}
	}
	return s
}
