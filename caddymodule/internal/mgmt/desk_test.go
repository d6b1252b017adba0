package mgmt_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

const base = "/v1/api-keys"

func TestDeskKeyLife(t *testing.T) {
	d := newDoor(t)
	k := d.desk(d.tenant("acme", "write").ID, &dialect.Dialect{})
	w := k.send("POST", base, `{"name":"ci","description":"builds","permissions":["read"],"expires_in_days":30,"addresses":["192.0.2.0/24"]}`)
	var got mgmt.Key
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 201 || got.Key == "" || got.ExpiresAt == nil || got.Tenant != "acme" {
		t.Fatal(w.Code, w.Body, err)
	}
	one := base + "/" + got.ID
	if w.Header().Get("Location") != one || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("header %v", w.Header())
	}
	for _, path := range []string{one, base, base + "/"} {
		w := k.send("GET", path, "")
		if w.Code != 200 || !strings.Contains(w.Body.String(), got.ID) || strings.Contains(w.Body.String(), got.Key) {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
		head := k.send("HEAD", path, "")
		if head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) {
			t.Errorf("HEAD %s: %d %v %s", path, head.Code, head.Header(), head.Body)
		}
	}
	if w := k.send("PATCH", one, `{"name":"cd","disabled":true,"expires_at":null}`); w.Code != 200 ||
		!strings.Contains(w.Body.String(), `"name":"cd"`) || !strings.Contains(w.Body.String(), `"status":"disabled"`) || !strings.Contains(w.Body.String(), `"expires_at":null`) {
		t.Errorf("PATCH: %d %s", w.Code, w.Body)
	}
	if w := k.send("PATCH", one, `{"disabled":false}`); w.Code != 200 {
		t.Errorf("PATCH: %d %s", w.Code, w.Body)
	}
	if w := k.send("POST", one+"/rotate", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"key":"ak_live_`) || strings.Contains(w.Body.String(), got.Key) {
		t.Errorf("rotate: %d %s", w.Code, w.Body)
	}
	first, again := whole(k.send("DELETE", one, "")), whole(k.send("DELETE", one, ""))
	if first != again || !strings.Contains(first, "204") {
		t.Errorf("deleted %s then %s", first, again)
	}
	if w := k.send("GET", base+"?status=revoked&name=CD", ""); !strings.Contains(w.Body.String(), got.ID) {
		t.Errorf("filtered %s", w.Body)
	}
	entries, err := d.client.Audit(mgmt.AuditFilter{Object: got.ID}, mgmt.Page{})
	if err != nil || len(entries.Entries) == 0 || entries.Entries[0].Actor != (access.Actor{Kind: "key", Key: k.caller, Address: "192.0.2.1"}) {
		t.Errorf("audit %+v, %v", entries, err)
	}
}

