package boltstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// tx writes within one transaction, in one goroutine.
type tx struct {
	reader
	changes []store.Change
	buried  [][32]byte  // digests and marks of keys; see revoked.go
	entries []entry     // that these became
	learnt  *divergence // of a replay
	roots   *roots      // that the database has from then on, if they change
}

// put stores a record, whose slice it keeps.
func (t *tx) put(bucket, id, record []byte) error {
	t.inside = true
	t.writes++
	err := t.tx.Bucket(bucket).Put(id, t.tagger.seal(bucket, id, record))
	t.inside = false
	return storageError(t.s.path, err)
}

func (t *tx) delete(bucket, id []byte) error {
	t.inside = true
	t.writes++
	err := t.tx.Bucket(bucket).Delete(id)
	t.inside = false
	return storageError(t.s.path, err)
}

// PutTenant implements store.Tx. It refuses a tenant whose id is empty, longer
// than 255 bytes or holds a NUL.
func (t *tx) PutTenant(v *access.Tenant) error {
	b, err := encodeTenant(v)
	if err != nil {
		return err
	}
	if err := t.put(bucketTenants, []byte(v.ID), b); err != nil {
		return err
	}
	copied, err := decodeTenant([]byte(v.ID), b) // a deep copy
	if err != nil {
		return fmt.Errorf("tenant %s %w", v.ID, errUnstorable)
	}
	t.changes = append(t.changes, store.Change{Tenant: copied})
	return nil
}

// DeleteTenant implements store.Tx. The follower is told of the keys first.
func (t *tx) DeleteTenant(id string) error {
	if _, err := t.Tenant(id); err != nil {
		return err
	}
	var failed error
	err := t.Keys(id, access.KeyID{}, func(k *access.Key) bool {
		t.changes = append(t.changes, store.Change{KeyGone: &k.KeyHead})
		failed = t.delete(bucketKeys, k.ID[:])
		if failed == nil {
			failed = t.delete(bucketTenantKeys, tenantKey(id, k.ID))
		}
		if failed == nil {
			failed = t.delete(bucketUses, k.ID[:])
		}
		t.buried = append(t.buried, keyMark(k.ID))
		return failed == nil
	})
	if err = errors.Join(err, failed, t.deleteProviderKeys(id)); err != nil {
		return err
	}
	t.changes = append(t.changes, store.Change{TenantGone: id})
	return t.delete(bucketTenants, []byte(id))
}

// CreateKey implements store.Tx.
func (t *tx) CreateKey(k *access.Key) error {
	b, err := encodeKey(k)
	if err != nil {
		return err
	}
	if _, err := t.Tenant(k.Tenant); err != nil {
		return err
	}
	old, err := t.get(bucketKeys, k.ID[:])
	if err != nil {
		return err
	}
	if old != nil {
		return fmt.Errorf("key %s: %w", k.ID, store.ErrExists)
	}
	if err := t.put(bucketKeys, k.ID[:], b); err != nil {
		return err
	}
	head, err := headOf(k, b)
	if err != nil {
		return err
	}
	t.changes = append(t.changes, store.Change{Key: head})
	t.inside = true
	err = t.tx.Bucket(bucketTenantKeys).Put(tenantKey(k.Tenant, k.ID), nil)
	t.inside = false
	return storageError(t.s.path, err)
}

// UpdateKey implements store.Tx. A change of tenant is an error.
func (t *tx) UpdateKey(k *access.Key) error {
	b, err := encodeKey(k)
	if err != nil {
		return err
	}
	old, err := t.Key(k.ID)
	if err != nil {
		return err
	}
	if old.Tenant != k.Tenant {
		return fmt.Errorf("key %s belongs to tenant %s for good", k.ID, old.Tenant)
	}
	if err := t.put(bucketKeys, k.ID[:], b); err != nil {
		return err
	}
	head, err := headOf(k, b)
	if err != nil {
		return err
	}
	if k.Status == access.StatusRevoked && old.Status != access.StatusRevoked {
		t.buried = append(t.buried, keyMark(k.ID))
	}
	t.changes = append(t.changes, store.Change{Key: head, Old: &old.KeyHead})
	return nil
}

// headOf returns a copy of k's head that shares nothing with k, whose record is
// b.
func headOf(k *access.Key, b []byte) (*access.KeyHead, error) {
	head := new(access.KeyHead)
	if _, err := decodeHead(head, k.ID[:], b, &names{}); err != nil {
		return nil, fmt.Errorf("key %s %w", k.ID, errUnstorable)
	}
	return head, nil
}

// Bury implements store.Tx.
func (t *tx) Bury(digests ...[32]byte) error {
	t.buried = append(t.buried, digests...)
	return nil
}

// Buried implements store.Reader.
func (t *tx) Buried(digest [32]byte) (bool, error) {
	if slices.Contains(t.buried, digest) {
		return true, nil
	}
	return t.reader.Buried(digest)
}

// PutBlob implements store.Tx.
func (t *tx) PutBlob(name string, value []byte) error {
	if value == nil {
		return t.delete(bucketBlobs, []byte(name))
	}
	record := make([]byte, len(value), len(value)+tagLen)
	copy(record, value)
	return t.put(bucketBlobs, []byte(name), record)
}

// tenantKey returns the id of a key in tenant_keys.
func tenantKey(tenant string, id access.KeyID) []byte {
	b := make([]byte, 0, len(tenant)+1+len(id))
	b = append(b, tenant...)
	b = append(b, 0)
	return append(b, id[:]...)
}
