package caddymodule

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// A key learns of itself what it needs, and why it was refused last.
func TestMe(t *testing.T) {
	options := guardedOptions + "plan team {\n rate 50/1m\n rate 1000/1d\n}\ntenant acme {\n plan team\n}\n"
	g := newGateway(t, options, guardedSite)
	expires := time.Now().Add(48 * time.Hour).Truncate(time.Second).UTC()
	id, key := g.key("acme", registrar.CreateKeyRequest{Name: "mine", Permissions: []string{"read"}, Expires: &expires})
	r := g.api("GET", "/v1/me", key, "").expect(t, 200)
	me := r.object(t)
	for name, want := range map[string]string{
		"id": `"` + id.String() + `"`, "name": `"mine"`, "tenant": `"acme"`, "plan": `"team"`, "permissions": `["read"]`,
		"expires_at": `"` + expires.Format(time.RFC3339) + `"`, "last_refusal": "null", "status": `"active"`,
		"limits": `[{"burst":50,"requests":50,"window":"1m"},{"burst":1000,"requests":1000,"window":"1d"}]`,
	} {
		if got, _ := json.Marshal(me[name]); string(got) != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if _, ok := me["key"]; ok || strings.Contains(r.body, key) || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v", r.body, r.Header)
	}
	start := time.Now().Unix()
	g.api("POST", "/v1/x", key, "").expect(t, 403)
	r = g.api("GET", "/v1/me", key, "").expect(t, 200)
	last, _ := r.object(t)["last_refusal"].(map[string]any)
	at, err := time.Parse(time.RFC3339, fmt.Sprint(last["at"]))
	if last["reason"] != "forbidden" || err != nil || at.Unix() < start {
		t.Errorf("last refusal %v, %v", last, err)
	}
	_, own := g.key("acme", registrar.CreateKeyRequest{Rate: &access.Rate{Requests: 3, Burst: 3, Window: time.Hour}})
	if got, _ := json.Marshal(g.api("GET", "/v1/me", own, "").object(t)["limits"]); string(got) != `[{"burst":3,"requests":3,"window":"1h"}]` {
		t.Errorf("limits %s", got)
	}
	for method, path := range map[string]string{"POST": "/v1/me", "DELETE": "/v1/me"} {
		if r := g.api(method, path, key, "").expect(t, 405); r.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("Allow %q", r.Header.Get("Allow"))
		}
	}
	g.api("GET", "/v1/me/"+id.String(), key, "").expect(t, 404)
	g.api("GET", "/v1/me", "", "").expect(t, 401)
}

// A key at its limit learns that, once it may ask again.
func TestMeTellsOfTheDoorsOwnRefusals(t *testing.T) {
	g := newGateway(t, guardedOptions, guardedSite)
	key := g.with("read")
	g.api("POST", keysPath, key, "{}").expect(t, 403)
	if last, _ := g.api("GET", "/v1/me", key, "").expect(t, 200).object(t)["last_refusal"].(map[string]any); last["reason"] != "forbidden" {
		t.Errorf("last refusal %v", last)
	}
}

