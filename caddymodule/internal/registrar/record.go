package registrar

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

type actorKey struct{}

// WithActor returns a context whose changes the audit trail puts down to a.
// Without it they are an operator's.
func WithActor(ctx context.Context, a access.Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

func actorOf(ctx context.Context) access.Actor {
	if a, ok := ctx.Value(actorKey{}).(access.Actor); ok {
		return a
	}
	return access.Actor{Kind: access.ActorOperator}
}

// act is one change for the audit trail. Before and after are written as JSON;
// nil is absent.
type act struct {
	action, tenant, object string
	before, after          any
}

// record adds an audit entry to a transaction.
func (r *Registrar) record(ctx context.Context, tx store.Tx, a act) error {
	e := access.AuditEntry{At: r.now(), Action: a.action, Tenant: a.tenant, Object: a.object, Actor: actorOf(ctx)}
	var err error
	if e.Before, err = form(a.before); err != nil {
		return err
	}
	if e.After, err = form(a.after); err != nil {
		return err
	}
	last, prev, err := tx.LastAudit()
	if err != nil {
		return err
	}
	if last > 0 && prev == nil {
		prev = []byte(lostRecord)
	}
	seq, text, err := r.chain.Record(last, prev, &e)
	if err != nil {
		return err
	}
	return tx.PutAudit(seq, text)
}

// lostRecord stands for a newest record that somebody took out of the store.
// What follows it has a gap before it that VerifyAudit finds.
const lostRecord = `{"entry":null,"prev":"","mac":""}`

func form(v any) (json.RawMessage, error) {
	if v == nil {
		return nil, nil
	}
	return json.Marshal(v)
}

// recordKey adds the entry of one key's change. A nil form is absent.
func (r *Registrar) recordKey(ctx context.Context, tx store.Tx, action string, before *keyForm, k *access.Key) error {
	a := act{action: action, tenant: k.Tenant, object: k.ID.String(), after: formOf(k)}
	if before != nil {
		a.before = before
	}
	return r.record(ctx, tx, a)
}

// keyForm is a key as the audit trail shows it: no secret, no digest.
type keyForm struct {
	ID            string            `json:"id"`
	Tenant        string            `json:"tenant"`
	Name          string            `json:"name"`
	Description   string            `json:"description,omitempty"`
	Status        string            `json:"status"`
	Permissions   []string          `json:"permissions,omitempty"`
	Addresses     []netip.Prefix    `json:"addresses,omitempty"`
	Rate          string            `json:"rate,omitempty"`
	ExpiresAt     *time.Time        `json:"expires_at,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Prefix        string            `json:"prefix"`
	Environment   string            `json:"environment,omitempty"`
	PreviousUntil *time.Time        `json:"previous_until,omitempty"` // end of the old secret's grace
	Override      *overrideForm     `json:"override,omitempty"`
}

func formOf(k *access.Key) *keyForm {
	f := &keyForm{
		ID: k.ID.String(), Tenant: k.Tenant, Name: k.Name, Description: k.Description, Status: k.Status.String(),
		Permissions: k.Permissions(), Addresses: k.Addresses(), ExpiresAt: instant(k.Expires),
		Metadata: k.Metadata, Prefix: k.Prefix, Environment: k.Environment, Override: overrideFormOf(k.Override),
	}
	if !k.Rate.IsZero() {
		f.Rate = k.Rate.String()
	}
	if k.Previous != nil {
		f.PreviousUntil = instant(k.Previous.Until)
	}
	return f
}

// instant returns a unix second as a time, nil for 0.
func instant(unix int64) *time.Time {
	if unix == 0 {
		return nil
	}
	t := time.Unix(unix, 0).UTC()
	return &t
}

// tenantForm is a tenant as the audit trail shows it.
type tenantForm struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Plan        string            `json:"plan"`
	Status      string            `json:"status"`
	Permissions *[]string         `json:"permissions,omitempty"` // absent: no bound
	Metadata    map[string]string `json:"metadata,omitempty"`
	Override    *overrideForm     `json:"override,omitempty"`
	Grants      []grantForm       `json:"grants,omitempty"` // where they go; see fullTenantForm
}

func tenantFormOf(t *access.Tenant) *tenantForm {
	f := &tenantForm{ID: t.ID, Name: t.Name, Plan: t.Plan, Status: t.Status.String(), Metadata: t.Metadata, Override: overrideFormOf(t.Override)}
	if t.Permissions != nil {
		f.Permissions = &t.Permissions
	}
	return f
}
