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

// Tenant is a tenant as the API shows it.
type Tenant struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Plan   string `json:"plan"`   // empty: the default plan
	Status string `json:"status"` // active or suspended
	// Permissions bound those of the tenant's keys; null: there is no bound.
	Permissions []string          `json:"permissions"`
	Metadata    map[string]string `json:"metadata"`
	Override    *Override         `json:"override"` // null: all is as the plan has it
	CreatedAt   time.Time         `json:"created_at"`
}

// TenantList is a page of tenants.
type TenantList struct {
	Tenants []Tenant `json:"tenants"`
	Next    string   `json:"next,omitempty"` // cursor of the next page; empty at the end
}

// CreateTenant is the body of POST tenants.
type CreateTenant struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
	Plan string `json:"plan,omitempty"`
	// Permissions bound those of the tenant's keys; nil is no bound, empty none.
	Permissions []string          `json:"permissions,omitzero"`
	Metadata    map[string]string `json:"metadata,omitempty"`
}

// UpdateTenant is the body of PATCH tenants/{tenant}. What is left out stays.
type UpdateTenant struct {
	Name        *string            `json:"name,omitempty"`
	Plan        *string            `json:"plan,omitempty"`
	Status      *string            `json:"status,omitempty"`
	Permissions Nullable[[]string] `json:"permissions,omitzero"` // null is no bound
	Metadata    *map[string]string `json:"metadata,omitempty"`
}

func (*UpdateTenant) refusesNull() {}

// ShowTenant returns the API's form of a tenant.
func ShowTenant(t *access.Tenant) Tenant {
	return Tenant{
		ID:          t.ID,
		Name:        t.Name,
		Plan:        t.Plan,
		Status:      t.Status.String(),
		Permissions: t.Permissions,
		Metadata:    filled(t.Metadata),
		Override:    ShowOverride(t.Override),
		CreatedAt:   t.CreatedAt.UTC(),
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
