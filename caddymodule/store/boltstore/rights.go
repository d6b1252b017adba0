package boltstore

import (
	"net/netip"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// maxShared bounds the rights that a loader remembers: keys that all differ
// share nothing.
const maxShared = 1 << 16

// rights writes the rights of a key as one piece behind its length: the
// permissions, then the networks as length, address and bits.
func (w *writer) rights(v *access.Rights) {
	if v == nil || len(v.Permissions) == 0 && len(v.Addresses) == 0 {
		w.count(0)
		return
	}
	piece := writer{}
	piece.texts(v.Permissions)
	piece.count(len(v.Addresses))
	for _, a := range v.Addresses {
		piece.over = piece.over || !a.IsValid()
		raw := a.Addr().AsSlice()
		piece.b = append(append(piece.b, byte(len(raw))), raw...)
		piece.b = append(piece.b, byte(a.Bits()))
	}
	w.count(len(piece.b))
	w.b = append(w.b, piece.b...)
	w.over = w.over || piece.over
}

// right returns the rights of a piece, or false if it is none.
func (n *names) right(piece []byte) (*access.Rights, bool) {
	if len(piece) == 0 {
		return nil, true
	}
	v := n.share(piece, func() *access.Rights { return decodeRights(piece) })
	return v, v != nil
}

// share returns the rights that piece stands for, made once.
func (n *names) share(piece []byte, decode func() *access.Rights) *access.Rights {
	if v, ok := n.rights[string(piece)]; ok {
		return v
	}
	v := decode()
	if n.rights != nil && len(n.rights) < maxShared {
		n.rights[string(piece)] = v
	}
	return v
}

// decodeRights returns nil for what is no piece.
func decodeRights(piece []byte) *access.Rights {
	r := reading{b: piece}
	permissions := r.texts()
	var addresses []netip.Prefix
	for range r.count(2) {
		addr, ok := netip.AddrFromSlice(r.take(int(r.take(1)[0])))
		prefix := netip.PrefixFrom(addr, int(r.take(1)[0]))
		r.bad = r.bad || !ok || !prefix.IsValid()
		if r.bad {
			return nil
		}
		addresses = append(addresses, prefix)
	}
	if r.bad || len(r.b) > 0 {
		return nil
	}
	return access.NewRights(permissions, addresses)
}
