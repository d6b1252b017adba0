package registrar

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// KeyUpdate is a change to a key. Nil and false fields stay as they are.
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

// UpdateKey changes a key and returns what is stored then; all of the update
// happens or nothing. Errors: InvalidRequest, NotFound, Conflict for a revoked
// key and for what the plan or tenant does not allow, Unavailable.
func (r *Registrar) UpdateKey(ctx context.Context, id access.KeyID, u KeyUpdate) (*access.Key, error) {
	return r.update(ctx, nil, id, u)
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

func (r *Registrar) update(ctx context.Context, d *Desk, id access.KeyID, u KeyUpdate) (*access.Key, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	k, _, err := r.edit(ctx, d, id, u.action(), func(_ store.Tx, k *access.Key, b *bounds) error {
		// A revoked key is a record of the past, but its name helps people.
		if k.Status == access.StatusRevoked && u.limits() {
			return &Error{Code: Conflict, Field: u.field(), Message: fmt.Sprintf("key %s is revoked for good", id),
				Hint: "caddy keytoll keys create --tenant " + k.Tenant}
		}
		was := *k
		if err := r.apply(b, k, u); err != nil {
			return err
		}
		if reflect.DeepEqual(was, *k) {
			return errUnchanged
		}
		if u.opens() { // none may be given more, or brought back, by one that has less
			return r.covers(b, k)
		}
		return nil
	})
	return k, err
}

// opens reports whether the update may let a key do again, or from more places
// or for longer, what it is permitted to.
func (u KeyUpdate) opens() bool {
	return u.Status != nil && *u.Status == access.StatusActive || u.ExpiresAt != nil || u.Never ||
		u.Rate != nil || u.PlanRate || u.Addresses != nil
}

// action names the update in the audit trail.
func (u KeyUpdate) action() string {
	if s := u.Status; s != nil && u == (KeyUpdate{Status: s}) {
		if *s == access.StatusActive {
			return "key.enabled"
		}
		return "key.disabled"
	}
	return "key.updated"
}

// limits reports whether the update is about what the key may do.
func (u KeyUpdate) limits() bool { return u.field() != "" }

// field names the first such field.
func (u KeyUpdate) field() string {
	switch {
	case u.Status != nil:
		return "status"
	case u.ExpiresAt != nil || u.Never:
		return "expires_at"
	case u.Rate != nil || u.PlanRate:
		return "rate"
	case u.Permissions != nil:
		return "permissions"
	case u.Addresses != nil:
		return "addresses"
	}
	return ""
}

// check checks what is wrong whatever is stored.
func (u KeyUpdate) check() error {
	if u.Status != nil && *u.Status != access.StatusActive && *u.Status != access.StatusDisabled {
		return invalid("status", "status of a key: want active or disabled, not %s", *u.Status)
	}
	if u.ExpiresAt != nil && u.Never {
		return invalid("expires_at", "a key cannot both expire and never expire")
	}
	if u.Rate != nil && u.PlanRate {
		return invalid("rate", "a key cannot have both its own rate and the plan's")
	}
	var errs []error
	if u.Name != nil {
		errs = append(errs, checked("name", access.CheckName(*u.Name)))
	}
	if u.Description != nil {
		errs = append(errs, checked("description", access.CheckDescription(*u.Description)))
	}
	if u.Rate != nil {
		errs = append(errs, checked("rate", u.Rate.Validate()))
	}
	if u.Permissions != nil {
		errs = append(errs, checked("permissions", checkNames(*u.Permissions)))
	}
	if u.Addresses != nil {
		errs = append(errs, checked("addresses", checkNetworks(*u.Addresses)))
	}
	if u.Metadata != nil {
		errs = append(errs, checked("metadata", access.CheckMetadata(*u.Metadata)))
	}
	return first(errs...)
}

// apply changes k, of which nothing may be used if it returns an error.
func (r *Registrar) apply(b *bounds, k *access.Key, u KeyUpdate) error {
	if u.Name != nil {
		k.Name = *u.Name
	}
	if u.Description != nil {
		k.Description = *u.Description
	}
	if u.Status != nil {
		k.Status = *u.Status
	}
	if u.Metadata != nil {
		k.Metadata = maps.Clone(*u.Metadata)
		if len(k.Metadata) == 0 {
			k.Metadata = nil
		}
	}
	if err := r.applyExpiry(b, k, u); err != nil {
		return err
	}
	if err := applyRate(b, k, u); err != nil {
		return err
	}
	return r.applyRights(b, k, u)
}

func (r *Registrar) applyExpiry(b *bounds, k *access.Key, u KeyUpdate) error {
	switch {
	case u.ExpiresAt != nil:
		if err := r.checkExpiry(b, "expires_at", *u.ExpiresAt); err != nil {
			return err
		}
		k.Expires = u.ExpiresAt.Unix()
	case u.Never:
		if m := r.o.Policy().MaxExpiry; m > 0 {
			return invalid("expires_at", "a key needs an expiry: at most %s from now", span(m))
		}
		if err := b.checkEnd("expires_at", 0); err != nil {
			return err
		}
		k.Expires = 0
	default:
		return nil
	}
	if p := k.Previous; p != nil && k.Expires != 0 && p.Until > k.Expires {
		shorter := *p
		shorter.Until = k.Expires
		k.Previous = &shorter
	}
	return nil
}

func applyRate(b *bounds, k *access.Key, u KeyUpdate) error {
	switch {
	case u.Rate != nil:
		k.Rate = *u.Rate
		return b.checkRate(k.Rate)
	case u.PlanRate:
		if b.caller != nil && !b.caller.Rate.IsZero() && !k.Rate.IsZero() {
			return b.beyond("rate", "the key that makes this request has a rate of its own and cannot give the plan's")
		}
		k.Rate = access.Rate{}
	}
	return nil
}

func (r *Registrar) applyRights(b *bounds, k *access.Key, u KeyUpdate) error {
	if u.Permissions == nil && u.Addresses == nil {
		return nil
	}
	permissions, addresses := k.Permissions(), k.Addresses()
	if u.Permissions != nil {
		permissions = *u.Permissions
		if err := r.checkPermissions(b, permissions); err != nil {
			return err
		}
	}
	if u.Addresses != nil {
		addresses = *u.Addresses
	}
	k.Rights = access.NewRights(permissions, addresses)
	if u.Addresses != nil {
		return b.checkAddresses(k.Rights)
	}
	return nil
}
