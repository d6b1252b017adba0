package registrar

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// UnsealProviderKey returns a tenant's key for a provider as it was brought, if
// it is still the one of that id. The caller overwrites the bytes when it needs
// them no longer. Errors: NotFound if it was replaced or is gone; Unavailable if
// it cannot be opened, which wraps a cause that may be logged.
func (r *Registrar) UnsealProviderKey(ctx context.Context, tenantID, provider, id string) ([]byte, error) {
	ring, err := r.ring()
	if err != nil {
		return nil, err
	}
	var k *access.ProviderKey
	var have *access.DataKey
	err = r.o.Store.View(ctx, func(rd store.Reader) (err error) {
		if k, err = storedProviderKey(rd, tenantID, provider); err != nil {
			return err
		}
		if k.ID != id {
			return noProviderKey(tenantID)
		}
		have, err = dataKey(rd, tenantID)
		return err
	})
	if err != nil {
		return nil, public("reading a provider key", err)
	}
	sealer, err := openDataKey(ctx, ring, tenantID, have)
	if err != nil {
		return nil, public("opening a data key", err)
	}
	plain, err := sealer.Open(providerKeyAAD(k), k.Sealed)
	if err != nil {
		return nil, unopened(fmt.Sprintf("the key of tenant %q for provider %q", tenantID, provider), err)
	}
	return plain, nil
}

// RecordProviderVerified notes what a verification of a provider key said. A
// key that was replaced since or is gone is passed over. Errors: Unavailable.
func (r *Registrar) RecordProviderVerified(ctx context.Context, tenantID, provider, id string, valid bool) error {
	err := r.o.Store.Update(ctx, func(tx store.Tx) error {
		k, err := currentProviderKey(tx, tenantID, provider, id)
		if err != nil {
			return err
		}
		k.LastVerified, k.Valid = r.now().Unix(), valid
		after := providerKeyFormOf(k)
		after.Valid = &valid
		a := act{action: "provider_key.verified", tenant: tenantID, object: provider, after: after}
		return errors.Join(tx.PutProviderKey(k), r.record(ctx, tx, a))
	})
	return public("storing a verification", err)
}

// currentProviderKey reads the provider key of that id. It returns errUnchanged
// if there is none any longer.
func currentProviderKey(rd store.Reader, tenantID, provider, id string) (*access.ProviderKey, error) {
	k, err := rd.ProviderKey(tenantID, provider)
	if errors.Is(err, store.ErrNotFound) || err == nil && k.ID != id {
		return nil, errUnchanged
	}
	return k, err
}

// ProviderUse is the last use of a stored provider key.
type ProviderUse struct {
	Tenant, Provider, ID string
	At                   int64 // unix seconds
}

// RecordProviderUses stores the last uses of provider keys, a thousand in each
// transaction; keys that were replaced or are gone, and uses before the last
// that is stored, are passed over. It is no change for the audit trail. At an
// error some may be stored: the same uses may be given again. Errors:
// Unavailable.
func (r *Registrar) RecordProviderUses(ctx context.Context, uses []ProviderUse) error {
	for batch := range slices.Chunk(uses, useBatch) {
		err := r.o.Store.Update(ctx, func(tx store.Tx) error {
			changed := false
			for _, u := range batch {
				k, err := currentProviderKey(tx, u.Tenant, u.Provider, u.ID)
				if errors.Is(err, errUnchanged) || err == nil && k.LastUsed >= u.At {
					continue
				}
				if err != nil {
					return err
				}
				k.LastUsed, changed = u.At, true
				if err := tx.PutProviderKey(k); err != nil {
					return err
				}
			}
			if !changed {
				return errUnchanged
			}
			return nil
		})
		if err = public("storing last uses of provider keys", err); err != nil {
			return err
		}
	}
	return nil
}
