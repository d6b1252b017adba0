package mgmt

import (
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Base is the path under which all routes are.
const Base = "/keytoll/v1"

// Rate is a token bucket.
type Rate struct {
	Requests uint32 `json:"requests"`
	Window   string `json:"window"`          // such as 1m; access.ParseWindow
	Burst    uint32 `json:"burst,omitempty"` // equals requests if left out
}

// Key is a key as the API shows it.
type Key struct {
	ID          string            `json:"id"`
	Key         string            `json:"key,omitempty"` // the secret, at creation alone
	Tenant      string            `json:"tenant"`
	Name        string            `json:"name"`
	Prefix      string            `json:"prefix"` // the first characters of the secret
	Environment string            `json:"environment"`
	Status      string            `json:"status"` // active, disabled or revoked
	Rate        *Rate             `json:"rate"`   // null: the plan's rates hold
	Permissions []string          `json:"permissions"`
	Metadata    map[string]string `json:"metadata"`
	CreatedAt   time.Time         `json:"created_at"`
	ExpiresAt   *time.Time        `json:"expires_at"` // null: never
	RevokedAt   *time.Time        `json:"revoked_at"` // null: not revoked
}

// Tenant is a tenant as the API shows it.
type Tenant struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Plan      string            `json:"plan"`   // empty: the default plan
	Status    string            `json:"status"` // active or suspended
	Metadata  map[string]string `json:"metadata"`
	CreatedAt time.Time         `json:"created_at"`
}

// KeyList is a page of keys.
type KeyList struct {
	Keys []Key  `json:"keys"`
	Next string `json:"next,omitempty"` // cursor of the next page; empty at the end
}

// TenantList is a page of tenants.
type TenantList struct {
	Tenants []Tenant `json:"tenants"`
	Next    string   `json:"next,omitempty"` // cursor of the next page; empty at the end
}

// CreateTenant is the body of POST tenants.
type CreateTenant struct {
	ID       string            `json:"id"`
	Name     string            `json:"name,omitempty"`
	Plan     string            `json:"plan,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// UpdateTenant is the body of PATCH tenants/{tenant}. What is left out stays.
type UpdateTenant struct {
	Name     *string            `json:"name,omitempty"`
	Plan     *string            `json:"plan,omitempty"`
	Status   *string            `json:"status,omitempty"`
	Metadata *map[string]string `json:"metadata,omitempty"`
}

// CreateKey is the body of POST tenants/{tenant}/keys.
type CreateKey struct {
	Name        string            `json:"name,omitempty"`
	ExpiresAt   *time.Time        `json:"expires_at,omitempty"`
	Rate        *Rate             `json:"rate,omitempty"`
	Prefix      string            `json:"prefix,omitempty"`
	Environment string            `json:"environment,omitempty"`
	Permissions []string          `json:"permissions,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

// UpdateKey is the body of PATCH keys/{key}. What is left out stays.
type UpdateKey struct {
	Name   *string `json:"name,omitempty"`
	Status *string `json:"status,omitempty"` // active or disabled
}

// ShowKey returns the API's form of a key, without a secret.
func ShowKey(k *access.Key) Key {
	out := Key{
		ID:          k.ID.String(),
		Tenant:      k.Tenant,
		Name:        k.Name,
		Prefix:      k.Prefix,
		Environment: k.Environment,
		Status:      k.Status.String(),
		Permissions: append([]string{}, k.Permissions()...),
		Metadata:    filled(k.Metadata),
		CreatedAt:   k.CreatedAt.UTC(),
	}
	if !k.Rate.IsZero() {
		out.Rate = ShowRate(k.Rate)
	}
	if k.Expires != 0 {
		out.ExpiresAt = new(time.Unix(k.Expires, 0).UTC())
	}
	if !k.RevokedAt.IsZero() {
		out.RevokedAt = new(k.RevokedAt.UTC())
	}
	return out
}

// ShowTenant returns the API's form of a tenant.
func ShowTenant(t *access.Tenant) Tenant {
	return Tenant{
		ID:        t.ID,
		Name:      t.Name,
		Plan:      t.Plan,
		Status:    t.Status.String(),
		Metadata:  filled(t.Metadata),
		CreatedAt: t.CreatedAt.UTC(),
	}
}

// ShowRate returns the API's form of a rate.
func ShowRate(r access.Rate) *Rate {
	bare := access.Rate{Requests: 1, Burst: 1, Window: r.Window}
	return &Rate{Requests: r.Requests, Burst: r.Burst, Window: strings.TrimPrefix(bare.String(), "1/")}
}

func (r *Rate) parse() (*access.Rate, error) {
	if r == nil {
		return nil, nil
	}
	window, err := access.ParseWindow(r.Window)
	if err != nil {
		return nil, err
	}
	out := &access.Rate{Requests: r.Requests, Burst: r.Burst, Window: window}
	if out.Burst == 0 {
		out.Burst = out.Requests
	}
	return out, nil
}

// filled makes an empty map {} rather than null.
func filled(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
