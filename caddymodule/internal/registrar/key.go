package registrar

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// maxVisits is how many keys, or audit entries, a page looks at.
const maxVisits = 2000

// KeyFilter says which keys a list holds.
type KeyFilter struct {
	Tenant string        // all tenants if empty; at a Desk it is the caller's, whatever this says
	Status access.Status // all states if zero
	Name   string        // part of the name, in whatever case; all names if empty
}

// Key returns one key. Errors: NotFound, Unavailable.
func (r *Registrar) Key(ctx context.Context, id access.KeyID) (*access.Key, error) {
	return r.read(ctx, nil, id)
}

func (r *Registrar) read(ctx context.Context, d *Desk, id access.KeyID) (*access.Key, error) {
	var k *access.Key
	err := r.o.Store.View(ctx, func(rd store.Reader) (err error) {
		k, _, err = r.reach(rd, d, id)
		return err
	})
	if err != nil {
		return nil, public("reading a key", err)
	}
	return k, nil
}

// LastUse returns the last use of a key that was stored, which may be minutes
// old; the zero Use if there is none. Errors: Unavailable.
func (r *Registrar) LastUse(ctx context.Context, id access.KeyID) (u access.Use, err error) {
	err = r.o.Store.View(ctx, func(rd store.Reader) (err error) {
		u, err = rd.Use(id)
		return err
	})
	return u, public("reading a key's last use", err)
}

// key reads one key inside a transaction.
func key(rd store.Reader, id access.KeyID) (*access.Key, error) {
	k, err := rd.Key(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, noKey(id)
	}
	return k, err
}

// reach reads one key that d, nil for the operator, may reach, and what a
// change of it is bounded by.
func (r *Registrar) reach(rd store.Reader, d *Desk, id access.KeyID) (*access.Key, *bounds, error) {
	if d != nil {
		return d.reach(rd, id)
	}
	k, err := key(rd, id)
	if err != nil {
		return nil, nil, err
	}
	b, err := r.boundsOf(rd, nil, k.Tenant)
	return k, b, err
}

// boundsOf reads what keys of a tenant are bounded by; at a desk it is the
// caller's.
func (r *Registrar) boundsOf(rd store.Reader, d *Desk, id string) (*bounds, error) {
	if d != nil {
		return d.bounds(rd)
	}
	t, err := tenant(rd, id)
	if err != nil {
		return nil, err
	}
	return &bounds{tenant: t, plan: r.o.Plan(t.Plan), now: r.now().Unix()}, nil
}

// Keys returns up to limit keys whose ids come after the given one, in order
// of ids, and the id to go on after, zero at the end. A limit of 0 is
// DefaultLimit. A page looks at 2,000 keys at most: with a filter it may be
// short or empty and yet not the last. Errors: InvalidRequest, NotFound for a
// tenant that is not there, Unavailable.
func (r *Registrar) Keys(ctx context.Context, f KeyFilter, after access.KeyID, limit int) (page []*access.Key, next access.KeyID, err error) {
	return r.list(ctx, nil, f, after, limit)
}

func (r *Registrar) list(ctx context.Context, d *Desk, f KeyFilter, after access.KeyID, limit int) (page []*access.Key, next access.KeyID, err error) {
	if limit, err = checkLimit(limit); err != nil {
		return nil, next, err
	}
	if err = f.check(d); err != nil {
		return nil, next, err
	}
	err = r.o.Store.View(ctx, func(rd store.Reader) error {
		if d != nil || f.Tenant != "" {
			b, err := r.boundsOf(rd, d, f.Tenant)
			if err != nil {
				return err
			}
			f.Tenant = b.tenant.ID
		}
		page, next, err = keys(ctx, rd, f, after, limit)
		return err
	})
	if err != nil {
		return nil, access.KeyID{}, public("listing keys", err)
	}
	return page, next, nil
}

func keys(ctx context.Context, rd store.Reader, f KeyFilter, after access.KeyID, limit int) (page []*access.Key, next access.KeyID, err error) {
	var failed error
	visited, last, name := 0, after, strings.ToLower(f.Name)
	err = rd.Glance(f.Tenant, after, func(g store.KeyGlance, read func() (*access.Key, error)) bool {
		// A client that has gone must not keep a scan running.
		if visited%256 == 255 && ctx.Err() != nil {
			return false
		}
		if len(page) == limit || visited == maxVisits {
			next = last
			return false
		}
		visited++
		last = g.ID
		if f.Status != 0 && g.Status != f.Status || name != "" && !strings.Contains(strings.ToLower(string(g.Name)), name) {
			return true
		}
		var k *access.Key
		if k, failed = read(); failed == nil {
			page = append(page, k)
		}
		return failed == nil
	})
	return page, next, errors.Join(err, failed, ctx.Err())
}

func (f KeyFilter) check(d *Desk) error {
	if f.Tenant != "" && d == nil {
		if err := checked("tenant", access.CheckTenantID(f.Tenant)); err != nil {
			return err
		}
	}
	if err := checked("name", access.CheckName(f.Name)); err != nil {
		return err
	}
	switch f.Status {
	case 0, access.StatusActive, access.StatusDisabled, access.StatusRevoked:
		return nil
	}
	return invalid("status", "status of a key: want active, disabled or revoked, not %s", f.Status)
}

// edit changes one key in a transaction, together with its audit entry. fn
// returns errUnchanged if there is nothing to do. The key that is returned is
// what is stored then.
func (r *Registrar) edit(ctx context.Context, d *Desk, id access.KeyID, action string,
	fn func(tx store.Tx, k *access.Key, b *bounds) error,
) (k *access.Key, changed bool, err error) {
	err = r.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		changed = false
		var b *bounds
		if k, b, err = r.reach(tx, d, id); err != nil {
			return err
		}
		before := formOf(k)
		if err = fn(tx, k, b); err != nil {
			return err
		}
		changed = true
		return errors.Join(tx.UpdateKey(k), r.recordKey(ctx, tx, action, before, k))
	})
	if err = public("changing a key", err); err != nil {
		return nil, false, err
	}
	return k, changed, nil
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