// What is not below a base is the gate's; what is, never reaches the API.
func TestRequestsBesideTheBase(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	for i, target := range []string{"/", "/v1", "/v1/api-key", "/v1/api-keys2", "/v1/api-keysX/key_1", "/v1/men", "/v2/api-keys", "/x/v1/api-keys"} {
		g.api("GET", target, m, "").expect(t, 200)
		if n := g.upstream.count(); n != i+1 || g.upstream.last(t).URI != target {
			t.Errorf("%s: the upstream saw %d requests, the last %s", target, n, g.upstream.last(t).URI)
		}
		g.api("GET", target, "", "").expect(t, 401)
	}
	n := g.upstream.count()
	for _, target := range []string{"/v1/api-keys/", "/v1/api-keys", "/v1/api-keys/a/b/c", "/v1/api-keys/a/rotatee", "/v1/api-keys/a%2frotate", "/V1/API-KEYS", "/v1/api%2Dkeys", "/v1/me/", "/v1/me"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "TRACE"} {
			r := g.api(method, target, m, "")
			if r.StatusCode >= 500 {
				t.Errorf("%s %s: %d %s", method, target, r.StatusCode, r.body)
			}
		}
		g.api("GET", target, "", "").expect(t, 401)
	}
	if got := g.upstream.count(); got != n {
		t.Errorf("the upstream saw %d requests of the door's, the last %+v", got-n, g.upstream.last(t))
	}
	r := g.api("PUT", keysPath, m, "{}").expect(t, 405)
	if r.Header.Get("Allow") != "GET, HEAD, POST" || r.code() != "method_not_allowed" {
		t.Errorf("%s %v", r.body, r.Header)
	}
}

// A key that stands in the query is in no answer and no log.
func TestKeyInTheQueryOfTheDoor(t *testing.T) {
	g := newGateway(t, "", strings.ReplaceAll(apiSite, "base ", "key_from query:token\n base "))
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	g.key("acme", registrar.CreateKeyRequest{})
	r := g.api("GET", keysPath+"?limit=1&token="+m, "", "").expect(t, 200)
	if link := r.Header.Get("Link"); !strings.Contains(link, "cursor=") || !strings.Contains(link, "limit=1") || strings.Contains(link, "token") {
		t.Errorf("Link %q", link)
	}
	g.api("POST", keysPath+"?token="+m, "", `{}`).expect(t, 201)
	g.api("GET", "/v1/me?token="+m, "", "").expect(t, 200)
	g.api("GET", keysPath, m, "").expect(t, 401)
	if strings.Contains(r.whole(), m) || strings.Contains(g.log(), m) {
		t.Error("the key is shown")
	}
}

// Where permissions are configured, each action of the door must have some.
func TestDoorIsNotLeftOpen(t *testing.T) {
	g := newGateway(t, guardedOptions, guardedSite)
	file := filepath.Join(t.TempDir(), "orders.yaml")
	if err := os.WriteFile(file, []byte(orders), 0o600); err != nil {
		t.Fatal(err)
	}
	door := func(lines string) string {
		return "keytoll_api keys {\n base " + keysPath + "\n " + lines + "\n}\nreverse_proxy {upstream}"
	}
	openapi := "\nkeytoll {\n permit openapi " + file + "\n}"
	for name, c := range map[string]struct{ options, site, want string }{
		"none":                        {guardedOptions, door(""), "permissions are configured, so keytoll_api keys must say which create needs"},
		"some":                        {guardedOptions, door("require create write\n require list read"), "must say which get needs"},
		"unknown":                     {guardedOptions, door("require wriet"), "permission wriet is not defined"},
		"unknown of an action":        {guardedOptions, door("require read\n require rotate wriet"), "permission wriet is not defined"},
		"me unknown":                  {guardedOptions, "keytoll_api me {\n base /v1/me\n require wriet\n}\nreverse_proxy {upstream}", "permission wriet is not defined"},
		"of a description":            {"", door("") + openapi, "must say which create needs"},
		"of a description, unknown":   {"", door("require wriet") + openapi, "permission wriet is not defined"},
		"of a description, before it": {"", "route {\n" + strings.TrimSpace(openapi) + "\n" + door("") + "\n}", "must say which create needs"},
	} {
		err := g.tryLoad(g.text(c.options, c.site))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

// The door asks for a key and holds limits as the gate does, with the same
// buckets.
func TestDoorIsAGate(t *testing.T) {
	site := strings.Replace(apiSite, "base "+keysPath, "base "+keysPath+"\n limit 6/1h per tenant name door", 1)
	g := newGateway(t, "throttle_failures 3/1h", site)
	r := g.api("GET", keysPath, "", "").expect(t, 401)
	if r.Header.Get("WWW-Authenticate") != `Bearer realm="api"` || r.code() != "unauthorized" {
		t.Errorf("%s %v", r.body, r.Header)
	}
	if same := g.api("GET", "/v1/x", "", "").expect(t, 401); same.body != r.body {
		t.Errorf("the gate says %s, the door %s", same.body, r.body)
	}
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: &access.Rate{Requests: 4, Burst: 4, Window: time.Hour}})
	g.api("GET", "/v1/x", key, "").expect(t, 200)
	if r := g.api("POST", keysPath, key, "{}").expect(t, 201); limitNumbers(r.Header) != "4/2" {
		t.Errorf("limits %v", r.Header)
	}
	g.api("POST", keysPath, key, `{"bad":1}`).expect(t, 400) // counts as well
	g.api("GET", "/v1/me", key, "").expect(t, 200)
	for _, path := range []string{"/v1/x", keysPath, "/v1/me"} {
		if r := g.api("GET", path, key, "").expect(t, 429); r.Header.Get("Retry-After") == "" || r.code() != "rate_limit_exceeded" {
			t.Errorf("%s: %s %v", path, r.body, r.Header)
		}
	}
	_, second := g.key("acme", registrar.CreateKeyRequest{})
	for range 4 {
		g.api("GET", keysPath, second, "").expect(t, 200)
	}
	g.api("GET", keysPath, second, "").expect(t, 429) // six of the tenant's
	g.api("GET", "/v1/x", second, "").expect(t, 200)
	n := g.count("acme")
	for range 3 {
		g.api("POST", keysPath, "kt_wrong", "{}").expect(t, 401)
	}
	g.api("POST", keysPath, "kt_wrong", "{}").expect(t, 429)
	if g.count("acme") != n {
		t.Error("a refused request made a key")
	}
}