// A caller may revoke itself, and the answer is the one that it would get for
// another key, whatever members the dialect shows.
func TestDeskRevokesItself(t *testing.T) {
	d := newDoor(t)
	k := d.desk(d.tenant("acme").ID, &dialect.Dialect{Revoke: &dialect.Shape{Status: 200, Members: []string{"id", "status", "plan"}}})
	if w := k.send("DELETE", base+"/"+k.caller, ""); w.Code != 200 || !strings.Contains(w.Body.String(), `"status":"revoked"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := k.send("GET", base, ""); w.Code != 403 {
		t.Errorf("a revoked caller: %d %s", w.Code, w.Body)
	}
}

func TestDeskBadInput(t *testing.T) {
	d := newDoor(t)
	k := d.desk(d.tenant("acme", "read").ID, &dialect.Dialect{Rotate: &dialect.Shape{Inputs: []string{"grace_seconds"}}})
	one := base + "/" + k.caller
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"malformed":           {"POST", base, `{"name":`, 400, "invalid_request"},
		"not an object":       {"POST", base, `[]`, 400, "invalid_request"},
		"two objects":         {"POST", base, `{} {}`, 400, "invalid_request"},
		"duplicate":           {"POST", base, `{"name":"a","name":"b"}`, 400, `"name"`},
		"unknown":             {"POST", base, `{"expires":"x"}`, 400, `"expires"`},
		"tenant":              {"POST", base, `{"tenant":"other"}`, 400, `"tenant"`},
		"id":                  {"POST", base, `{"id":"key_0000000000000000"}`, 400, `"id"`},
		"plan":                {"PATCH", one, `{"plan":"pro"}`, 400, `"plan"`},
		"created_at":          {"PATCH", one, `{"created_at":"2030-01-01T00:00:00Z"}`, 400, `"created_at"`},
		"wrong type":          {"POST", base, `{"name":7}`, 400, `"name"`},
		"wrong list":          {"POST", base, `{"permissions":"read"}`, 400, `"permissions"`},
		"too deep":            {"POST", base, strings.Repeat(`{"a":`, 40) + `1` + strings.Repeat(`}`, 40), 400, "invalid_request"},
		"64 KiB and one":      {"POST", base, `{"name":"` + strings.Repeat("x", 64<<10-10) + `"}`, 413, "body_too_large"},
		"unknown permission":  {"POST", base, `{"permissions":["reed"]}`, 400, "permissions"},
		"more than it has":    {"POST", base, `{"permissions":["write"]}`, 403, "permissions"},
		"more by a wildcard":  {"POST", base, `{"permissions":["*"]}`, 403, "permissions"},
		"raises itself":       {"PATCH", one, `{"permissions":["write"]}`, 403, "permissions"},
		"past expiry":         {"POST", base, `{"expires_at":"2001-01-01T00:00:00Z"}`, 400, "expires_at"},
		"expiry of zero":      {"POST", base, `{"expires_in_days":0}`, 400, "expires_in_days"},
		"negative expiry":     {"POST", base, `{"expires_in_seconds":-5}`, 400, "expires_in_seconds"},
		"absurd expiry":       {"POST", base, `{"expires_in_days":99999999999}`, 400, "expires_in_days"},
		"expiry twice":        {"POST", base, `{"expires_in_days":1,"expires_in_seconds":5}`, 400, "expires_in"},
		"long name":           {"POST", base, `{"name":"` + strings.Repeat("x", 201) + `"}`, 400, `"name"`},
		"long description":    {"POST", base, `{"description":"` + strings.Repeat("x", 1001) + `"}`, 400, `"description"`},
		"metadata":            {"POST", base, `{"metadata":{"a":1}}`, 400, "metadata"},
		"address":             {"POST", base, `{"addresses":["10.0.0.0/33"]}`, 400, "addresses"},
		"nothing to change":   {"PATCH", one, `{}`, 400, "invalid_request"},
		"negative grace":      {"POST", one + "/rotate", `{"grace_seconds":-1}`, 400, "grace_seconds"},
		"misspelt filter":     {"GET", base + "?sttus=active", "", 400, "sttus"},
		"filter twice":        {"GET", base + "?status=active&status=revoked", "", 400, "status"},
		"no such status":      {"GET", base + "?status=gone", "", 400, "status"},
		"limit of zero":       {"GET", base + "?limit=0", "", 400, "limit"},
		"limit of too many":   {"GET", base + "?limit=101", "", 400, "limit"},
		"made up cursor":      {"GET", base + "?cursor=1", "", 400, "cursor"},
		"query of a create":   {"POST", base + "?name=x", `{}`, 400, "name"},
		"method of the keys":  {"PUT", base, `{}`, 405, "method_not_allowed"},
		"method of one":       {"POST", one, `{}`, 405, "method_not_allowed"},
		"method of rotate":    {"GET", one + "/rotate", "", 405, "method_not_allowed"},
		"path":                {"GET", one + "/other", "", 404, "not_found"},
		"path of a neighbour": {"GET", base + "s", "", 404, "not_found"},
		"hidden slash":        {"POST", one + "%2Frotate", "", 404, "not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			w := k.send(c.method, c.path, c.body)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("%d %s, want %d and %s", w.Code, w.Body, c.status, c.says)
			}
			if strings.Contains(w.Body.String(), "caddy keytoll") {
				t.Errorf("a tenant is told what operators are: %s", w.Body)
			}
		})
	}
	if w := k.send("PUT", base, ""); w.Header().Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("Allow %q", w.Header().Get("Allow"))
	}
	if w := k.send("POST", base, `{}`, "Content-Type", "text/plain"); w.Code != 415 {
		t.Errorf("text/plain: %d %s", w.Code, w.Body)
	}
	if w := k.send("POST", base, `{}`, "Idempotency-Key", strings.Repeat("x", 256)); w.Code != 400 {
		t.Errorf("a long Idempotency-Key: %d %s", w.Code, w.Body)
	}
	if list, err := d.client.Keys("", "", mgmt.Page{}); err != nil || len(list.Keys) != 1 || !slices.Equal(list.Keys[0].Permissions, []string{"read"}) {
		t.Errorf("bad input left %+v, %v", list, err)
	}
}

// Of an id that is another tenant's, that nobody has, or that is none, a caller
// hears the same.
func TestDeskIsolation(t *testing.T) {
	d := newDoor(t)
	foreign := d.tenant("other")
	own := d.tenant("acme", "write").ID
	for _, status := range []int{403, 404} {
		k := d.desk(own, &dialect.Dialect{Foreign: status, Rotate: &dialect.Shape{Inputs: []string{"grace_seconds"}}})
		for _, c := range []struct{ method, tail, body string }{
			{"GET", "", ""}, {"HEAD", "", ""}, {"DELETE", "", ""},
			{"PATCH", "", `{"name":"mine"}`}, {"PATCH", "", `{"permissions":["read"]}`}, {"PATCH", "", `{"nmae":"x"}`}, {"PATCH", "", `{"expires_at":"2001-01-01T00:00:00Z"}`},
			{"POST", "/rotate", ""}, {"POST", "/rotate", `{"grace_seconds":60}`},
		} {
			var answers []string
			for _, id := range []string{foreign.ID, "key_0000000000000000", "42", "key_", "KEY_0000000000000000"} {
				w := k.send(c.method, base+"/"+id+c.tail, c.body)
				answers = append(answers, whole(w))
				if c.body == "" && w.Code != status {
					t.Errorf("%s %s: %d, want %d", c.method, id, w.Code, status)
				}
			}
			for _, a := range answers[1:] {
				if a != answers[0] {
					t.Errorf("%s %s: a foreign id is told apart:\n%s\n%s", c.method, c.body, answers[0], a)
				}
			}
		}
		if w := k.send("GET", base+"?cursor="+foreign.ID, ""); w.Code != 200 || strings.Contains(w.Body.String(), foreign.ID) {
			t.Errorf("a foreign cursor: %d %s", w.Code, w.Body)
		}
	}
	if k, err := d.client.Key(foreign.ID); err != nil || k.Name != "first" || k.Status != "active" || k.RotatedAt != nil {
		t.Errorf("the foreign key is %+v, %v", k, err)
	}
}

func TestDeskIdempotency(t *testing.T) {
	d := newDoor(t)
	k := d.desk(d.tenant("acme").ID, &dialect.Dialect{})
	answers := make([]string, 8)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() { answers[i] = whole(k.send("POST", base, `{"name":"x"}`, "Idempotency-Key", "one")) })
	}
	all.Wait()
	if err := d.store.Close(); err != nil {
		t.Fatal(err)
	}
	d.open()
	answers = append(answers, whole(k.send("POST", base, `{"name":"x"}`, "Idempotency-Key", "one")))
	for _, a := range answers {
		if a != answers[0] || !strings.Contains(a, "201 Created") {
			t.Errorf("answers differ:\n%s\n%s", answers[0], a)
		}
	}
	if w := k.send("POST", base, `{"name":"y"}`, "Idempotency-Key", "one"); w.Code != 422 {
		t.Errorf("another body: %d %s", w.Code, w.Body)
	}
	rotate := base + "/" + k.caller + "/rotate"
	if a, b := whole(k.send("POST", rotate, "", "Idempotency-Key", "one")), whole(k.send("POST", rotate, "", "Idempotency-Key", "one")); a != b || !strings.Contains(a, "200 OK") {
		t.Errorf("rotations differ:\n%s\n%s", a, b)
	}
	other := d.desk(d.tenant("other").ID, &dialect.Dialect{})
	if w := other.send("POST", base, `{"name":"y"}`, "Idempotency-Key", "one"); w.Code != 201 || whole(w) == answers[0] {
		t.Errorf("another tenant's key of the same name: %d %s", w.Code, w.Body)
	}
	if list, _ := d.client.Keys("acme", "", mgmt.Page{}); len(list.Keys) != 2 {
		t.Errorf("%d keys, want 2", len(list.Keys))
	}
}

// However a revocation and rotations of one key fall together, it ends revoked
// and no answer is half one.
func TestDeskRevokeAgainstRotate(t *testing.T) {
	d := newDoor(t)
	k := d.desk(d.tenant("acme", "write").ID, &dialect.Dialect{})
	for range 10 {
		id := d.tenant("acme").ID
		codes := make([]int, 3)
		var all sync.WaitGroup
		all.Go(func() { codes[0] = k.send("DELETE", base+"/"+id, "").Code })
		for i := range 2 {
			all.Go(func() { codes[i+1] = k.send("POST", base+"/"+id+"/rotate", "").Code })
		}
		all.Wait()
		if codes[0] != 204 || codes[1] != 200 && codes[1] != 409 || codes[2] != 200 && codes[2] != 409 {
			t.Errorf("answers %v", codes)
		}
		if got, err := d.client.Key(id); err != nil || got.Status != "revoked" {
			t.Errorf("after all: %+v, %v", got, err)
		}
		if w := k.send("POST", base+"/"+id+"/rotate", ""); w.Code != 409 {
			t.Errorf("rotating a revoked key: %d %s", w.Code, w.Body)
		}
	}
}

func TestDeskRequires(t *testing.T) {
	d := newDoor(t)
	k := d.desk(d.tenant("acme").ID, &dialect.Dialect{Realm: "prosody"}, func(o *mgmt.DeskOptions) {
		o.Require = map[string][]string{dialect.Create: {"admin", "createApiKey"}}
		o.Holds = func(_ mgmt.Caller, need []string) bool { return !slices.Contains(need, "admin") }
		o.Params = []string{"api_key"}
	})
	w := k.send("POST", base, `{}`)
	if got := w.Header().Get("WWW-Authenticate"); w.Code != 403 || got != `Bearer realm="prosody", error="insufficient_scope", scope="admin createApiKey"` {
		t.Errorf("%d %q %s", w.Code, got, w.Body)
	}
	d.tenant("acme")
	w = k.send("GET", base+"?api_key=secret&limit=1&status=active", "")
	link := w.Header().Get("Link")
	if w.Code != 200 || strings.Contains(link, "secret") || !strings.HasPrefix(link, "<"+base+"?cursor=key_") || !strings.HasSuffix(link, `&limit=1&status=active>; rel="next"`) {
		t.Errorf("%d, Link %q", w.Code, link)
	}
	k.caller = ""
	if w := k.send("GET", base, ""); w.Code != 401 || w.Header().Get("WWW-Authenticate") != `Bearer realm="prosody"` {
		t.Errorf("no caller: %d %v", w.Code, w.Header())
	}
}

func TestDeskMe(t *testing.T) {
	d := newDoor(t)
	k := d.desk(d.tenant("acme", "read").ID, &dialect.Dialect{}, func(o *mgmt.DeskOptions) {
		o.Kind, o.Base = mgmt.DeskMe, "/v1/me/"
		o.LastRefusal = func(access.KeyID) (access.Reason, int64) { return access.RateLimited, 1_900_000_000 }
	})
	w := k.send("GET", "/v1/me", "")
	for _, want := range []string{`"id":"` + k.caller + `"`, `"permissions":["read"]`, `"tenant":"acme"`, `"last_refusal":{"reason":"rate_limited"`, `"limits":[]`} {
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in %d %s", want, w.Code, w.Body)
		}
	}
	if w := k.send("GET", "/v1/me/"+k.caller, ""); w.Code != 404 {
		t.Errorf("below me: %d", w.Code)
	}
	if w := k.send("DELETE", "/v1/me", ""); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// Ten thousand pages show each key once.
func TestDeskManyPages(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	d := newDoor(t)
	k := d.desk(d.tenant("acme").ID, &dialect.Dialect{List: &dialect.Shape{Array: true, Members: []string{"id"}}})
	const n = 10_000
	for from := 0; from < n; from += 5000 {
		batch := make([]registrar.ImportKey, 5000)
		for i := range batch {
			batch[i] = registrar.ImportKey{Line: i + 1, Tenant: "acme", Secret: token.Wrap(fmt.Sprintf("old-secret-%d", from+i))}
		}
		if _, err := d.reg.Import(t.Context(), batch, registrar.ImportOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	pages := 0
	for path := base + "?limit=1"; path != ""; pages++ {
		w := k.send(http.MethodGet, path, "")
		var page []mgmt.Key
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 || len(page) > 1 {
			t.Fatal(w.Code, w.Body, err)
		}
		for _, key := range page {
			if seen[key.ID] {
				t.Fatalf("%s comes twice", key.ID)
			}
			seen[key.ID] = true
		}
		link := strings.TrimPrefix(w.Header().Get("Link"), "<")
		path, _, _ = strings.Cut(link, ">")
	}
	if len(seen) != n+1 || pages < n {
		t.Errorf("%d keys on %d pages", len(seen), pages)
	}
}
