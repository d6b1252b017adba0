package mgmt

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// CreateKey creates a key. Its secret is in the answer and never again.
func (c *Client) CreateKey(tenant string, req CreateKey) (Key, error) {
	return ask[Key](c, http.MethodPost, "/tenants/"+url.PathEscape(tenant)+"/keys", req)
}

// CreateKeyOnce creates a key unless it did so under the same once within the
// last ten minutes: then that answer comes again. Once is 1 to 255 visible
// ASCII characters; empty is CreateKey.
func (c *Client) CreateKeyOnce(tenant string, req CreateKey, once string) (Key, error) {
	return askOnce[Key](c, "/tenants/"+url.PathEscape(tenant)+"/keys", req, once)
}

// RotateKey gives a key a new secret, which is in the answer and never again.
func (c *Client) RotateKey(id string, req RotateKey) (Key, error) {
	return ask[Key](c, http.MethodPost, "/keys/"+url.PathEscape(id)+"/rotate", req)
}

// RotateKeyOnce is to RotateKey what CreateKeyOnce is to CreateKey.
func (c *Client) RotateKeyOnce(id string, req RotateKey, once string) (Key, error) {
	return askOnce[Key](c, "/keys/"+url.PathEscape(id)+"/rotate", req, once)
}

// askOnce posts under an idempotency key, if there is one.
func askOnce[T any](c *Client, path string, req any, once string) (out T, err error) {
	if once == "" {
		return ask[T](c, http.MethodPost, path, req)
	}
	b, err := json.Marshal(req)
	if err != nil {
		return out, fmt.Errorf("encoding the request: %w", err)
	}
	err = c.send(http.MethodPost, path, http.Header{"Content-Type": {"application/json"}, idempotencyHeader: {once}}, b, &out)
	return out, err
}

// RevokeSecret revokes the key that a secret is of, for good.
func (c *Client) RevokeSecret(secret string) (Key, error) {
	return ask[Key](c, http.MethodPost, "/keys/revoke-secret", RevokeSecret{Secret: secret})
}

// Key returns one key.
func (c *Client) Key(id string) (Key, error) {
	return ask[Key](c, http.MethodGet, "/keys/"+url.PathEscape(id), nil)
}

// Keys returns a page of keys; tenant and status filter where not empty.
func (c *Client) Keys(tenant, status string, p Page) (KeyList, error) {
	return c.KeysNamed(tenant, status, "", p)
}

// KeysNamed returns a page of the keys whose names hold a text, in whatever
// case; tenant, status and name filter where not empty. A page may be short or
// empty and have a Next all the same.
func (c *Client) KeysNamed(tenant, status, name string, p Page) (KeyList, error) {
	return ask[KeyList](c, http.MethodGet, "/keys"+p.query(map[string]string{"tenant": tenant, "status": status, "name": name}), nil)
}

// UpdateKey changes a key.
func (c *Client) UpdateKey(id string, req UpdateKey) (Key, error) {
	return ask[Key](c, http.MethodPatch, "/keys/"+url.PathEscape(id), req)
}

// RevokeKey revokes a key for good.
func (c *Client) RevokeKey(id string) (Key, error) {
	return ask[Key](c, http.MethodDelete, "/keys/"+url.PathEscape(id), nil)
}
