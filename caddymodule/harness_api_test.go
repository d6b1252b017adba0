package caddymodule

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// apiSite is both tenant doors before a gate.
const apiSite = `
keytoll_api keys {
	base /v1/api-keys
}
keytoll_api me {
	base /v1/me
}
keytoll
reverse_proxy {upstream}
`

// guardedOptions and guardedSite are the same with permissions.
const guardedOptions = `
permission read
permission write implies read
permission keys:manage
permission keys:list
plan free {
	permissions read
}
plan pro
default_plan pro
`

const guardedSite = `
keytoll_api keys {
	base /v1/api-keys
	require keys:manage
	require list keys:manage keys:list
}
keytoll_api me {
	base /v1/me
}
keytoll {
	permit /v1/read* read
	permit * write
}
reverse_proxy {upstream}
`

const keysPath = "/v1/api-keys"

// api sends a request with a key and, unless it is empty, a JSON body.
func (g *gateway) api(method, path, key, body string, headers ...string) reply {
	g.t.Helper()
	req, err := http.NewRequest(method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	if body == "" {
		req.Body = nil
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("X-API-Key", key)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	return g.send(req)
}

// object returns the members of the body.
func (r reply) object(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		t.Fatalf("body %q: %v", r.body, err)
	}
	return v
}

// text returns a member of the body that is a text.
func (r reply) text(t testing.TB, name string) string {
	t.Helper()
	s, ok := r.object(t)[name].(string)
	if !ok {
		t.Fatalf("no text %s in %s", name, r.body)
	}
	return s
}

// instant returns a member of the body that is a time, in unix seconds.
func (r reply) instant(t testing.TB, name string) int64 {
	t.Helper()
	at, err := time.Parse("2006-01-02T15:04:05Z", r.text(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return at.Unix()
}

// field returns the member at fault that an error names.
func (r reply) field() string {
	var v struct {
		Error struct{ Details struct{ Field string } }
	}
	_ = json.Unmarshal([]byte(r.body), &v)
	return v.Error.Details.Field
}

// keys returns those of a list in keytoll's own dialect.
func (r reply) keys(t testing.TB) (list []map[string]any) {
	t.Helper()
	all, _ := r.object(t)["keys"].([]any)
	for _, k := range all {
		list = append(list, k.(map[string]any))
	}
	return list
}

// count returns how many keys a tenant has.
func (g *gateway) count(tenant string) int {
	g.t.Helper()
	n := 0
	for after, more := (access.KeyID{}), true; more; more = after != (access.KeyID{}) {
		page, next, err := g.registrar().Keys(g.t.Context(), registrar.KeyFilter{Tenant: tenant}, after, registrar.MaxLimit)
		if err != nil {
			g.t.Fatal(err)
		}
		n, after = n+len(page), next
	}
	return n
}

// stored returns all that is stored of a key, as text.
func (g *gateway) stored(id access.KeyID) string {
	g.t.Helper()
	k, err := g.registrar().Key(g.t.Context(), id)
	if err != nil {
		g.t.Fatal(err)
	}
	text, err := json.Marshal(k)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(text)
}

// restart stops Caddy, with it the store, and starts it with the same
// configuration.
func (g *gateway) restart() {
	g.t.Helper()
	if err := caddy.Stop(); err != nil {
		g.t.Fatal(err)
	}
	if err := g.tryLoad(g.config); err != nil {
		g.t.Fatal(err)
	}
}

// eventually waits for what happens in the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
