package registrar

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

const (
	grantPrefix = "gr_"
	grantRandom = 16 // base62 characters behind it
	// grantKept is how long a grant that expired is shown.
	grantKept = 90 * 24 * time.Hour
)

// GrantRequest is a grant to be.
type GrantRequest struct {
	Amount      access.Credits // above 0, at most access.MaxCredits
	Expires     *time.Time     // from when what is left of it is gone, in whole seconds; nil is never
	Note        string         // for people; may be empty
	Idempotency *Idempotency   // nil: each request makes a grant
}

// GrantCredits gives a tenant credits beside those of its plan. A tenant has at
// most access.MaxGrants grants that have not expired, and those come to
// access.MaxCredits at most; one that expired makes room for a new one. Errors:
// InvalidRequest, NotFound, Conflict at those bounds, Mismatch, Unavailable.
func (r *Registrar) GrantCredits(ctx context.Context, tenantID string, req GrantRequest) (access.Grant, error) {
	if err := first(checked("tenant", access.CheckTenantID(tenantID)), checkGrant(req)); err != nil {
		return access.Grant{}, err
	}
	o, err := r.newOnce(req.Idempotency, nil, "grant\x00"+tenantID)
	if err != nil {
		return access.Grant{}, err
	}
	var g access.Grant
	err = r.o.Store.Update(ctx, func(tx store.Tx) error {
		k, err := o.load(tx)
		if err != nil {
			return err
		}
		if k != nil && k.Grant != nil {
			g = *k.Grant
			return errUnchanged
		}
		t, err := tenant(tx, tenantID)
		if err != nil {
			return err
		}
		if g, err = r.newGrant(req); err != nil {
			return err
		}
		if err := addGrant(t, g, r.now().Unix()); err != nil {
			return err
		}
		a := act{action: "grant.created", tenant: t.ID, object: g.ID, after: grantFormOf(g)}
		return errors.Join(tx.PutTenant(t), r.record(ctx, tx, a), o.seal(tx, kept{Grant: &g}))
	})
	if err = public("granting credits", err); err != nil {
		return access.Grant{}, err
	}
	return g, nil
}

func checkGrant(req GrantRequest) error {
	if req.Amount <= 0 || req.Amount > access.MaxCredits {
		return invalid("amount", "amount of a grant: want more than 0 and at most %s credits", access.MaxCredits)
	}
	if err := checked("note", access.CheckNote(req.Note)); err != nil {
		return err
	}
	return nil
}

func (r *Registrar) newGrant(req GrantRequest) (access.Grant, error) {
	id, err := token.AppendRandom([]byte(grantPrefix), grantRandom, r.o.Random)
	if err != nil {
		return access.Grant{}, err
	}
	g := access.Grant{ID: string(id), Amount: req.Amount, Note: req.Note, CreatedAt: r.now()}
	if req.Expires != nil {
		if err := r.checkUntil("expires_at", *req.Expires); err != nil {
			return access.Grant{}, err
		}
		g.Expires = req.Expires.Unix()
	}
	return g, nil
}

// addGrant gives t one grant more. Of those that expired the one that did so
// first goes if there is no room.
func addGrant(t *access.Tenant, g access.Grant, now int64) error {
	sum, live, oldest := g.Amount, 0, -1
	for i, have := range t.Grants {
		if expired(have, now) {
			if oldest < 0 || have.Expires < t.Grants[oldest].Expires {
				oldest = i
			}
			continue
		}
		live++
		more, ok := sum.Add(have.Amount)
		if !ok || more > access.MaxCredits {
			return &Error{Code: Conflict, Field: "amount", Message: fmt.Sprintf("the grants of tenant %q would come to more than %s credits", t.ID, access.MaxCredits)}
		}
		sum = more
	}
	if live >= access.MaxGrants {
		return &Error{Code: Conflict, Field: "grant", Message: fmt.Sprintf("tenant %q has %d grants, and there may be no more at once", t.ID, live),
			Hint: "revoke one that is used up"}
	}
	if len(t.Grants) >= access.MaxGrants {
		t.Grants = slices.Delete(t.Grants, oldest, oldest+1)
	}
	t.Grants = append(t.Grants, g)
	return nil
}

func expired(g access.Grant, now int64) bool { return g.Expires != 0 && g.Expires <= now }

// RevokeGrant takes a grant from a tenant, with what is left of it. Errors:
// InvalidRequest, NotFound for a tenant or grant that is not there, Unavailable.
func (r *Registrar) RevokeGrant(ctx context.Context, tenantID, id string) error {
	if err := checked("tenant", access.CheckTenantID(tenantID)); err != nil {
		return err
	}
	err := r.o.Store.Update(ctx, func(tx store.Tx) error {
		t, err := tenant(tx, tenantID)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(t.Grants, func(g access.Grant) bool { return g.ID == id })
		if i < 0 {
			return &Error{Code: NotFound, Field: "grant", Message: fmt.Sprintf("tenant %q has no grant %q", tenantID, id)}
		}
		a := act{action: "grant.revoked", tenant: t.ID, object: id, before: grantFormOf(t.Grants[i])}
		t.Grants = slices.Delete(t.Grants, i, i+1)
		return errors.Join(tx.PutTenant(t), r.record(ctx, tx, a))
	})
	return public("revoking a grant", err)
}

// sweepTenants takes off overrides that are over, and drops grants that
// expired long ago.
func (r *Registrar) sweepTenants(ctx context.Context) error {
	now := r.now().Unix()
	for after, more := "", true; more; {
		var found []string
		err := r.o.Store.View(ctx, func(rd store.Reader) error {
			visited := 0
			more = false
			return rd.Tenants(after, func(t *access.Tenant) bool {
				if more = visited == maxVisits; more {
					return false
				}
				visited++
				after = t.ID
				if sweepTenant(t, now) {
					found = append(found, t.ID)
				}
				return true
			})
		})
		if err != nil {
			return public("sweeping tenants", err)
		}
		for ids := range slices.Chunk(found, endBatch) {
			if err := r.endTenants(ctx, ids, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// endTenants changes the tenants that still want it.
func (r *Registrar) endTenants(ctx context.Context, ids []string, now int64) error {
	err := r.o.Store.Update(ctx, func(tx store.Tx) error {
		var errs []error
		changed := false
		for _, id := range ids {
			t, err := tx.Tenant(id)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			before := fullTenantForm(t)
			if !sweepTenant(t, now) {
				continue
			}
			changed = true
			errs = append(errs, tx.PutTenant(t), r.record(ctx, tx, act{action: "tenant.updated", tenant: id, object: id, before: before, after: fullTenantForm(t)}))
		}
		if !changed {
			return errUnchanged
		}
		return errors.Join(errs...)
	})
	return public("sweeping tenants", err)
}

// sweepTenant reports whether it took something from t.
func sweepTenant(t *access.Tenant, now int64) bool {
	n := len(t.Grants)
	t.Grants = slices.DeleteFunc(t.Grants, func(g access.Grant) bool {
		return g.Expires != 0 && g.Expires < now-int64(grantKept/time.Second)
	})
	ended := over(t.Override, now)
	if ended {
		t.Override = nil
	}
	return ended || len(t.Grants) < n
}
