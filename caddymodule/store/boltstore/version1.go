package boltstore

import "github.com/keytoll/keytoll/caddymodule/access"

// Key records of version 1 have the permissions, which alone are their rights,
// behind the name and the prefix. They are read and no longer written.

// rights1 returns the rights of a record, of which r is what follows the
// environment; nil also for one that is broken, as decodeKey will see.
func (n *names) rights1(r reading) *access.Rights {
	r.bytes()
	r.bytes()
	piece := r.b
	for range r.count(2) {
		r.bytes()
	}
	if r.bad {
		return nil
	}
	piece = piece[:len(piece)-len(r.b)]
	return n.share(piece, func() *access.Rights {
		list := reading{b: piece}
		return access.NewRights(list.texts(), nil)
	})
}

// body1 reads what follows the environment.
func (r *reading) body1(k *access.Key) {
	k.Name, k.Prefix = r.text(), r.text()
	r.texts() // the rights, in the head by now
	k.Metadata = r.metadata()
}
