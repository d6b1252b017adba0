package mgmt

import (
	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func showStatus(c *call, _ none) (any, error) { return c.door.status(), nil }

func listTenants(c *call, _ none) (*TenantList, error) {
	q, limit, err := c.query()
	if err != nil {
		return nil, err
	}
	page, next, err := c.Tenants(c.Context(), q["cursor"], limit)
	if err != nil {
		return nil, err
	}
	list := &TenantList{Tenants: make([]Tenant, 0, len(page)), Next: next}
	for _, t := range page {
		list.Tenants = append(list.Tenants, ShowTenant(t))
	}
	c.link(next)
	return list, nil
}

func createTenant(c *call, req CreateTenant) (Tenant, error) {
	t, err := c.CreateTenant(c.Context(), registrar.CreateTenantRequest{
		ID: req.ID, Name: req.Name, Plan: req.Plan, Permissions: req.Permissions, Metadata: req.Metadata,
	})
	return c.tenant(t, err)
}

func showTenant(c *call, _ none) (Tenant, error) {
	return c.tenant(c.Tenant(c.Context(), c.PathValue("tenant")))
}

func updateTenant(c *call, req UpdateTenant) (Tenant, error) {
	if req == (UpdateTenant{}) {
		return Tenant{}, badRequest("", "nothing to change: give name, plan, status, permissions or metadata")
	}
	u := registrar.TenantUpdate{Name: req.Name, Plan: req.Plan, Metadata: req.Metadata}
	status, err := parseStatus(req.Status)
	if err != nil {
		return Tenant{}, err
	}
	u.Status = status
	if req.Permissions.Set {
		u.Permissions = new(value(req.Permissions.Value))
	}
	return c.tenant(c.UpdateTenant(c.Context(), c.PathValue("tenant"), u))
}

func deleteTenant(c *call, _ none) (none, error) {
	return none{}, c.DeleteTenant(c.Context(), c.PathValue("tenant"))
}

func (c *call) tenant(t *access.Tenant, err error) (Tenant, error) {
	if err != nil {
		return Tenant{}, err
	}
	return ShowTenant(t), nil
}
