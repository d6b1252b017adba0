package registrar

import (
	"encoding/binary"
	"errors"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// countBlob names the number of a tenant's keys that are not revoked. It is
// there only once a plan bounded that number: then it is kept, so that no
// creation has to visit all keys.
func countBlob(tenant string) string { return "registrar/keys/" + tenant }

// addKeys changes the number by n, if it is kept.
func addKeys(tx store.Tx, tenant string, n int) error {
	old, err := tx.Blob(countBlob(tenant))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case len(old) != 8:
		return tx.PutBlob(countBlob(tenant), nil) // counted anew when it matters
	}
	return putCount(tx, tenant, binary.BigEndian.Uint64(old)+uint64(n))
}

// forgetCounts has the numbers of all tenants counted anew when they matter.
func forgetCounts(tx store.Tx) error {
	var kept []string
	err := tx.Tenants("", func(t *access.Tenant) bool {
		if _, err := tx.Blob(countBlob(t.ID)); err == nil {
			kept = append(kept, t.ID)
		}
		return true
	})
	for _, id := range kept {
		err = errors.Join(err, tx.PutBlob(countBlob(id), nil))
	}
	return err
}

func putCount(tx store.Tx, tenant string, n uint64) error {
	return tx.PutBlob(countBlob(tenant), binary.BigEndian.AppendUint64(nil, n))
}

// checkRoom refuses one key more than the plan, or the tenant's override of it,
// allows. It must come before the key is created.
func checkRoom(tx store.Tx, b *bounds) error {
	limit := b.maxKeys()
	if limit == 0 {
		return nil
	}
	var n uint64
	blob, err := tx.Blob(countBlob(b.tenant.ID))
	switch {
	case err == nil && len(blob) == 8:
		n = binary.BigEndian.Uint64(blob)
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	default:
		err = tx.Keys(b.tenant.ID, access.KeyID{}, func(k *access.Key) bool {
			if k.Status != access.StatusRevoked {
				n++
			}
			return true
		})
		if err != nil {
			return err
		}
		if err = putCount(tx, b.tenant.ID, n); err != nil {
			return err
		}
	}
	if n >= limit {
		return &Error{Code: Conflict, Message: "the plan's number of keys is reached", Hint: "revoke a key that is not needed, or move to another plan"}
	}
	return nil
}
