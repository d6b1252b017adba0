package registrar

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// CreateTenantRequest is a tenant to be.
type CreateTenantRequest struct {
	ID       string            // required; access.CheckTenantID
	Name     string            // for people; may be empty
	Plan     string            // must be configured; empty is the default plan
	Metadata map[string]string // the owner's own values
	// Permissions bound those of the tenant's keys; nil is no bound, empty is none.
	Permissions []string
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
		return errors.Join(tx.PutTenant(t), r.recordTenant(ctx, tx, "tenant.created", nil, t))
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
	if err := r.checkBound(req.Permissions); err != nil {
		return nil, err
	}
	return &access.Tenant{
		ID:        req.ID,
		Name:      req.Name,
		Plan:      req.Plan,
		Status:    access.StatusActive,
		Metadata:  maps.Clone(req.Metadata),
		CreatedAt: r.now(),

		Permissions: bound(req.Permissions),
	}, nil
}

// checkBound checks the permissions that a tenant's keys may have.
func (r *Registrar) checkBound(names []string) error {
	if err := checked("permissions", checkNames(names)); err != nil {
		return err
	}
	all := r.o.Permissions()
	for _, p := range names {
		if !all.Known(p) {
			return invalid("permissions", "there is no permission %q in the configuration", p)
		}
	}
	return nil
}

// bound returns the names sorted and without doubles. Nil stays nil, and empty
// empty.
func bound(names []string) []string {
	if names == nil {
		return nil
	}
	sorted := append([]string{}, names...)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// recordTenant adds the entry of a tenant's change. A nil tenant is absent.
func (r *Registrar) recordTenant(ctx context.Context, tx store.Tx, action string, before, after *access.Tenant) error {
	a := act{action: action}
	if before != nil {
		a.tenant, a.before = before.ID, tenantFormOf(before)
		if after == nil {
			a.before = fullTenantForm(before)
		}
	}
	if after != nil {
		a.tenant, a.after = after.ID, tenantFormOf(after)
	}
	a.object = a.tenant
	return r.record(ctx, tx, a)
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
