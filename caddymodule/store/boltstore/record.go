package boltstore

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

const (
	keyVersion  = 2  // that is written; see version1.go
	keyHeadLen  = 84 // fixed part of a key record
	previousLen = 32 + 1 + 8 + 8
	timeLen     = 12
)

// Flags of a key record: which of its parts are there.
const (
	hasPrevious = 1 << iota
	hasImported
	hasRotated
	hasOverride
	allFlags = hasPrevious | hasImported | hasRotated | hasOverride
)

var (
	errRecord     = errors.New("record does not have the form of its kind")
	errNoTenant   = errors.New("key of a tenant that is not there")
	errUnstorable = errors.New("cannot be stored")
)

// encodeKey returns the record of k, with room for its tag.
func encodeKey(k *access.Key) ([]byte, error) {
	if k.Status < access.StatusActive || k.Status > access.StatusRevoked {
		return nil, fmt.Errorf("key %s: status %s %w", k.ID, k.Status, errUnstorable)
	}
	w := writer{b: make([]byte, keyHeadLen, keyHeadLen+192+tagLen)}
	b := w.b
	b[0], b[1], b[2] = keyVersion, k.Alg, byte(k.Status)
	le.PutUint32(b[4:], k.Rate.Requests)
	le.PutUint32(b[8:], k.Rate.Burst)
	le.PutUint64(b[12:], uint64(k.Rate.Window))
	le.PutUint64(b[20:], uint64(k.Expires))
	putTime(b[28:], k.CreatedAt)
	putTime(b[40:], k.RevokedAt)
	copy(b[52:], k.Digest[:])
	w.text(k.Tenant)
	w.text(k.Environment)
	w.rights(k.Rights)
	w.parts(k)
	w.text(k.Name)
	w.text(k.Description)
	w.text(k.Prefix)
	w.metadata(k.Metadata)
	if w.over {
		return nil, fmt.Errorf("key %s: a text or list of more than %d, or an address without a form, %w", k.ID, math.MaxUint16, errUnstorable)
	}
	return w.b, nil
}

// parts writes what few keys have, and the flags.
func (w *writer) parts(k *access.Key) {
	var flags byte
	if p := k.Previous; p != nil {
		flags |= hasPrevious
		w.b = append(append(w.b, p.Digest[:]...), p.Alg)
		w.b = le.AppendUint64(w.b, uint64(p.Since))
		w.b = le.AppendUint64(w.b, uint64(p.Until))
	}
	if i := k.Imported; i != nil {
		flags |= hasImported
		w.text(i.Hint)
		w.text(i.Hash)
	}
	if k.Override != nil {
		flags |= hasOverride
		w.override(k.Override)
	}
	if !k.RotatedAt.IsZero() {
		flags |= hasRotated
		w.time(k.RotatedAt)
	}
	w.b[3] = flags
}

// names gives the strings of tenant ids and environments and the rights, so
// that a million keys share them.
type names struct {
	tenants map[string]string // all there are; nil takes any
	envs    map[string]string
	rights  map[string]*access.Rights // by their bytes; nil shares none
}

func newNames(tenants map[string]string) names {
	return names{tenants: tenants, envs: map[string]string{}, rights: map[string]*access.Rights{}}
}

func (n *names) tenant(b []byte) (string, error) {
	if n.tenants == nil {
		return string(b), nil
	}
	s, ok := n.tenants[string(b)]
	if !ok {
		return "", errNoTenant
	}
	return s, nil
}

func (n *names) env(b []byte) string {
	if n.envs == nil {
		return string(b)
	}
	s, ok := n.envs[string(b)]
	if !ok {
		s = string(b)
		n.envs[s] = s
	}
	return s
}

// decodeHead reads the head of a key record of any version into h and returns
// what follows it. It allocates only for names and rights not met before, and
// for the secrets and overrides that few keys have.
func decodeHead(h *access.KeyHead, id, b []byte, n *names) (rest []byte, err error) {
	if len(b) < keyHeadLen || len(id) != len(h.ID) || b[0] == 0 || b[0] > keyVersion || b[3]&^allFlags != 0 || b[0] == 1 && b[3] != 0 {
		return nil, errRecord
	}
	h.ID = access.KeyID(id)
	h.Alg, h.Status = b[1], access.Status(b[2])
	if h.Status < access.StatusActive || h.Status > access.StatusRevoked {
		return nil, errRecord
	}
	h.Rate.Requests, h.Rate.Burst = le.Uint32(b[4:]), le.Uint32(b[8:])
	h.Rate.Window = time.Duration(le.Uint64(b[12:]))
	h.Expires = int64(le.Uint64(b[20:]))
	h.Digest = [32]byte(b[52:])
	r := reading{b: b[keyHeadLen:]}
	tenant, env := r.bytes(), r.bytes()
	if r.bad || len(tenant) == 0 {
		return nil, errRecord
	}
	h.Environment = n.env(env)
	if h.Tenant, err = n.tenant(tenant); err != nil {
		return nil, err
	}
	h.Previous, h.Imported, h.Override = nil, nil, nil
	if b[0] == 1 {
		h.Rights = n.rights1(r)
		return r.b, nil
	}
	piece := r.bytes()
	var ok bool
	if h.Rights, ok = n.right(piece); !ok {
		return nil, errRecord
	}
	r.parts(h, b[3])
	if r.bad {
		return nil, errRecord
	}
	return r.b, nil
}

// parts reads what the flags say is there of what few keys have.
func (r *reading) parts(h *access.KeyHead, flags byte) {
	if flags&hasPrevious != 0 {
		p := r.take(previousLen)
		h.Previous = &access.Previous{Digest: [32]byte(p), Alg: p[32],
			Since: int64(le.Uint64(p[33:])), Until: int64(le.Uint64(p[41:]))}
	}
	if flags&hasImported != 0 {
		h.Imported = &access.Imported{Hint: r.text(), Hash: r.text()}
	}
	if flags&hasOverride != 0 {
		h.Override = r.override()
	}
}

func decodeKey(id, b []byte) (*access.Key, error) {
	k := new(access.Key)
	rest, err := decodeHead(&k.KeyHead, id, b, &names{})
	if err != nil {
		return nil, err
	}
	r := reading{b: rest}
	k.CreatedAt, k.RevokedAt = r.time(b[28:]), r.time(b[40:])
	if b[0] == 1 {
		r.body1(k)
	} else {
		if b[3]&hasRotated != 0 {
			k.RotatedAt = r.time(r.take(timeLen))
		}
		k.Name, k.Description, k.Prefix = r.text(), r.text(), r.text()
		k.Metadata = r.metadata()
	}
	if r.bad || len(r.b) > 0 {
		return nil, errRecord
	}
	return k, nil
}
