package registrar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

const (
	providerKeyPrefix = "pk_"
	providerKeyRandom = 16 // base62 characters behind it
	// lastFourFrom is how long a provider key is of which the end is shown: four
	// characters of a shorter one would tell too much.
	lastFourFrom = 16
)

// StoreProviderKey keeps a tenant's own key for a provider, sealed under the
// tenant's data key, which is made with the first. A key that is there for the
// provider is replaced, and what was known of its use and verification goes
// with it. What is returned holds nothing sealed. Errors: InvalidRequest,
// NotFound for the tenant, Conflict at access.MaxProviders, Unavailable, also
// when what wraps data keys does not answer.
func (r *Registrar) StoreProviderKey(ctx context.Context, tenantID, provider string, key token.Secret) (k *access.ProviderKey, replaced bool, err error) {
	if err := checked("tenant", access.CheckTenantID(tenantID)); err != nil {
		return nil, false, err
	}
	return r.storeProviderKey(ctx, nil, tenantID, provider, key)
}

func (r *Registrar) storeProviderKey(ctx context.Context, d *Desk, tenantID, name string, key token.Secret) (*access.ProviderKey, bool, error) {
	if err := first(r.checkProvider(name), checked("api_key", provider.CheckKey(key.Reveal()))); err != nil {
		return nil, false, err
	}
	ring, err := r.ring()
	if err != nil {
		return nil, false, err
	}
	var k *access.ProviderKey
	var replaced bool
	err = retry(func() (err error) {
		k, replaced, err = r.tryStore(ctx, ring, d, tenantID, name, key)
		return err
	})
	if err = public("storing a provider key", err); err != nil {
		return nil, false, err
	}
	r.emit("provider_key_stored", map[string]any{"tenant": k.Tenant, "provider": name})
	k.Sealed = nil
	return k, replaced, nil
}

// checkProvider says why no key may be stored for a provider of that name.
func (r *Registrar) checkProvider(name string) error {
	if err := checked("provider", access.CheckProvider(name)); err != nil {
		return err
	}
	names := r.o.Providers()
	if slices.Contains(names, name) {
		return nil
	}
	e := invalid("provider", "there is no provider %q in the configuration", name)
	if len(names) == 0 {
		e.Hint = "no provider is configured: add one with `provider <name>`"
	} else {
		e.Hint = "providers: " + strings.Join(names, ", ")
	}
	return e
}

// tryStore seals the key and stores it, unless the data key became another
// meanwhile: then it returns errRaced.
func (r *Registrar) tryStore(ctx context.Context, ring *seal.Keyring, d *Desk, tenantID, name string, key token.Secret) (k *access.ProviderKey, replaced bool, err error) {
	var have *access.DataKey
	err = r.o.Store.View(ctx, func(rd store.Reader) (err error) {
		if tenantID, err = r.owner(rd, d, tenantID); err == nil {
			have, err = dataKey(rd, tenantID)
		}
		return err
	})
	if err != nil {
		return nil, false, err
	}
	sealer, now, err := r.dataKeyFor(ctx, ring, tenantID, have)
	if err != nil {
		return nil, false, err
	}
	if k, err = r.newProviderKey(tenantID, name, key); err != nil {
		return nil, false, err
	}
	plain := []byte(key.Reveal())
	defer clear(plain)
	if k.Sealed, err = sealer.Seal(providerKeyAAD(k), plain); err != nil {
		return nil, false, unopened("sealing a provider key", err)
	}
	err = r.o.Store.Update(ctx, func(tx store.Tx) error {
		if _, err := r.owner(tx, d, tenantID); err != nil {
			return err
		}
		if err := stillThere(tx, tenantID, have); err != nil {
			return err
		}
		old, err := roomFor(tx, k)
		if err != nil {
			return err
		}
		a := act{action: "provider_key.stored", tenant: tenantID, object: name, after: providerKeyFormOf(k)}
		if replaced = old != nil; replaced {
			a.action, a.before = "provider_key.replaced", providerKeyFormOf(old)
		}
		if have == nil {
			err = tx.PutDataKey(now)
		}
		return errors.Join(err, tx.PutProviderKey(k), r.record(ctx, tx, a))
	})
	return k, replaced, err
}

func (r *Registrar) newProviderKey(tenantID, name string, key token.Secret) (*access.ProviderKey, error) {
	id, err := token.AppendRandom([]byte(providerKeyPrefix), providerKeyRandom, r.o.Random)
	if err != nil {
		return nil, err
	}
	k := &access.ProviderKey{Tenant: tenantID, Provider: name, ID: string(id), CreatedAt: r.now()}
	if text := key.Reveal(); len(text) >= lastFourFrom {
		k.LastFour = strings.Clone(text[len(text)-4:]) // the rest need not stay in memory
	}
	return k, nil
}

// roomFor returns the provider key whose place k takes, nil for none.
func roomFor(rd store.Reader, k *access.ProviderKey) (*access.ProviderKey, error) {
	var old *access.ProviderKey
	n := 0
	err := rd.ProviderKeys(k.Tenant, func(have *access.ProviderKey) bool {
		if n++; have.Provider == k.Provider {
			old = have
		}
		return true
	})
	if err == nil && old == nil && n >= access.MaxProviders {
		err = &Error{Code: Conflict, Field: "provider", Message: fmt.Sprintf("tenant %q has %d provider keys, and there may be no more", k.Tenant, n),
			Hint: "delete one that is not needed"}
	}
	return old, err
}

