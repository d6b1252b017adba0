package boltstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// ProviderKey implements store.Reader.
func (r *reader) ProviderKey(tenant, provider string) (*access.ProviderKey, error) {
	id := providerKeyID(tenant, provider)
	b, err := r.get(bucketProviderKeys, id)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("key of tenant %q for %q: %w", tenant, provider, store.ErrNotFound)
	}
	return decoded(r, "provider key", decodeProviderKey, id, b)
}

// ProviderKeys implements store.Reader. yield may write.
func (r *reader) ProviderKeys(tenant string, yield func(*access.ProviderKey) bool) error {
	var prefix []byte
	if tenant != "" {
		prefix = providerKeyID(tenant, "")
	}
	return eachDecoded(r, "provider key", bucketProviderKeys, decodeProviderKey, prefix, nil, yield)
}

// DataKey implements store.Reader.
func (r *reader) DataKey(tenant string) (*access.DataKey, error) {
	b, err := r.get(bucketDataKeys, []byte(tenant))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("data key of tenant %q: %w", tenant, store.ErrNotFound)
	}
	return decoded(r, "data key", decodeDataKey, []byte(tenant), b)
}

// DataKeys implements store.Reader. yield may write.
func (r *reader) DataKeys(after string, yield func(*access.DataKey) bool) error {
	return eachDecoded(r, "data key", bucketDataKeys, decodeDataKey, nil, []byte(after), yield)
}

// decoded returns what a checked record holds.
func decoded[T any](r *reader, what string, decode func(id, b []byte) (*T, error), id, b []byte) (*T, error) {
	r.inside = true
	v, err := decode(id, b)
	r.inside = false
	if err != nil {
		return nil, damaged(r.s.path, "%s %q: %v", what, id, err)
	}
	return v, nil
}

// eachDecoded calls yield for the records of a bucket whose ids have a prefix
// and are greater than that and after.
func eachDecoded[T any](r *reader, what string, bucket []byte, decode func(id, b []byte) (*T, error), prefix, after []byte, yield func(*T) bool) error {
	var failed error
	r.each(bucket, prefix, after, func(rest, value []byte) bool {
		id := append(prefix[:len(prefix):len(prefix)], rest...)
		r.inside = true
		b, err := r.open(bucket, id, value)
		r.inside = false
		var v *T
		if err == nil {
			v, err = decoded(r, what, decode, id, b)
		}
		if err != nil {
			failed = err
			return false
		}
		return yield(v)
	})
	return failed
}

// PutProviderKey implements store.Tx. It refuses a provider that is none for
// access.CheckProvider, and a key without an ID.
func (t *tx) PutProviderKey(k *access.ProviderKey) error {
	b, err := encodeProviderKey(k)
	if err != nil {
		return err
	}
	if _, err := t.Tenant(k.Tenant); err != nil {
		return err
	}
	if err := t.put(bucketProviderKeys, providerKeyID(k.Tenant, k.Provider), b); err != nil {
		return err
	}
	told := *k
	told.Sealed = nil
	t.changes = append(t.changes, store.Change{ProviderKey: &told})
	return nil
}

// DeleteProviderKey implements store.Tx.
func (t *tx) DeleteProviderKey(tenant, provider string) error {
	k, err := t.ProviderKey(tenant, provider)
	if err != nil {
		return err
	}
	t.changes = append(t.changes, store.Change{ProviderKeyGone: &access.ProviderKey{Tenant: k.Tenant, Provider: k.Provider, ID: k.ID}})
	return t.delete(bucketProviderKeys, providerKeyID(tenant, provider))
}

// PutDataKey implements store.Tx. It refuses one without a wrapper or without
// what that wrapped.
func (t *tx) PutDataKey(k *access.DataKey) error {
	b, err := encodeDataKey(k)
	if err != nil {
		return err
	}
	if _, err := t.Tenant(k.Tenant); err != nil {
		return err
	}
	return t.put(bucketDataKeys, []byte(k.Tenant), b)
}

// DeleteDataKey implements store.Tx.
func (t *tx) DeleteDataKey(tenant string) error {
	if _, err := t.DataKey(tenant); err != nil {
		return err
	}
	return t.delete(bucketDataKeys, []byte(tenant))
}

// deleteProviderKeys deletes what a tenant that is going has of these, the data
// key included.
func (t *tx) deleteProviderKeys(tenant string) error {
	var failed error
	err := t.ProviderKeys(tenant, func(k *access.ProviderKey) bool {
		failed = t.delete(bucketProviderKeys, providerKeyID(tenant, k.Provider))
		return failed == nil
	})
	return errors.Join(err, failed, t.delete(bucketDataKeys, []byte(tenant)))
}

// loadProviders hands the provider keys to apply and checks the data keys. Both
// have to be those of tenants that are there.
func (l *loading) loadProviders(ctx context.Context, apply func(store.Change)) error {
	var stray error
	belongs := func(tenant string) bool {
		if _, ok := l.tenants[tenant]; !ok {
			stray = damaged(l.s.path, "there is a provider key or data key of tenant %q, which is not there", tenant)
		}
		return stray == nil && ctx.Err() == nil
	}
	err := l.s.view(func(r store.Reader) error {
		return errors.Join(
			r.ProviderKeys("", func(k *access.ProviderKey) bool {
				if !belongs(k.Tenant) {
					return false
				}
				k.Sealed = nil
				apply(store.Change{ProviderKey: k})
				return true
			}),
			r.DataKeys("", func(k *access.DataKey) bool { return belongs(k.Tenant) }))
	})
	if err != nil {
		return err
	}
	return stray
}
