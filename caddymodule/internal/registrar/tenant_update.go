package registrar

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// TenantUpdate is a change to a tenant. Nil fields stay as they are.
type TenantUpdate struct {
	Name     *string
	Plan     *string            // empty is the default plan
	Status   *access.Status     // active or suspended
	Metadata *map[string]string // replaces all entries
	// Permissions replace the bound of the keys' permissions; a nil slice takes it
	// away, an empty one lets them have none.
	Permissions *[]string
}

// UpdateTenant changes a tenant and returns what is stored then; all of the
// update happens or nothing. Errors: InvalidRequest, NotFound, Unavailable.
func (r *Registrar) UpdateTenant(ctx context.Context, id string, u TenantUpdate) (*access.Tenant, error) {
	if err := r.checkTenantUpdate(id, u); err != nil {
		return nil, err
	}
	var t *access.Tenant
	var suspended bool
	err := r.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		if t, err = tenant(tx, id); err != nil {
			return err
		}
		was := *t
		u.apply(t)
		suspended = was.Status != t.Status && t.Status == access.StatusSuspended
		same := was.Status == t.Status && maps.Equal(was.Metadata, t.Metadata) &&
			slices.Equal(was.Permissions, t.Permissions) && (was.Permissions == nil) == (t.Permissions == nil)
		action := "tenant.updated"
		switch {
		case same && was.Name == t.Name && was.Plan == t.Plan:
			return errUnchanged
		case suspended:
			action = "tenant.suspended"
		case was.Status != t.Status:
			action = "tenant.resumed"
		}
		return errors.Join(tx.PutTenant(t), r.recordTenant(ctx, tx, action, &was, t))
	})
	if err = public("changing a tenant", err); err != nil {
		return nil, err
	}
	if suspended {
		r.emit("tenant_suspended", map[string]any{"tenant": t.ID, "name": t.Name})
	}
	return t, nil
}

func (r *Registrar) checkTenantUpdate(id string, u TenantUpdate) error {
	if err := checked("tenant", access.CheckTenantID(id)); err != nil {
		return err
	}
	if u.Name != nil {
		if err := checked("name", access.CheckName(*u.Name)); err != nil {
			return err
		}
	}
	if u.Plan != nil {
		if err := r.checkPlan(*u.Plan); err != nil {
			return err
		}
	}
	if u.Status != nil && *u.Status != access.StatusActive && *u.Status != access.StatusSuspended {
		return invalid("status", "status of a tenant: want active or suspended, not %s", *u.Status)
	}
	if u.Permissions != nil {
		if err := r.checkBound(*u.Permissions); err != nil {
			return err
		}
	}
	if u.Metadata != nil {
		return checked("metadata", access.CheckMetadata(*u.Metadata))
	}
	return nil
}

func (u TenantUpdate) apply(t *access.Tenant) {
	if u.Name != nil {
		t.Name = *u.Name
	}
	if u.Plan != nil {
		t.Plan = *u.Plan
	}
	if u.Status != nil {
		t.Status = *u.Status
	}
	if u.Metadata != nil {
		t.Metadata = maps.Clone(*u.Metadata)
	}
	if u.Permissions != nil {
		t.Permissions = bound(*u.Permissions)
	}
}

// SuspendTenant refuses all keys of a tenant from the next request on, until
// ResumeTenant. Suspending twice is the same as once. Errors as UpdateTenant.
func (r *Registrar) SuspendTenant(ctx context.Context, id string) (*access.Tenant, error) {
	return r.UpdateTenant(ctx, id, TenantUpdate{Status: new(access.StatusSuspended)})
}

// ResumeTenant ends a suspension. Errors as UpdateTenant.
func (r *Registrar) ResumeTenant(ctx context.Context, id string) (*access.Tenant, error) {
	return r.UpdateTenant(ctx, id, TenantUpdate{Status: new(access.StatusActive)})
}

// SetTenantPlan moves a tenant to a configured plan; empty is the default plan.
// Errors as UpdateTenant.
func (r *Registrar) SetTenantPlan(ctx context.Context, id, plan string) (*access.Tenant, error) {
	return r.UpdateTenant(ctx, id, TenantUpdate{Plan: &plan})
}

// DeleteTenant deletes a tenant and all its keys for good. Errors:
// InvalidRequest, NotFound, Unavailable.
func (r *Registrar) DeleteTenant(ctx context.Context, id string) error {
	if err := checked("tenant", access.CheckTenantID(id)); err != nil {
		return err
	}
	err := r.o.Store.Update(ctx, func(tx store.Tx) error {
		t, err := tenant(tx, id)
		if err != nil {
			return err
		}
		var failed error
		err = tx.Keys(id, access.KeyID{}, func(k *access.Key) bool {
			failed = bury(tx, k.ID, digestsOf(k))
			return failed == nil
		})
		return errors.Join(err, failed, tx.DeleteTenant(id), tx.PutBlob(countBlob(id), nil),
			r.recordTenant(ctx, tx, "tenant.deleted", t, nil))
	})
	return public("deleting a tenant", err)
}
