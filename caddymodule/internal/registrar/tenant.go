package registrar

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// CreateTenantRequest is a tenant to be.
type CreateTenantRequest struct {
	ID       string            // required; access.CheckTenantID
	Name     string            // for people; may be empty
	Plan     string            // must be configured; empty is the default plan
	Metadata map[string]string // the owner's own values
}

// TenantUpdate is a change to a tenant. Nil fields stay as they are.
type TenantUpdate struct {
	Name     *string
	Plan     *string            // empty is the default plan
	Status   *access.Status     // active or suspended
	Metadata *map[string]string // replaces all entries
}

// CreateTenant stores a new, active tenant. Errors: InvalidRequest, Exists,
// Unavailable.
func (r *Registrar) CreateTenant(ctx context.Context, req CreateTenantRequest) (*access.Tenant, error) {
	t, err := r.newTenant(req)
	if err != nil {
		return nil, err
	}
	err = r.o.Store.Update(ctx, func(tx store.Tx) error {
		switch _, err := tx.Tenant(t.ID); {
		case err == nil:
			return &Error{Code: Exists, Field: "id", Message: fmt.Sprintf("tenant %q exists already", t.ID),
				Hint: "caddy keytoll tenants show " + t.ID}
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		return tx.PutTenant(t)
	})
	if err != nil {
		return nil, public("creating a tenant", err)
	}
	return t, nil
}

// EnsureTenant stores the tenant if there is none of its id, and otherwise
// leaves what is stored as it is: a configuration seeds, it does not govern.
// A tenant that is there costs no commit. Errors: InvalidRequest, Unavailable.
func (r *Registrar) EnsureTenant(ctx context.Context, req CreateTenantRequest) error {
	if _, err := r.Tenant(ctx, req.ID); err == nil {
		return nil
	} else if e, ok := errors.AsType[*Error](err); !ok || e.Code != NotFound {
		return err
	}
	_, err := r.CreateTenant(ctx, req)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == Exists {
		return nil
	}
	return err
}

func (r *Registrar) newTenant(req CreateTenantRequest) (*access.Tenant, error) {
	if err := checked("id", access.CheckTenantID(req.ID)); err != nil {
		return nil, err
	}
	if err := checked("name", access.CheckName(req.Name)); err != nil {
		return nil, err
	}
	if err := checked("metadata", access.CheckMetadata(req.Metadata)); err != nil {
		return nil, err
	}
	if err := r.checkPlan(req.Plan); err != nil {
		return nil, err
	}
	return &access.Tenant{
		ID:        req.ID,
		Name:      req.Name,
		Plan:      req.Plan,
		Status:    access.StatusActive,
		Metadata:  maps.Clone(req.Metadata),
		CreatedAt: r.now(),
	}, nil
}

// Tenant returns one tenant. Errors: InvalidRequest, NotFound, Unavailable.
func (r *Registrar) Tenant(ctx context.Context, id string) (*access.Tenant, error) {
	if err := checked("tenant", access.CheckTenantID(id)); err != nil {
		return nil, err
	}
	var t *access.Tenant
	err := r.o.Store.View(ctx, func(rd store.Reader) (err error) {
		t, err = tenant(rd, id)
		return err
	})
	if err != nil {
		return nil, public("reading a tenant", err)
	}
	return t, nil
}

// tenant reads one tenant inside a transaction.
func tenant(rd store.Reader, id string) (*access.Tenant, error) {
	t, err := rd.Tenant(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noTenant(id)
	}
	return t, err
}

// Tenants returns up to limit tenants whose ids come after the given one, in
// order of ids, and the id to go on after, empty at the end. A limit of 0 is
// DefaultLimit. Errors: InvalidRequest, Unavailable.
func (r *Registrar) Tenants(ctx context.Context, after string, limit int) (page []*access.Tenant, next string, err error) {
	limit, err = checkLimit(limit)
	if err != nil {
		return nil, "", err
	}
	if after != "" && access.CheckTenantID(after) != nil {
		return nil, "", invalid("cursor", "cursor is not one that a list returned")
	}
	err = r.o.Store.View(ctx, func(rd store.Reader) error {
		page, next = nil, ""
		return rd.Tenants(after, func(t *access.Tenant) bool {
			if len(page) == limit {
				next = page[limit-1].ID
				return false
			}
			page = append(page, t)
			return true
		})
	})
	if err != nil {
		return nil, "", public("listing tenants", err)
	}
	return page, next, nil
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
		if was.Name == t.Name && was.Plan == t.Plan && was.Status == t.Status && maps.Equal(was.Metadata, t.Metadata) {
			return errUnchanged
		}
		return tx.PutTenant(t)
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
		err := tx.DeleteTenant(id)
		if errors.Is(err, store.ErrNotFound) {
			return noTenant(id)
		}
		return err
	})
	return public("deleting a tenant", err)
}
