package registrar

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// KeyFilter says which keys a list holds.
type KeyFilter struct {
	Tenant string        // all tenants if empty
	Status access.Status // all states if zero
	Name   string        // part of the name, in whatever case; all names if empty
}

// KeyUpdate is a change to a key. Nil fields stay as they are.
type KeyUpdate struct {
	Name        *string
	Description *string
	Status      *access.Status     // active or disabled
	ExpiresAt   *time.Time         // in whole seconds
	Never       bool               // no expiry from now on; not together with ExpiresAt
	Rate        *access.Rate       // overrides the plan's rates
	PlanRate    bool               // the plan's rates from now on; not together with Rate
	Permissions *[]string          // replaces all
	Addresses   *[]netip.Prefix    // replaces all; none is any address
	Metadata    *map[string]string // replaces all entries
}

// Key returns one key. Errors: NotFound, Unavailable.
func (r *Registrar) Key(ctx context.Context, id access.KeyID) (*access.Key, error) {
	var k *access.Key
	err := r.o.Store.View(ctx, func(rd store.Reader) (err error) {
		k, err = key(rd, id)
		return err
	})
	if err != nil {
		return nil, public("reading a key", err)
	}
	return k, nil
}

// key reads one key inside a transaction.
func key(rd store.Reader, id access.KeyID) (*access.Key, error) {
	k, err := rd.Key(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noKey(id)
	}
	return k, err
}

// Keys returns up to limit keys whose ids come after the given one, in order
// of ids, and the id to go on after, zero at the end. A limit of 0 is
// DefaultLimit. A filter on the state visits the keys it leaves out too.
// Errors: InvalidRequest, NotFound for a tenant that is not there, Unavailable.
func (r *Registrar) Keys(ctx context.Context, f KeyFilter, after access.KeyID, limit int) (page []*access.Key, next access.KeyID, err error) {
	if limit, err = checkLimit(limit); err != nil {
		return nil, next, err
	}
	if err = f.check(); err != nil {
		return nil, next, err
	}
	err = r.o.Store.View(ctx, func(rd store.Reader) error {
		if f.Tenant != "" {
			if _, err := tenant(rd, f.Tenant); err != nil {
				return err
			}
		}
		var err error
		page, next, err = keys(ctx, rd, f, after, limit)
		return err
	})
	if err != nil {
		return nil, access.KeyID{}, public("listing keys", err)
	}
	return page, next, nil
}

func keys(ctx context.Context, rd store.Reader, f KeyFilter, after access.KeyID, limit int) (page []*access.Key, next access.KeyID, err error) {
	visited := 0
	err = rd.Keys(f.Tenant, after, func(k *access.Key) bool {
		// A client that has gone must not keep a scan of a million keys running.
		if visited++; visited%1024 == 0 && ctx.Err() != nil {
			return false
		}
		if f.Status != 0 && k.Status != f.Status {
			return true
		}
		if len(page) == limit {
			next = page[limit-1].ID
			return false
		}
		page = append(page, k)
		return true
	})
	return page, next, errors.Join(err, ctx.Err())
}

func (f KeyFilter) check() error {
	if f.Tenant != "" {
		if err := checked("tenant", access.CheckTenantID(f.Tenant)); err != nil {
			return err
		}
	}
	switch f.Status {
	case 0, access.StatusActive, access.StatusDisabled, access.StatusRevoked:
		return nil
	}
	return invalid("status", "status of a key: want active, disabled or revoked, not %s", f.Status)
}

// RevokeKey refuses a key for good, from the next request on, and returns it.
// Revoking a revoked key changes nothing and returns the same. Errors:
// NotFound, Unavailable.
func (r *Registrar) RevokeKey(ctx context.Context, id access.KeyID) (*access.Key, error) {
	var k *access.Key
	var changed bool
	err := r.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		if k, err = key(tx, id); err != nil {
			return err
		}
		if changed = k.Status != access.StatusRevoked; !changed {
			return errUnchanged
		}
		k.Status = access.StatusRevoked
		k.RevokedAt = r.now()
		return tx.UpdateKey(k)
	})
	if err = public("revoking a key", err); err != nil {
		return nil, err
	}
	if changed {
		r.emit("api_key_revoked", keyEvent(k))
	}
	return k, nil
}

// UpdateKey changes a key's name or state and returns what is stored then.
// Errors: InvalidRequest, NotFound, Conflict for the state of a revoked key,
// Unavailable.
func (r *Registrar) UpdateKey(ctx context.Context, id access.KeyID, u KeyUpdate) (*access.Key, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	var k *access.Key
	err := r.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		if k, err = key(tx, id); err != nil {
			return err
		}
		if u.Status != nil && k.Status == access.StatusRevoked {
			return &Error{Code: Conflict, Field: "status", Message: fmt.Sprintf("key %s is revoked for good", id),
				Hint: "caddy keytoll keys create --tenant " + k.Tenant}
		}
		if !u.apply(k) {
			return errUnchanged
		}
		return tx.UpdateKey(k)
	})
	if err = public("changing a key", err); err != nil {
		return nil, err
	}
	return k, nil
}

func (u KeyUpdate) check() error {
	if u.Status != nil && *u.Status != access.StatusActive && *u.Status != access.StatusDisabled {
		return invalid("status", "status of a key: want active or disabled, not %s", *u.Status)
	}
	if u.Name != nil {
		return checked("name", access.CheckName(*u.Name))
	}
	return nil
}

// apply reports whether k is different now.
func (u KeyUpdate) apply(k *access.Key) bool {
	name, status := k.Name, k.Status
	if u.Name != nil {
		k.Name = *u.Name
	}
	if u.Status != nil {
		k.Status = *u.Status
	}
	return k.Name != name || k.Status != status
}

// DisableKey refuses a key from the next request on, until EnableKey. Errors as
// UpdateKey.
func (r *Registrar) DisableKey(ctx context.Context, id access.KeyID) (*access.Key, error) {
	return r.UpdateKey(ctx, id, KeyUpdate{Status: new(access.StatusDisabled)})
}

// EnableKey lets a disabled key in again. Errors as UpdateKey.
func (r *Registrar) EnableKey(ctx context.Context, id access.KeyID) (*access.Key, error) {
	return r.UpdateKey(ctx, id, KeyUpdate{Status: new(access.StatusActive)})
}

func keyEvent(k *access.Key) map[string]any {
	data := map[string]any{
		"key":         k.ID.String(),
		"tenant":      k.Tenant,
		"name":        k.Name,
		"prefix":      k.Prefix,
		"environment": k.Environment,
	}
	if k.Expires != 0 {
		data["expires_at"] = time.Unix(k.Expires, 0).UTC().Format(time.RFC3339)
	}
	return data
}