// owner returns the tenant whose provider keys are meant: that of the caller of
// d or, for the operator, the one that is named, if it is there.
func (r *Registrar) owner(rd store.Reader, d *Desk, tenantID string) (string, error) {
	if d != nil {
		b, err := d.bounds(rd)
		if err != nil {
			return "", err
		}
		return b.tenant.ID, nil
	}
	_, err := tenant(rd, tenantID)
	return tenantID, err
}

// ProviderKeys returns a tenant's provider keys in order of providers, without
// what is sealed. Errors: InvalidRequest, NotFound for the tenant, Unavailable.
func (r *Registrar) ProviderKeys(ctx context.Context, tenantID string) ([]*access.ProviderKey, error) {
	if err := checked("tenant", access.CheckTenantID(tenantID)); err != nil {
		return nil, err
	}
	return r.providerKeys(ctx, nil, tenantID)
}

func (r *Registrar) providerKeys(ctx context.Context, d *Desk, tenantID string) (list []*access.ProviderKey, err error) {
	err = r.o.Store.View(ctx, func(rd store.Reader) error {
		list = nil
		id, err := r.owner(rd, d, tenantID)
		if err != nil {
			return err
		}
		return rd.ProviderKeys(id, func(k *access.ProviderKey) bool {
			k.Sealed = nil
			list = append(list, k)
			return true
		})
	})
	if err != nil {
		return nil, public("listing provider keys", err)
	}
	return list, nil
}

// ProviderKey returns a tenant's key for a provider, without what is sealed.
// Errors: InvalidRequest, NotFound, Unavailable.
func (r *Registrar) ProviderKey(ctx context.Context, tenantID, provider string) (*access.ProviderKey, error) {
	if err := checked("tenant", access.CheckTenantID(tenantID)); err != nil {
		return nil, err
	}
	return r.providerKey(ctx, nil, tenantID, provider)
}

func (r *Registrar) providerKey(ctx context.Context, d *Desk, tenantID, name string) (k *access.ProviderKey, err error) {
	err = r.o.Store.View(ctx, func(rd store.Reader) error {
		id, err := r.owner(rd, d, tenantID)
		if err == nil {
			k, err = storedProviderKey(rd, id, name)
		}
		return err
	})
	if err != nil {
		return nil, public("reading a provider key", err)
	}
	k.Sealed = nil
	return k, nil
}

// storedProviderKey reads one provider key inside a transaction. A name that no
// provider can have is one without a key.
func storedProviderKey(rd store.Reader, tenantID, name string) (*access.ProviderKey, error) {
	if access.CheckProvider(name) != nil {
		return nil, noProviderKey(tenantID)
	}
	k, err := rd.ProviderKey(tenantID, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noProviderKey(tenantID)
	}
	return k, err
}

// noProviderKey has the same words for each provider, configured or not.
func noProviderKey(tenantID string) *Error {
	return &Error{Code: NotFound, Field: "provider", Message: "there is no key for this provider", Hint: "caddy keytoll provider-keys list " + tenantID}
}

// DeleteProviderKey deletes a tenant's key for a provider, which need not be
// configured any longer. With the last one goes the tenant's data key, so that
// copies of what it sealed stay shut. Errors: InvalidRequest, NotFound,
// Unavailable.
func (r *Registrar) DeleteProviderKey(ctx context.Context, tenantID, provider string) error {
	if err := checked("tenant", access.CheckTenantID(tenantID)); err != nil {
		return err
	}
	return r.deleteProviderKey(ctx, nil, tenantID, provider)
}

func (r *Registrar) deleteProviderKey(ctx context.Context, d *Desk, tenantID, name string) error {
	var k *access.ProviderKey
	err := r.o.Store.Update(ctx, func(tx store.Tx) error {
		id, err := r.owner(tx, d, tenantID)
		if err != nil {
			return err
		}
		if k, err = storedProviderKey(tx, id, name); err != nil {
			return err
		}
		if err := tx.DeleteProviderKey(id, name); err != nil {
			return err
		}
		a := act{action: "provider_key.deleted", tenant: id, object: name, before: providerKeyFormOf(k)}
		return errors.Join(dropDataKey(tx, id), r.record(ctx, tx, a))
	})
	if err = public("deleting a provider key", err); err != nil {
		return err
	}
	r.emit("provider_key_deleted", map[string]any{"tenant": k.Tenant, "provider": name})
	return nil
}

// providerKeyForm is a provider key as the audit trail shows it: nothing that
// tells of the key itself.
type providerKeyForm struct {
	Provider string `json:"provider"`
	ID       string `json:"id"`
	Valid    *bool  `json:"valid,omitempty"` // of a verification alone
}

func providerKeyFormOf(k *access.ProviderKey) *providerKeyForm {
	return &providerKeyForm{Provider: k.Provider, ID: k.ID}
}
