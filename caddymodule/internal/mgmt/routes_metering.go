package mgmt

import (
	"net/http"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func (h *Handler) routeMetering() {
	h.route("/tenants/{tenant}/credits", methods{"GET": serveJSON(h, http.StatusOK, showCredits)})
	h.route("/tenants/{tenant}/credits/grants", methods{"POST": serveJSON(h, http.StatusCreated, createGrant)})
	h.route("/tenants/{tenant}/credits/grants/{grant}", methods{"DELETE": serveJSON(h, http.StatusNoContent, revokeGrant)})
	h.route("/tenants/{tenant}/override", methods{
		"PUT":    serveJSON(h, http.StatusOK, setTenantOverride),
		"DELETE": serveJSON(h, http.StatusOK, dropTenantOverride),
	})
	h.route("/keys/{key}/override", methods{
		"PUT":    serveJSON(h, http.StatusOK, setKeyOverride),
		"DELETE": serveJSON(h, http.StatusOK, dropKeyOverride),
	})
	h.route("/usage", methods{"GET": http.HandlerFunc(h.usage)})
}

func showCredits(c *call, _ none) (Balance, error) {
	if _, err := c.parameters(); err != nil {
		return Balance{}, err
	}
	t, err := c.Tenant(c.Context(), c.PathValue("tenant"))
	if err != nil {
		return Balance{}, err
	}
	var a Account
	if c.door.Account != nil {
		if a, err = c.door.Account(t.ID); err != nil {
			return Balance{}, err
		}
	}
	return showBalance(t, a, time.Now().Unix()), nil
}

func createGrant(c *call, req CreateGrant) (Grant, error) {
	if _, err := c.parameters(); err != nil {
		return Grant{}, err
	}
	in, err := seconds("expires_in", req.ExpiresIn)
	if err != nil {
		return Grant{}, err
	}
	at := req.ExpiresAt
	if req.ExpiresIn != nil {
		if at != nil {
			return Grant{}, badRequest("expires_in", "give expires_at or expires_in, not both")
		}
		at = new(time.Now().Add(in + time.Second - 1).Truncate(time.Second)) // at least as long as asked
	}
	once, err := c.idempotency()
	if err != nil {
		return Grant{}, err
	}
	g, err := c.GrantCredits(c.Context(), c.PathValue("tenant"), registrar.GrantRequest{
		Amount: req.Amount, Expires: at, Note: req.Note, Idempotency: once})
	if err != nil {
		return Grant{}, err
	}
	return showGrant(g, g.Amount), nil // as it was made, also in a repeated answer
}

func revokeGrant(c *call, _ none) (none, error) {
	if _, err := c.parameters(); err != nil {
		return none{}, err
	}
	return none{}, c.RevokeGrant(c.Context(), c.PathValue("tenant"), c.PathValue("grant"))
}

func setTenantOverride(c *call, req Override) (Tenant, error) {
	o, err := c.override(&req)
	if err != nil {
		return Tenant{}, err
	}
	return c.tenant(c.SetTenantOverride(c.Context(), c.PathValue("tenant"), o))
}

func dropTenantOverride(c *call, _ none) (Tenant, error) {
	if _, err := c.parameters(); err != nil {
		return Tenant{}, err
	}
	return c.tenant(c.SetTenantOverride(c.Context(), c.PathValue("tenant"), nil))
}

func setKeyOverride(c *call, req Override) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	o, err := c.override(&req)
	if err != nil {
		return Key{}, err
	}
	return c.key(c.SetKeyOverride(c.Context(), id, o))
}

func dropKeyOverride(c *call, _ none) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	if _, err := c.parameters(); err != nil {
		return Key{}, err
	}
	return c.key(c.SetKeyOverride(c.Context(), id, nil))
}

// override reads the body of an override.
func (c *call) override(req *Override) (*access.Override, error) {
	if _, err := c.parameters(); err != nil {
		return nil, err
	}
	return req.parse(time.Now())
}
