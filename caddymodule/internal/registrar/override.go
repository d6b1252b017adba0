package registrar

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// SetTenantOverride has o replace parts of a tenant's plan, in place of any
// override before; nil takes that off. It must replace something, credits are
// from 0 to access.MaxCredits and need a plan that counts them, and its end is in
// the future. Setting what is set changes nothing. It returns what is stored then. Errors: InvalidRequest,
// NotFound, Unavailable.
func (r *Registrar) SetTenantOverride(ctx context.Context, id string, o *access.Override) (*access.Tenant, error) {
	if err := first(checked("tenant", access.CheckTenantID(id)), r.checkOverride(o)); err != nil {
		return nil, err
	}
	var t *access.Tenant
	err := r.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		if t, err = tenant(tx, id); err != nil {
			return err
		}
		was := *t
		if sameOverride(t.Override, o) {
			return errUnchanged
		}
		if err := r.checkCounted(t, t.Override, o); err != nil {
			return err
		}
		t.Override = cloneOverride(o)
		return errors.Join(tx.PutTenant(t), r.recordTenant(ctx, tx, "tenant.updated", &was, t))
	})
	if err = public("changing a tenant", err); err != nil {
		return nil, err
	}
	return t, nil
}

// SetKeyOverride is SetTenantOverride for one key, which has no MaxKeys. A
// revoked key is a Conflict.
func (r *Registrar) SetKeyOverride(ctx context.Context, id access.KeyID, o *access.Override) (*access.Key, error) {
	if o != nil && o.MaxKeys != 0 {
		return nil, invalid("max_keys", "a number of keys is a tenant's, not a key's")
	}
	if err := r.checkOverride(o); err != nil {
		return nil, err
	}
	k, _, err := r.edit(ctx, nil, id, "key.updated", func(tx store.Tx, k *access.Key, _ *bounds) error {
		if k.Status == access.StatusRevoked {
			return &Error{Code: Conflict, Field: "override", Message: fmt.Sprintf("key %s is revoked for good", id)}
		}
		if sameOverride(k.Override, o) {
			return errUnchanged
		}
		t, err := tenant(tx, k.Tenant)
		if err == nil {
			err = r.checkCounted(t, k.Override, o)
		}
		if err != nil {
			return err
		}
		k.Override = cloneOverride(o)
		return r.noteOverride(tx, k)
	})
	return k, err
}

func (r *Registrar) checkOverride(o *access.Override) error {
	if o == nil {
		return nil
	}
	if *o == (access.Override{Until: o.Until}) {
		return invalid("override", "an override replaces something: give a rate, credits, requests at once or a number of keys")
	}
	if !o.Rate.IsZero() {
		if err := checked("rate", o.Rate.Validate()); err != nil {
			return err
		}
	}
	if o.Credits < 0 || o.Credits > access.MaxCredits {
		return invalid("credits", "credits: want 0 to %s", access.MaxCredits)
	}
	if o.Until == 0 {
		return nil
	}
	return r.checkUntil("until", time.Unix(o.Until, 0))
}

// checkCounted refuses credits of a tenant's own, or of its key's, that would
// bound nothing. Those that are stored already may stay: the plan may have
// changed since.
func (r *Registrar) checkCounted(t *access.Tenant, was, o *access.Override) error {
	if o == nil || o.Credits == 0 || was != nil && was.Credits == o.Credits || r.o.CountsCredits(t.Plan) {
		return nil
	}
	plan := "has no plan, so credits are not counted"
	if p := r.o.Plan(t.Plan); p != nil {
		plan = fmt.Sprintf("is on plan %s, which counts no credits", p.Name)
	}
	e := invalid("credits", "tenant %s %s: these would bound nothing", t.ID, plan)
	e.Hint = "add `credits <n>/month` to the plan, or move the tenant to one that has them"
	return e
}

// checkUntil checks the end of an override or a grant.
func (r *Registrar) checkUntil(field string, t time.Time) error {
	switch {
	case t.Unix() <= r.o.Now().Unix():
		return invalid(field, "the end %s is in the past", t.UTC().Format(time.RFC3339))
	case !t.Before(maxExpiry):
		return invalid(field, "the end is after the year 9999: leave it out for one that never comes")
	}
	return nil
}

func sameOverride(a, b *access.Override) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

func cloneOverride(o *access.Override) *access.Override {
	if o == nil {
		return nil
	}
	return new(*o)
}

// over reports whether an override has ended.
func over(o *access.Override, now int64) bool { return o != nil && !o.In(now) }

// noteOverride makes sweeps look for the end of k's override.
func (r *Registrar) noteOverride(tx store.Tx, k *access.Key) error {
	if k.Override == nil || k.Override.Until == 0 {
		return nil
	}
	return changeSweep(tx, func(s *sweepState) {
		s.Overrides = sooner(s.Overrides, k.Override.Until)
		s.Overridden++
	})
}

// sooner returns the earlier of two unix seconds, of which 0 is never.
func sooner(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// inherited returns the override of a key that the caller makes: its own, so
// that no limit is shed, or nil.
func (b *bounds) inherited() *access.Override {
	if b.caller == nil || !b.caller.Override.In(b.now) {
		return nil
	}
	return cloneOverride(b.caller.Override)
}

// checkOverride says why the caller may not be handed a secret of k: its own
// override limits it more than k is limited.
func (b *bounds) checkOverride(k *access.Key) error {
	own := b.caller.Override
	if !own.In(b.now) {
		return nil
	}
	have := access.Override{Rate: k.Rate}
	if o := k.Override; o.In(b.now) && (o.Until == 0 || own.Until != 0 && o.Until >= own.Until) {
		have = *o
		if have.Rate.IsZero() {
			have.Rate = k.Rate
		}
	}
	within := func(n, limit uint64) bool { return limit == 0 || n != 0 && n <= limit }
	slow := own.Rate.IsZero() || !have.Rate.IsZero() && !above(have.Rate, own.Rate)
	if slow && within(uint64(have.Credits), uint64(own.Credits)) && within(uint64(have.Concurrent), uint64(own.Concurrent)) {
		return nil
	}
	return b.beyond("override", "the key has not the limits that were set for the key that makes this request")
}

// maxKeys returns how many keys the tenant may have; 0 is no bound.
func (b *bounds) maxKeys() uint64 {
	if o := b.tenant.Override; o.In(b.now) && o.MaxKeys > 0 {
		return uint64(o.MaxKeys)
	}
	if b.plan == nil || b.plan.MaxKeys <= 0 {
		return 0
	}
	return uint64(b.plan.MaxKeys)
}
