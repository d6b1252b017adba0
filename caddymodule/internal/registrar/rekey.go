package registrar

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// Rekeyed is what a call of Rekey did.
type Rekeyed struct {
	Tenants int  // that have a new data key
	Keys    int  // provider keys that were sealed anew
	Done    bool // there is nothing left that a further call could do
}

// maxNamed is how many tenants an error of Rekey names.
const maxNamed = 10

// Rekey gives each tenant whose data key is not wrapped by the first of what
// wraps data keys a new one, and seals its provider keys anew under it: from
// then on what wrapped the old data key opens nothing of the tenant's. Each
// tenant is one transaction: what was done when a call ends early stays done,
// and another call goes on there. It gives up to limit tenants new data keys; 0
// is no limit.
//
// A tenant of which anything does not open keeps all as it is and holds up no
// other. The call that is Done returns a Conflict that names such tenants; what
// does not open is never dropped. Other errors: Unavailable, with what was done
// until then.
func (r *Registrar) Rekey(ctx context.Context, limit int) (out Rekeyed, err error) {
	ring, err := r.ring()
	if err != nil {
		return out, err
	}
	var stuck []error
	for after, more := "", true; more; {
		var ids []string
		if ids, after, more, err = r.oldDataKeys(ctx, ring, after); err != nil {
			return out, err
		}
		for _, id := range ids {
			if limit > 0 && out.Tenants >= limit {
				return out, nil
			}
			keys, did, err := r.rekeyTenant(ctx, ring, id)
			switch {
			case err == nil && did:
				out.Tenants, out.Keys = out.Tenants+1, out.Keys+keys
			case isStuck(err):
				stuck = append(stuck, err)
			case err != nil:
				return out, public("rekeying", err)
			}
		}
	}
	out.Done = true
	return out, stuckError(stuck)
}

// RekeyPending returns how many tenants have data keys that Rekey has not
// renewed. Errors: Unavailable.
func (r *Registrar) RekeyPending(ctx context.Context) (n int, err error) {
	ring, err := r.ring()
	if err != nil {
		return 0, err
	}
	for after, more := "", true; more; {
		var ids []string
		if ids, after, more, err = r.oldDataKeys(ctx, ring, after); err != nil {
			return 0, err
		}
		n += len(ids)
	}
	return n, nil
}

// oldDataKeys looks at some of the data keys of tenants greater than after. It
// returns the tenants of those that are to be renewed, the last tenant that it
// looked at, and whether there are more.
func (r *Registrar) oldDataKeys(ctx context.Context, ring *seal.Keyring, after string) (ids []string, last string, more bool, err error) {
	primary := ring.Primary()
	err = r.o.Store.View(ctx, func(rd store.Reader) error {
		ids, last, more = nil, after, false
		visited := 0
		return rd.DataKeys(after, func(k *access.DataKey) bool {
			if more = visited == maxVisits; more {
				return false
			}
			visited++
			last = k.Tenant
			if k.Wrapper != primary {
				ids = append(ids, k.Tenant)
			}
			return true
		})
	})
	return ids, last, more, public("reading data keys", err)
}

// rekeyTenant renews one tenant's data key if that is still to be done, and
// returns how many provider keys it sealed anew.
func (r *Registrar) rekeyTenant(ctx context.Context, ring *seal.Keyring, id string) (keys int, did bool, err error) {
	err = retry(func() error {
		var have *access.DataKey
		err := r.o.Store.View(ctx, func(rd store.Reader) (err error) {
			have, err = dataKey(rd, id)
			return err
		})
		if did = err == nil && have != nil && have.Wrapper != ring.Primary(); !did {
			return err
		}
		keys, err = r.renewDataKey(ctx, ring, have)
		return err
	})
	return keys, did, err
}

func (r *Registrar) renewDataKey(ctx context.Context, ring *seal.Keyring, have *access.DataKey) (keys int, err error) {
	id := have.Tenant
	old, err := openDataKey(ctx, ring, id, have)
	if err != nil {
		return 0, err
	}
	sealer, now, err := r.newDataKey(ctx, ring, id)
	if err != nil {
		return 0, err
	}
	err = r.o.Store.Update(ctx, func(tx store.Tx) error {
		if err := stillThere(tx, id, have); err != nil {
			return err
		}
		var list []*access.ProviderKey
		err := tx.ProviderKeys(id, func(k *access.ProviderKey) bool {
			list = append(list, k)
			return true
		})
		if err != nil {
			return fmt.Errorf("the provider keys of tenant %q: %w", id, err)
		}
		for _, k := range list {
			if err := reseal(k, old, sealer); err != nil {
				return err
			}
			if err := tx.PutProviderKey(k); err != nil {
				return err
			}
		}
		keys = len(list)
		a := act{action: "data_key.rekeyed", tenant: id, object: id, before: dataKeyForm{Wrapper: have.Wrapper}, after: dataKeyForm{Wrapper: now.Wrapper, Keys: keys}}
		return errors.Join(tx.PutDataKey(now), r.record(ctx, tx, a))
	})
	return keys, err
}

// reseal moves what is sealed from one data key to another. It stays the same
// provider key, with the same id.
func reseal(k *access.ProviderKey, from, to *seal.DataKey) error {
	what := fmt.Sprintf("the key of tenant %q for provider %q", k.Tenant, k.Provider)
	plain, err := from.Open(providerKeyAAD(k), k.Sealed)
	if err != nil {
		return unopened(what, err)
	}
	defer clear(plain)
	if k.Sealed, err = to.Seal(providerKeyAAD(k), plain); err != nil {
		return unopened(what, err)
	}
	return nil
}

// dataKeyForm is a data key as the audit trail shows it.
type dataKeyForm struct {
	Wrapper string `json:"wrapper"`
	Keys    int    `json:"provider_keys,omitempty"` // that were sealed anew
}

// isStuck reports whether an error is of one tenant's records, and trying again
// would end the same.
func isStuck(err error) bool {
	return errors.Is(err, seal.ErrSealed) || errors.Is(err, seal.ErrNoWrapper) || errors.Is(err, store.ErrDamaged)
}

// stuckError names what could not be renewed; nil for nothing.
func stuckError(stuck []error) error {
	if len(stuck) == 0 {
		return nil
	}
	var names []string
	for _, err := range stuck[:min(len(stuck), maxNamed)] {
		if e, ok := errors.AsType[*Error](err); ok {
			err = e.cause
		}
		names = append(names, err.Error())
	}
	if n := len(stuck) - len(names); n > 0 {
		names = append(names, fmt.Sprintf("and %d more", n))
	}
	return &Error{
		Code:    Conflict,
		Message: fmt.Sprintf("tenants whose provider keys do not open, and stay as they are: %d (%s)", len(stuck), strings.Join(names, "; ")),
		Hint:    "configure what wrapped them and run it again, or delete those provider keys and store them anew",
		cause:   errors.Join(stuck...),
	}
}
