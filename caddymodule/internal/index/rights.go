package index

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// rights holds each distinct set of permissions and addresses once, under its
// text. Number 0 is the empty text: no rights to speak of.
type rights struct {
	*interner[string]
	cells slab[atomic.Pointer[access.Rights]]
}

// Rights returns what the key may do and from where: nil is no permission and
// any address. It is shared by many keys and must not be changed.
func (x *Index) Rights(r *Record) *access.Rights { return x.rights.cells.at(r.rights.Load()).Load() }

// acquire returns the number of r and counts one user more.
func (s *rights) acquire(r *access.Rights) uint32 {
	text := rightsText(r)
	_, known := s.numbers[text]
	i := s.interner.acquire(text)
	s.cells.ensure(i)
	if !known {
		own := &access.Rights{Addresses: slices.Clone(r.Addresses)}
		for _, p := range r.Permissions {
			own.Permissions = append(own.Permissions, strings.Clone(p))
		}
		s.cells.at(i).Store(own)
	}
	return i
}

// rightsText tells sets of rights apart: no permission holds a comma or a
// space, and no network does either.
func rightsText(r *access.Rights) string {
	if r == nil || len(r.Permissions) == 0 && len(r.Addresses) == 0 {
		return ""
	}
	var b strings.Builder
	for _, p := range r.Permissions {
		b.WriteString(p)
		b.WriteByte(',')
	}
	b.WriteByte(' ')
	for _, a := range r.Addresses {
		b.WriteString(prefixText(a))
		b.WriteByte(',')
	}
	return b.String()
}

// prefixText is a network's text. One that is invalid is a network in which no
// address is, and must not get lost among those that are.
func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return "none"
	}
	return p.String()
}
