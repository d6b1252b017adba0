package boltstore

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// reader reads within one transaction, in one goroutine.
type reader struct {
	s      *Store
	tx     *bolt.Tx
	tagger *tagger
	inside bool // pages are being read: a panic is not the caller's
	writes int  // cursors are stale when it has changed
}

// rescue is deferred by those who made the reader.
func (r *reader) rescue(err *error) {
	p := recover()
	if p == nil {
		return
	}
	if !r.inside {
		panic(p)
	}
	*err = damaged(r.s.path, "%v", p)
	if r.tx != nil && r.tx.Writable() {
		r.s.fail(*err, false)
	}
}

// within runs fn, which reads pages, and sets inside to false while it calls
// someone else's function. A panic leaves inside as it is, for rescue.
func (r *reader) within(fn func() error) error {
	r.inside = true
	err := fn()
	r.inside = false
	return err
}

// get returns the checked record of id, or nil.
func (r *reader) get(bucket, id []byte) ([]byte, error) {
	r.inside = true
	var v []byte
	if b := r.tx.Bucket(bucket); b != nil { // none in a database of an older version
		v = b.Get(id)
	}
	if v == nil {
		r.inside = false
		return nil, nil
	}
	b, err := r.open(bucket, id, v)
	r.inside = false
	return b, err
}

func (r *reader) open(bucket, id, value []byte) ([]byte, error) {
	b, ok := r.tagger.open(bucket, id, value)
	if !ok {
		return nil, damaged(r.s.path, "record %q in %s fails its tag", id, bucket)
	}
	return b, nil
}

// Tenant implements store.Reader.
func (r *reader) Tenant(id string) (*access.Tenant, error) {
	b, err := r.get(bucketTenants, []byte(id))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("tenant %q: %w", id, store.ErrNotFound)
	}
	return r.tenant([]byte(id), b)
}

func (r *reader) tenant(id, b []byte) (*access.Tenant, error) {
	r.inside = true
	t, err := decodeTenant(id, b)
	r.inside = false
	if err != nil {
		return nil, damaged(r.s.path, "tenant %q: %v", id, err)
	}
	return t, nil
}

// Key implements store.Reader.
func (r *reader) Key(id access.KeyID) (*access.Key, error) {
	b, err := r.get(bucketKeys, id[:])
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("key %s: %w", id, store.ErrNotFound)
	}
	return r.key(id, b)
}

func (r *reader) key(id access.KeyID, b []byte) (*access.Key, error) {
	r.inside = true
	k, err := decodeKey(id[:], b)
	r.inside = false
	if err != nil {
		return nil, damaged(r.s.path, "key %s: %v", id, err)
	}
	return k, nil
}

// Tenants implements store.Reader.
func (r *reader) Tenants(after string, yield func(*access.Tenant) bool) error {
	var failed error
	r.each(bucketTenants, nil, []byte(after), func(id, _ []byte) bool {
		t, err := r.Tenant(string(id))
		if err != nil {
			failed = err
			return false
		}
		return yield(t)
	})
	return failed
}

// each calls visit with what follows prefix in the ids of a bucket, for those
// greater than after, and the value as it is stored. visit may write.
func (r *reader) each(bucket, prefix, after []byte, visit func(id, value []byte) bool) {
	r.inside = true
	b := r.tx.Bucket(bucket)
	if b == nil { // none in a database of an older version
		r.inside = false
		return
	}
	c := b.Cursor()
	last := append(bytes.Clone(prefix), after...)
	for k, v := seekPast(c, last); k != nil && bytes.HasPrefix(k, prefix); {
		last = append(last[:0], k...)
		writes := r.writes
		r.inside = false
		if !visit(last[len(prefix):], v) {
			return
		}
		r.inside = true
		if r.writes != writes {
			k, v = seekPast(c, last)
		} else {
			k, v = c.Next()
		}
	}
	r.inside = false
}

// seekPast returns the first id greater than last, and its value.
func seekPast(c *bolt.Cursor, last []byte) (k, v []byte) {
	if len(last) == 0 {
		return c.First()
	}
	if k, v = c.Seek(last); bytes.Equal(k, last) {
		return c.Next()
	}
	return k, v
}

// Blob implements store.Reader.
func (r *reader) Blob(name string) ([]byte, error) {
	b, err := r.get(bucketBlobs, []byte(name))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("blob %q: %w", name, store.ErrNotFound)
	}
	r.inside = true
	b = bytes.Clone(b)
	r.inside = false
	return b, nil
}
