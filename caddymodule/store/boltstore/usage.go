package boltstore

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// maxUsageKey is the longest key of a usage record, in bytes.
const maxUsageKey = 1024

// Usage implements store.Reader. yield may write.
func (r *reader) Usage(from, to []byte, yield func(key, value []byte) bool) error {
	return r.within(func() error {
		b := r.tx.Bucket(bucketUsage)
		if b == nil { // none in a database of an older version
			return nil
		}
		c := b.Cursor()
		for k, v := seekFrom(c, from); k != nil && (to == nil || bytes.Compare(k, to) < 0); {
			record, err := r.open(bucketUsage, k, v)
			if err != nil {
				return err
			}
			last, writes := k, r.writes
			if r.tx.Writable() {
				last = bytes.Clone(k) // a write may move what k points at
			}
			both := append(append(make([]byte, 0, len(k)+len(record)), k...), record...)
			r.inside = false
			if !yield(both[:len(k):len(k)], both[len(k):]) {
				return nil
			}
			r.inside = true
			if r.writes != writes {
				k, v = seekPast(c, last)
			} else {
				k, v = c.Next()
			}
		}
		return nil
	})
}

// seekFrom returns the first id not less than from, and its value.
func seekFrom(c *bolt.Cursor, from []byte) (k, v []byte) {
	if len(from) == 0 {
		return c.First()
	}
	return c.Seek(from)
}

// PutUsage implements store.Tx.
func (t *tx) PutUsage(key, value []byte) error {
	if len(key) == 0 || len(key) > maxUsageKey {
		return fmt.Errorf("usage under a key of %d bytes %w: want 1 to %d", len(key), errUnstorable, maxUsageKey)
	}
	if value == nil {
		return t.delete(bucketUsage, key)
	}
	record := make([]byte, len(value), len(value)+tagLen)
	copy(record, value)
	return t.put(bucketUsage, bytes.Clone(key), record)
}
