package mgmt

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// maxUsage bounds the usage that the client reads: the most points that the
// server sends are well below it.
const maxUsage = 256 << 20

// Credits returns what a tenant has.
func (c *Client) Credits(tenant string) (Balance, error) {
	return ask[Balance](c, http.MethodGet, creditsPath(tenant), nil)
}

// GrantCredits gives a tenant credits.
func (c *Client) GrantCredits(tenant string, req CreateGrant) (Grant, error) {
	return ask[Grant](c, http.MethodPost, creditsPath(tenant)+"/grants", req)
}

// GrantCreditsOnce is to GrantCredits what CreateKeyOnce is to CreateKey.
func (c *Client) GrantCreditsOnce(tenant string, req CreateGrant, once string) (Grant, error) {
	return askOnce[Grant](c, creditsPath(tenant)+"/grants", req, once)
}

// RevokeGrant takes a grant from a tenant, with what is left of it.
func (c *Client) RevokeGrant(tenant, grant string) error {
	return c.do(http.MethodDelete, creditsPath(tenant)+"/grants/"+url.PathEscape(grant), nil, nil)
}

func creditsPath(tenant string) string { return "/tenants/" + url.PathEscape(tenant) + "/credits" }

// SetTenantOverride replaces the override of a tenant.
func (c *Client) SetTenantOverride(id string, o Override) (Tenant, error) {
	return ask[Tenant](c, http.MethodPut, "/tenants/"+url.PathEscape(id)+"/override", o)
}

// DropTenantOverride makes a tenant as its plan has it.
func (c *Client) DropTenantOverride(id string) (Tenant, error) {
	return ask[Tenant](c, http.MethodDelete, "/tenants/"+url.PathEscape(id)+"/override", nil)
}

// SetKeyOverride replaces the override of a key.
func (c *Client) SetKeyOverride(id string, o Override) (Key, error) {
	return ask[Key](c, http.MethodPut, "/keys/"+url.PathEscape(id)+"/override", o)
}

// DropKeyOverride makes a key as its tenant has it.
func (c *Client) DropKeyOverride(id string) (Key, error) {
	return ask[Key](c, http.MethodDelete, "/keys/"+url.PathEscape(id)+"/override", nil)
}

// UsageFilter says which usage is wanted. Empty fields are all, or the server's
// default.
type UsageFilter struct {
	Tenant string
	Key    string // an id, or other
	Route  string
	Class  string    // 1xx to 5xx or refused
	From   time.Time // widened to whole steps; zero: one hour, a day or 30 days ago, by step
	To     time.Time // zero: now
	Step   string    // minute, hour or day; empty: hour
	By     string    // what is kept apart: some of tenant, key, route, class and flags, with commas
}

// UsageReport is the answer to GET usage.
type UsageReport struct {
	Step   string       `json:"step"`
	From   time.Time    `json:"from"`
	To     time.Time    `json:"to"`
	Points []UsagePoint `json:"points"`
}

// UsagePoint is the usage of one step. Names are empty where points were not
// kept apart by them.
type UsagePoint struct {
	Start    time.Time   `json:"start"`
	Tenant   string      `json:"tenant,omitempty"`
	Key      string      `json:"key,omitempty"`
	Route    string      `json:"route,omitempty"`
	Class    string      `json:"class,omitempty"`
	Bypassed bool        `json:"bypassed,omitempty"`
	Observed bool        `json:"observed,omitempty"`
	Requests int64       `json:"requests"`
	Credits  json.Number `json:"credits"` // up to six decimals
	BytesIn  int64       `json:"bytes_in"`
	BytesOut int64       `json:"bytes_out"`
	Seconds  json.Number `json:"seconds"` // up to six decimals
	P50      *int64      `json:"p50_ms"`  // upper bounds; null: above 10 s
	P95      *int64      `json:"p95_ms"`
	P99      *int64      `json:"p99_ms"`
}

// Usage returns what was used.
func (c *Client) Usage(f UsageFilter) (UsageReport, error) {
	var out UsageReport
	resp, err := c.open(http.MethodGet, f.path(""), http.Header{}, nil)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxUsage)).Decode(&out); err != nil {
		return out, fmt.Errorf("the answer is not what keytoll sends: %w", err)
	}
	return out, nil
}

// UsageCSV writes what was used to w, as RFC 4180 has it.
func (c *Client) UsageCSV(f UsageFilter, w io.Writer) error {
	_, err := c.stream(f.path("csv"), w)
	return err
}

func (f UsageFilter) path(format string) string {
	filter := map[string]string{"tenant": f.Tenant, "key": f.Key, "route": f.Route, "class": f.Class, "step": f.Step, "by": f.By, "format": format}
	for name, t := range map[string]time.Time{"from": f.From, "to": f.To} {
		if !t.IsZero() {
			filter[name] = t.UTC().Format(time.RFC3339)
		}
	}
	return "/usage" + Page{}.query(filter)
}