// A configuration that did not come by way of a Caddyfile is held to the same.
func TestProvisionRefusesBadDoors(t *testing.T) {
	for _, c := range []struct{ name, door, want string }{
		{"no kind", `"base":"/k"`, `kind ""`},
		{"kind", `"kind":"Keys","base":"/k"`, `kind "Keys"`},
		{"no base", `"kind":"keys"`, `base ""`},
		{"root", `"kind":"keys","base":"/"`, `base "/"`},
		{"slash", `"kind":"keys","base":"/k/"`, `base "/k/"`},
		{"dots", `"kind":"me","base":"/a/../k"`, "base"},
		{"wildcard", `"kind":"me","base":"/k*"`, "base"},
		{"action", `"kind":"keys","base":"/k","require_for":{"delete":["a"]}`, "delete"},
		{"action of me", `"kind":"me","base":"/k","require_for":{"list":["a"]}`, "list"},
		{"unknown", `"kind":"keys","base":"/k","requires":["a"]`, `unknown field "requires"`},
		{"optional", `"kind":"keys","base":"/k","gate":{"optional":true}`, "alone"},
		{"public", `"kind":"keys","base":"/k","gate":{"public":[{}]}`, "alone"},
		{"permits", `"kind":"keys","base":"/k","gate":{"permits":[{"needs":["a"]}]}`, "alone"},
		{"guards", `"kind":"keys","base":"/k","gate":{"guards":[{"value":"{query.a}"}]}`, "alone"},
		{"inject", `"kind":"keys","base":"/k","gate":{"inject":[{"header":"X-A","value":"b"}]}`, "alone"},
		{"sources", `"kind":"keys","base":"/k","gate":{"sources":["cookie:a"]}`, "unknown source"},
		{"dialect", `"kind":"keys","base":"/k","gate":{"dialect":"nobody"}`, "nobody"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := fmt.Appendf(nil, `{"admin":{"disabled":true},"apps":{"keytoll":{},"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"automatic_https":{"disable":true},
				"routes":[{"handle":[{"handler":"keytoll_api",%s}]}]}}}}}`, c.door)
			if err := adaptProvision(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
