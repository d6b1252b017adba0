package mgmt

import (
	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func listKeys(c *call, _ none) (*KeyList, error) {
	q, limit, err := c.query("tenant", "status", "name")
	if err != nil {
		return nil, err
	}
	f := registrar.KeyFilter{Tenant: q["tenant"], Name: q["name"]}
	if t := c.PathValue("tenant"); t != "" {
		if f.Tenant != "" && f.Tenant != t {
			return nil, badRequest("tenant", "the path names one tenant and the query another")
		}
		f.Tenant = t
	}
	after, err := keyCursor(q["cursor"])
	if err != nil {
		return nil, err
	}
	if f.Status, err = statusFilter(q["status"]); err != nil {
		return nil, err
	}
	page, next, err := c.Keys(c.Context(), f, after, limit)
	if err != nil {
		return nil, err
	}
	list := &KeyList{Keys: make([]Key, 0, len(page))}
	for _, k := range page {
		list.Keys = append(list.Keys, c.show(k))
	}
	if next != (access.KeyID{}) {
		list.Next = next.String()
	}
	c.link(list.Next)
	return list, nil
}

// keyCursor reads the cursor of a list of keys; empty is the start.
func keyCursor(s string) (after access.KeyID, err error) {
	if s == "" {
		return after, nil
	}
	if after, err = access.ParseKeyID(s); err != nil {
		return after, badRequest("cursor", "cursor is not one that a list returned")
	}
	return after, nil
}

// statusFilter reads the state that a list is narrowed to; empty is all.
func statusFilter(s string) (access.Status, error) {
	if s == "" {
		return 0, nil
	}
	status, err := parseStatus(&s)
	if err != nil {
		return 0, err
	}
	return *status, nil
}

func createKey(c *call, req CreateKey) (Key, error) {
	rate, err := req.Rate.parse()
	if err != nil {
		return Key{}, badRequest("rate.window", "%s", err)
	}
	addresses, err := parseAddresses(req.Addresses)
	if err != nil {
		return Key{}, err
	}
	in, err := seconds("expires_in", req.ExpiresIn)
	if err != nil {
		return Key{}, err
	}
	if req.ExpiresAt != nil && req.ExpiresIn != nil {
		return Key{}, badRequest("expires_in", "give expires_at or expires_in, not both")
	}
	once, err := c.idempotency()
	if err != nil {
		return Key{}, err
	}
	return c.issued(c.IssueKey(c.Context(), registrar.CreateKeyRequest{
		Tenant:      c.PathValue("tenant"),
		Name:        req.Name,
		Description: req.Description,
		Expires:     req.ExpiresAt,
		ExpiresIn:   in,
		Rate:        rate,
		Prefix:      req.Prefix,
		Environment: req.Environment,
		Permissions: req.Permissions,
		Addresses:   addresses,
		Metadata:    req.Metadata,
		Idempotency: once,
	}))
}

func rotateKey(c *call, req RotateKey) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	rotate := registrar.RotateRequest{}
	if req.Grace != nil {
		grace, err := parseGrace(*req.Grace)
		if err != nil {
			return Key{}, err
		}
		rotate.Grace = &grace
	}
	if rotate.Idempotency, err = c.idempotency(); err != nil {
		return Key{}, err
	}
	return c.issued(c.RotateKey(c.Context(), id, rotate))
}

// issued shows a key with its secret. The last use is left out, so that a
// repeated answer is the same.
func (c *call) issued(i *registrar.Issued, err error) (Key, error) {
	if err != nil {
		return Key{}, err
	}
	out := ShowKey(i.Key)
	out.Key = i.Secret.Reveal()
	return out, nil
}

func showKey(c *call, _ none) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	out, err := c.key(c.Key(c.Context(), id))
	if err == nil && c.door.KeyCredits != nil {
		// Counts that cannot be read are no reason to hide the key, which whoever
		// changes it has to see first.
		if b, err := c.door.KeyCredits(id); err == nil {
			out.Credits = showKeyCredits(b)
		}
	}
	return out, err
}

func updateKey(c *call, req UpdateKey) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	if req == (UpdateKey{}) {
		return Key{}, badRequest("", "nothing to change: give name, description, status, expires_at, rate, permissions, addresses or metadata")
	}
	u := registrar.KeyUpdate{
		Name:        req.Name,
		Description: req.Description,
		ExpiresAt:   req.ExpiresAt.Value,
		Never:       req.ExpiresAt.Set && req.ExpiresAt.Value == nil,
		PlanRate:    req.Rate.Set && req.Rate.Value == nil,
		Permissions: req.Permissions,
		Metadata:    req.Metadata,
	}
	if u.Status, err = parseStatus(req.Status); err != nil {
		return Key{}, err
	}
	if u.Rate, err = req.Rate.Value.parse(); err != nil {
		return Key{}, badRequest("rate.window", "%s", err)
	}
	if req.Addresses != nil {
		list, err := parseAddresses(*req.Addresses)
		if err != nil {
			return Key{}, err
		}
		u.Addresses = &list
	}
	return c.key(c.UpdateKey(c.Context(), id, u))
}

func revokeKey(c *call, _ none) (Key, error) {
	id, err := c.keyID()
	if err != nil {
		return Key{}, err
	}
	return c.key(c.RevokeKey(c.Context(), id))
}

// revokeSecret takes the secret from the body: paths end up in logs.
func revokeSecret(c *call, req RevokeSecret) (Key, error) {
	if req.Secret == "" || len(req.Secret) > token.MaxLen {
		return Key{}, badRequest("secret", "secret: want the text of a key, 1 to %d bytes", token.MaxLen)
	}
	return c.key(c.RevokeSecret(c.Context(), token.Wrap(req.Secret)))
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
	return c.show(k), nil
}

// show returns a key with its last use.
func (c *call) show(k *access.Key) Key {
	out := ShowKey(k)
	if c.door.Use != nil {
		out.use(c.door.Use(k.ID))
	}
	return out
}

func (c *call) idempotency() (*registrar.Idempotency, error) {
	return idempotency(c.Request, "operator", c.body)
}
