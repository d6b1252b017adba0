package mgmt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxAnswer bounds what the client reads: a page of keys with all their
// metadata, or what became of an import, is well below it.
const maxAnswer = 32 << 20

// Client speaks to the operator door. What the server refuses is returned as
// *Error; other errors are those of Do.
type Client struct {
	// Do sends one request. The path begins with Base and may have a query.
	Do func(method, path string, header http.Header, body io.Reader) (*http.Response, error)
	// Actor is the name that the audit trail puts changes down to; it may be empty.
	Actor string
}

// Page says which part of a list is wanted.
type Page struct {
	Cursor string // the Next of the page before; empty for the first
	Limit  int    // records; 0 is the server's default
}

// Status returns what the server says of itself.
func (c *Client) Status() (json.RawMessage, error) {
	return ask[json.RawMessage](c, http.MethodGet, "/status", nil)
}

// CreateTenant creates a tenant.
func (c *Client) CreateTenant(req CreateTenant) (Tenant, error) {
	return ask[Tenant](c, http.MethodPost, "/tenants", req)
}

// Tenant returns one tenant.
func (c *Client) Tenant(id string) (Tenant, error) {
	return ask[Tenant](c, http.MethodGet, "/tenants/"+url.PathEscape(id), nil)
}

// Tenants returns a page of tenants.
func (c *Client) Tenants(p Page) (TenantList, error) {
	return ask[TenantList](c, http.MethodGet, "/tenants"+p.query(nil), nil)
}

// UpdateTenant changes a tenant.
func (c *Client) UpdateTenant(id string, req UpdateTenant) (Tenant, error) {
	return ask[Tenant](c, http.MethodPatch, "/tenants/"+url.PathEscape(id), req)
}

// DeleteTenant deletes a tenant and its keys.
func (c *Client) DeleteTenant(id string) error {
	return c.do(http.MethodDelete, "/tenants/"+url.PathEscape(id), nil, nil)
}

func (p Page) query(filter map[string]string) string {
	q := url.Values{}
	for n, v := range filter {
		if v != "" {
			q.Set(n, v)
		}
	}
	if p.Cursor != "" {
		q.Set("cursor", p.Cursor)
	}
	if p.Limit != 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

func ask[T any](c *Client, method, path string, req any) (T, error) {
	var out T
	err := c.do(method, path, req, &out)
	return out, err
}

func (c *Client) do(method, path string, req, out any) error {
	if req == nil {
		return c.send(method, path, http.Header{}, nil, out)
	}
	b, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encoding the request: %w", err)
	}
	return c.send(method, path, http.Header{"Content-Type": {"application/json"}}, b, out)
}

// send sends a body and reads a JSON answer into out, if it is not nil.
func (c *Client) send(method, path string, header http.Header, req []byte, out any) error {
	resp, err := c.open(method, path, header, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the answer is not what keytoll sends: %w", err)
	}
	return nil
}

// open returns an answer that is no refusal; its body is the caller's to close.
func (c *Client) open(method, path string, header http.Header, req []byte) (*http.Response, error) {
	header.Set("Accept", "application/json")
	if c.Actor != "" {
		header.Set(actorHeader, c.Actor)
	}
	var body io.Reader
	if req != nil {
		body = bytes.NewReader(req)
	}
	resp, err := c.Do(method, Base+path, header, body)
	if err != nil || resp.StatusCode < 300 {
		return resp, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return nil, refusal(resp.StatusCode, b)
}

// refusal reads our own envelope, Caddy's {"error":"…"}, or plain text.
func refusal(status int, body []byte) error {
	var ours errorBody
	if json.Unmarshal(body, &ours) == nil && ours.Error != nil && ours.Error.Code != "" {
		ours.Error.Status = status
		return ours.Error
	}
	var caddys struct {
		Error string `json:"error"`
	}
	text := strings.TrimSpace(string(body))
	if json.Unmarshal(body, &caddys) == nil && caddys.Error != "" {
		text = caddys.Error
	}
	e := &Error{Status: status, Code: "internal", Message: fmt.Sprintf("the server answered %d: %s", status, text)}
	if status == http.StatusNotFound {
		e.Code = "not_found"
		e.Message = "this server has no keytoll"
		e.Hint = "is it a Caddy built with keytoll, and is --address its admin endpoint?"
	}
	return e
}
