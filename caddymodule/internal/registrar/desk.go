package registrar

import (
	"context"
	"errors"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Desk is the tenant's door to a Registrar. It reaches the keys and provider
// keys of one tenant, that of the key that makes the request, its caller, and
// gives no more than the caller has: a key made there has the override of its
// maker. The caller is read afresh in each transaction. A key of another tenant
// is NotFound, with the same words and after the same work as one that does not
// exist. It is safe for concurrent use.
//
// Besides the errors of the Registrar's methods each method may return
// Forbidden: the caller is good no longer, or what was asked for is more than
// it has. Errors carry no hints: those are an operator's.
type Desk struct {
	r      *Registrar
	caller access.KeyID
	actor  access.Actor
}

// Me is what a key may know of itself.
type Me struct {
	Key    *access.Key
	Tenant *access.Tenant
	Plan   *access.Plan // must not be changed; nil: none of that name
	Use    access.Use   // the last that was stored
}

// Desk returns the door for a caller. The audit trail puts its changes down to
// the actor.
func (r *Registrar) Desk(caller access.KeyID, actor access.Actor) *Desk {
	return &Desk{r, caller, actor}
}

// IssueKey mints a key of the caller's tenant. What is not asked for is the
// caller's: its networks, rate, environment and, where it would last longer,
// its expiry; but for permissions, of which there are then none.
func (d *Desk) IssueKey(ctx context.Context, req CreateKeyRequest) (*Issued, error) {
	out, err := d.r.issue(WithActor(ctx, d.actor), d, req)
	return out, plain(err)
}

// Keys lists the tenant's keys; see Registrar.Keys.
func (d *Desk) Keys(ctx context.Context, f KeyFilter, after access.KeyID, limit int) ([]*access.Key, access.KeyID, error) {
	page, next, err := d.r.list(ctx, d, f, after, limit)
	return page, next, plain(err)
}

// Key returns one of the tenant's keys.
func (d *Desk) Key(ctx context.Context, id access.KeyID) (*access.Key, error) {
	k, err := d.r.read(ctx, d, id)
	return k, plain(err)
}

// UpdateKey changes one of the tenant's keys; it may be the caller itself,
// which cannot gain by it.
func (d *Desk) UpdateKey(ctx context.Context, id access.KeyID, u KeyUpdate) (*access.Key, error) {
	k, err := d.r.update(WithActor(ctx, d.actor), d, id, u)
	return k, plain(err)
}

// RotateKey gives one of the tenant's keys a new secret; it may be the caller
// itself. The secret of a key that may do more than the caller is Forbidden.
func (d *Desk) RotateKey(ctx context.Context, id access.KeyID, req RotateRequest) (*Issued, error) {
	out, err := d.r.rotate(WithActor(ctx, d.actor), d, id, req)
	return out, plain(err)
}

// RevokeKey refuses one of the tenant's keys for good; it may be the caller
// itself.
func (d *Desk) RevokeKey(ctx context.Context, id access.KeyID) (*access.Key, error) {
	k, err := d.r.revoke(WithActor(ctx, d.actor), d, id, nil)
	return k, plain(err)
}

// LastUse returns the last stored use of one of the tenant's keys.
func (d *Desk) LastUse(ctx context.Context, id access.KeyID) (access.Use, error) {
	if _, err := d.Key(ctx, id); err != nil {
		return access.Use{}, err
	}
	u, err := d.r.LastUse(ctx, id)
	return u, plain(err)
}

// StoreProviderKey keeps a key of the tenant's own; see
// Registrar.StoreProviderKey.
func (d *Desk) StoreProviderKey(ctx context.Context, provider string, key token.Secret) (*access.ProviderKey, bool, error) {
	k, replaced, err := d.r.storeProviderKey(WithActor(ctx, d.actor), d, "", provider, key)
	return k, replaced, plain(err)
}

// ProviderKeys returns the tenant's provider keys in order of providers.
func (d *Desk) ProviderKeys(ctx context.Context) ([]*access.ProviderKey, error) {
	list, err := d.r.providerKeys(ctx, d, "")
	return list, plain(err)
}

// ProviderKey returns the tenant's key for a provider.
func (d *Desk) ProviderKey(ctx context.Context, provider string) (*access.ProviderKey, error) {
	k, err := d.r.providerKey(ctx, d, "", provider)
	return k, plain(err)
}

// DeleteProviderKey deletes the tenant's key for a provider.
func (d *Desk) DeleteProviderKey(ctx context.Context, provider string) error {
	return plain(d.r.deleteProviderKey(WithActor(ctx, d.actor), d, "", provider))
}

// Me returns the caller.
func (d *Desk) Me(ctx context.Context) (*Me, error) {
	var me *Me
	err := d.r.o.Store.View(ctx, func(rd store.Reader) error {
		b, err := d.bounds(rd)
		if err != nil {
			return err
		}
		me = &Me{Key: b.caller, Tenant: b.tenant, Plan: b.plan}
		me.Use, err = rd.Use(d.caller)
		return err
	})
	if err != nil {
		return nil, plain(public("reading a key", err))
	}
	return me, nil
}

// bounds reads the caller, who may have become anything since the request was
// let in.
func (d *Desk) bounds(rd store.Reader) (*bounds, error) {
	gone := &Error{Code: Forbidden, Message: "the key that makes this request is good no longer"}
	k, err := rd.Key(d.caller)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, gone
	case err != nil:
		return nil, err
	case k.Status != access.StatusActive, k.Expires != 0 && k.Expires <= d.r.o.Now().Unix():
		return nil, gone
	}
	t, err := rd.Tenant(k.Tenant)
	if err != nil {
		return nil, err
	}
	if t.Status != access.StatusActive {
		return nil, gone
	}
	return &bounds{caller: k, tenant: t, plan: d.r.o.Plan(t.Plan), now: d.r.now().Unix()}, nil
}

func (d *Desk) reach(rd store.Reader, id access.KeyID) (*access.Key, *bounds, error) {
	b, err := d.bounds(rd)
	if err != nil {
		return nil, nil, err
	}
	k, err := rd.Key(id)
	if errors.Is(err, store.ErrNotFound) {
		_, err = rd.Key(d.caller) // as much work as for a key that is there
		return nil, nil, errors.Join(err, noKey(id))
	}
	if err != nil {
		return nil, nil, err
	}
	if k.Tenant != b.tenant.ID {
		return nil, nil, noKey(id)
	}
	return k, b, nil
}

// plain takes the operator's next step out of an error.
func plain(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		c := *e
		c.Hint = ""
		return &c
	}
	return err
}
