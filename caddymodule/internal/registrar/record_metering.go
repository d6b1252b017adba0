package registrar

import (
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// overrideForm is an override as the audit trail shows it.
type overrideForm struct {
	Rate       string         `json:"rate,omitempty"`
	Credits    access.Credits `json:"credits,omitempty"`
	Concurrent uint32         `json:"concurrent,omitempty"`
	MaxKeys    uint32         `json:"max_keys,omitempty"`
	Until      *time.Time     `json:"until,omitempty"` // absent: for ever
}

func overrideFormOf(o *access.Override) *overrideForm {
	if o == nil {
		return nil
	}
	f := &overrideForm{Credits: o.Credits, Concurrent: o.Concurrent, MaxKeys: o.MaxKeys, Until: instant(o.Until)}
	if !o.Rate.IsZero() {
		f.Rate = o.Rate.String()
	}
	return f
}

// grantForm is a grant as the audit trail shows it.
type grantForm struct {
	ID        string         `json:"id"`
	Amount    access.Credits `json:"amount"`
	ExpiresAt *time.Time     `json:"expires_at,omitempty"` // absent: never
	Note      string         `json:"note,omitempty"`
	CreatedAt time.Time      `json:"created_at"`
}

func grantFormOf(g access.Grant) *grantForm {
	return &grantForm{ID: g.ID, Amount: g.Amount, ExpiresAt: instant(g.Expires), Note: g.Note, CreatedAt: g.CreatedAt}
}

// fullTenantForm is a tenant with its grants, which the entry of most changes
// leaves out: each has entries of its own.
func fullTenantForm(t *access.Tenant) *tenantForm {
	f := tenantFormOf(t)
	for _, g := range t.Grants {
		f.Grants = append(f.Grants, *grantFormOf(g))
	}
	return f
}
