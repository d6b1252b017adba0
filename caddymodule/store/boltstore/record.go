package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

const (
	recordVersion = 1
	keyHeadLen    = 84 // fixed part of a key record
	tenantHeadLen = 16 // fixed part of a tenant record
)

var (
	errRecord     = errors.New("record does not have the form of its kind")
	errNoTenant   = errors.New("key of a tenant that is not there")
	errUnstorable = errors.New("cannot be stored")
)

var le = binary.LittleEndian

// encodeKey returns the record of k, with room for its tag.
func encodeKey(k *access.Key) ([]byte, error) {
	if k.Status < access.StatusActive || k.Status > access.StatusRevoked {
		return nil, fmt.Errorf("key %s: status %s %w", k.ID, k.Status, errUnstorable)
	}
	w := writer{b: make([]byte, keyHeadLen, keyHeadLen+160+tagLen)}
	b := w.b
	b[0], b[1], b[2] = recordVersion, k.Alg, byte(k.Status)
	le.PutUint32(b[4:], k.Rate.Requests)
	le.PutUint32(b[8:], k.Rate.Burst)
	le.PutUint64(b[12:], uint64(k.Rate.Window))
	le.PutUint64(b[20:], uint64(k.Expires))
	putTime(b[28:], k.CreatedAt)
	putTime(b[40:], k.RevokedAt)
	copy(b[52:], k.Digest[:])
	w.text(k.Tenant)
	w.text(k.Environment)
	w.text(k.Name)
	w.text(k.Prefix)
	w.count(len(k.Permissions()))
	for _, p := range k.Permissions() {
		w.text(p)
	}
	w.metadata(k.Metadata)
	if w.over {
		return nil, fmt.Errorf("key %s: a text or list of more than %d %w", k.ID, math.MaxUint16, errUnstorable)
	}
	return w.b, nil
}

// names gives the strings of tenant ids and environments, so that a million
// keys share them.
type names struct {
	tenants map[string]string // all there are; nil takes any
	envs    map[string]string
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

// decodeHead reads the head of a key record into h and returns what follows
// the environment. It allocates only for names not met before.
func decodeHead(h *access.KeyHead, id, b []byte, n *names) (rest []byte, err error) {
	if len(b) < keyHeadLen || len(id) != len(h.ID) || b[0] != recordVersion || b[3] != 0 {
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
	h.Tenant, err = n.tenant(tenant)
	return r.b, err
}

func decodeKey(id, b []byte) (*access.Key, error) {
	k := new(access.Key)
	rest, err := decodeHead(&k.KeyHead, id, b, &names{})
	if err != nil {
		return nil, err
	}
	r := reading{b: rest}
	k.CreatedAt, k.RevokedAt = r.time(b[28:]), r.time(b[40:])
	k.Name, k.Prefix = r.text(), r.text()
	if n := r.count(2); n > 0 {
		permissions := make([]string, n)
		for i := range permissions {
			permissions[i] = r.text()
		}
		k.Rights = access.NewRights(permissions, nil)
	}
	k.Metadata = r.metadata()
	if r.bad || len(r.b) > 0 {
		return nil, errRecord
	}
	return k, nil
}

func encodeTenant(t *access.Tenant) ([]byte, error) {
	if t.ID == "" || len(t.ID) > math.MaxUint8 || strings.IndexByte(t.ID, 0) >= 0 {
		return nil, fmt.Errorf("tenant id %q %w", t.ID, errUnstorable)
	}
	if t.Status != access.StatusActive && t.Status != access.StatusSuspended {
		return nil, fmt.Errorf("tenant %s: status %s %w", t.ID, t.Status, errUnstorable)
	}
	w := writer{b: make([]byte, tenantHeadLen, tenantHeadLen+96+tagLen)}
	w.b[0], w.b[1] = recordVersion, byte(t.Status)
	putTime(w.b[4:], t.CreatedAt)
	w.text(t.ID)
	w.text(t.Name)
	w.text(t.Plan)
	w.metadata(t.Metadata)
	if w.over {
		return nil, fmt.Errorf("tenant %s: a text or list of more than %d %w", t.ID, math.MaxUint16, errUnstorable)
	}
	return w.b, nil
}

func decodeTenant(id, b []byte) (*access.Tenant, error) {
	if len(b) < tenantHeadLen || b[0] != recordVersion || b[2] != 0 || b[3] != 0 {
		return nil, errRecord
	}
	t := &access.Tenant{Status: access.Status(b[1])}
	if t.Status != access.StatusActive && t.Status != access.StatusSuspended {
		return nil, errRecord
	}
	r := reading{b: b[tenantHeadLen:]}
	t.CreatedAt = r.time(b[4:])
	t.ID, t.Name, t.Plan = r.text(), r.text(), r.text()
	t.Metadata = r.metadata()
	if r.bad || len(r.b) > 0 || t.ID != string(id) {
		return nil, errRecord
	}
	return t, nil
}

// writer appends the variable part of a record.
type writer struct {
	b    []byte
	over bool // something was longer than its length field can say
}

func (w *writer) count(n int) {
	w.over = w.over || n > math.MaxUint16
	w.b = le.AppendUint16(w.b, uint16(n))
}

func (w *writer) text(s string) {
	w.count(len(s))
	w.b = append(w.b, s...)
}

func (w *writer) metadata(m map[string]string) {
	w.count(len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		w.text(k)
		w.text(m[k])
	}
}

// reading takes the variable part of a record apart. After the first thing
// that does not fit it is bad and gives only zero values.
type reading struct {
	b   []byte
	bad bool
}

// count reads the length of a list whose items take at least size bytes.
func (r *reading) count(size int) int {
	if r.bad || len(r.b) < 2 {
		r.bad = true
		return 0
	}
	n := int(le.Uint16(r.b))
	if n*size > len(r.b)-2 {
		r.bad = true
		return 0
	}
	r.b = r.b[2:]
	return n
}

func (r *reading) bytes() []byte {
	n := r.count(1)
	s := r.b[:n]
	r.b = r.b[n:]
	return s
}

func (r *reading) text() string { return string(r.bytes()) }

func (r *reading) metadata() map[string]string {
	n := r.count(4)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := r.text()
		m[k] = r.text()
	}
	r.bad = r.bad || len(m) != n
	return m
}

func (r *reading) time(b []byte) time.Time {
	nsec := le.Uint32(b[8:])
	r.bad = r.bad || nsec >= 1e9
	return time.Unix(int64(le.Uint64(b)), int64(nsec)).UTC()
}

func putTime(b []byte, t time.Time) {
	le.PutUint64(b, uint64(t.Unix()))
	le.PutUint32(b[8:], uint32(t.Nanosecond()))
}
