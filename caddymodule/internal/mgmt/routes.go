package mgmt

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func showStatus(c *call, _ none) (any, error) { return c.status(), nil }

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
		ID: req.ID, Name: req.Name, Plan: req.Plan, Metadata: req.Metadata,
	})
	return c.tenant(t, err)
}

func showTenant(c *call, _ none) (Tenant, error) {
	return c.tenant(c.Tenant(c.Context(), c.PathValue("tenant")))
}

func updateTenant(c *call, req UpdateTenant) (Tenant, error) {
	if req == (UpdateTenant{}) {
		return Tenant{}, badRequest("", "nothing to change: give name, plan, status or metadata")
	}
	u := registrar.TenantUpdate{Name: req.Name, Plan: req.Plan, Metadata: req.Metadata}
	status, err := parseStatus(req.Status)
	if err != nil {
		return Tenant{}, err
	}
	u.Status = status
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

func listKeys(c *call, _ none) (*KeyList, error) {
	q, limit, err := c.query("tenant", "status")
	if err != nil {
		return nil, err
	}
	f := registrar.KeyFilter{Tenant: q["tenant"]}
	if t := c.PathValue("tenant"); t != "" {
		if f.Tenant != "" && f.Tenant != t {
			return nil, badRequest("tenant", "the path names one tenant and the query another")
		}
		f.Tenant = t
	}
	var after access.KeyID
	if s := q["cursor"]; s != "" {
		if after, err = access.ParseKeyID(s); err != nil {
			return nil, badRequest("cursor", "cursor is not one that a list returned")
		}
	}
	if s := q["status"]; s != "" {
		status, err := parseStatus(&s)
		if err != nil {
			return nil, err
		}
		f.Status = *status
	}
	page, next, err := c.Keys(c.Context(), f, after, limit)
	if err != nil {
		return nil, err
	}
	list := &KeyList{Keys: make([]Key, 0, len(page))}
	for _, k := range page {
		list.Keys = append(list.Keys, ShowKey(k))
	}
	if next != (access.KeyID{}) {
		list.Next = next.String()
	}
	c.link(list.Next)
	return list, nil
}

func createKey(c *call, req CreateKey) (Key, error) {
	rate, err := req.Rate.parse()
	if err != nil {
		return Key{}, badRequest("rate.window", "%s", err)
	}
	k, secret, err := c.CreateKey(c.Context(), registrar.CreateKeyRequest{
		Tenant:      c.PathValue("tenant"),
		Name:        req.Name,
		Expires:     req.ExpiresAt,
		Rate:        rate,
		Prefix:      req.Prefix,
		Environment: req.Environment,
		Permissions: req.Permissions,
		Metadata:    req.Metadata,
	})
	if err != nil {
		return Key{}, err
	}
	out := ShowKey(k)
	out.Key = secret.Reveal()
	return out, nil
}

func showKey(c *call, _ none) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	return c.key(c.Key(c.Context(), id))
}

func updateKey(c *call, req UpdateKey) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	if req == (UpdateKey{}) {
		return Key{}, badRequest("", "nothing to change: give name or status")
	}
	status, err := parseStatus(req.Status)
	if err != nil {
		return Key{}, err
	}
	return c.key(c.UpdateKey(c.Context(), id, registrar.KeyUpdate{Name: req.Name, Status: status}))
}

func revokeKey(c *call, _ none) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	return c.key(c.RevokeKey(c.Context(), id))
}

func (c *call) keyID() (access.KeyID, error) {
	id, err := access.ParseKeyID(c.PathValue("key"))
	if err != nil {
		return id, &registrar.Error{Code: registrar.InvalidRequest, Field: "key", Message: err.Error(), Hint: "caddy keytoll keys list"}
	}
	return id, nil
}

func (c *call) key(k *access.Key, err error) (Key, error) {
	if err != nil {
		return Key{}, err
	}
	return ShowKey(k), nil
}

func parseStatus(s *string) (*access.Status, error) {
	if s == nil {
		return nil, nil
	}
	status, err := access.ParseStatus(*s)
	if err != nil {
		return nil, badRequest("status", "unknown status %q", clip(*s))
	}
	return &status, nil
}

// query reads limit, cursor and the given parameters, and refuses others: a
// filter with a slip in its name must not list everything.
func (c *call) query(names ...string) (map[string]string, int, error) {
	values, err := url.ParseQuery(c.URL.RawQuery)
	if err != nil {
		return nil, 0, badRequest("", "the query is not well formed")
	}
	q := map[string]string{"limit": "", "cursor": ""}
	for _, n := range names {
		q[n] = ""
	}
	for n, v := range values {
		if _, ok := q[n]; !ok {
			return nil, 0, badRequest(clip(n), "there is no parameter %q here", clip(n))
		}
		if len(v) != 1 || v[0] == "" {
			return nil, 0, badRequest(n, "the parameter %s wants one value", n)
		}
		q[n] = v[0]
	}
	if q["limit"] == "" {
		return q, 0, nil
	}
	limit, err := strconv.Atoi(q["limit"])
	if err != nil || limit < 1 {
		return nil, 0, badRequest("limit", "limit %q: want 1 to %d", clip(q["limit"]), registrar.MaxLimit)
	}
	return q, limit, nil
}

// link names the next page in the header, as RFC 8288 has it.
func (c *call) link(next string) {
	if next == "" {
		return
	}
	q := c.URL.Query()
	q.Set("cursor", next)
	c.header.Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", c.URL.EscapedPath(), q.Encode()))
}
