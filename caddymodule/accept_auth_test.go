package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

const plainGate = `
keytoll
reverse_proxy {upstream}
`

// The numbers in the names of these tests are those of the acceptance cases.

func TestA1A2GoodKeyPassesByEverySource(t *testing.T) {
	g := newGateway(t, "", plainGate)
	id, key := g.key("acme", registrar.CreateKeyRequest{Name: "laptop"})
	for _, h := range []string{
		"Authorization: Bearer " + key, "Authorization: bearer " + key, "authorization: BEARER   " + key,
		"X-Api-Key: " + key,
	} {
		r := g.do("GET", "/v1/x", h).expect(t, 200)
		if r.body != "hello from the api\n" {
			t.Errorf("body %q", r.body)
		}
		saw := g.upstream.last(t)
		if got := saw.Header["X-Tenant-Id"]; len(got) != 1 || got[0] != "acme" {
			t.Errorf("%s: tenant %q", h[:12], got)
		}
		if got := saw.Header["X-Key-Id"]; len(got) != 1 || got[0] != id.String() {
			t.Errorf("%s: key id %q", h[:12], got)
		}
	}
}

func TestA3MissingKey(t *testing.T) {
	g := newGateway(t, "", plainGate)
	r := g.do("GET", "/v1/x").expect(t, 401)
	if got := r.Header.Get("WWW-Authenticate"); got != `Bearer realm="api"` {
		t.Errorf("challenge %q", got)
	}
	if r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", r.Header)
	}
	if want := `{"error":{"code":"unauthorized","message":"Invalid or missing API key"}}` + "\n"; r.body != want {
		t.Errorf("body %q", r.body)
	}
	if n := g.upstream.count(); n != 0 {
		t.Errorf("upstream saw %d requests", n)
	}
}

func TestA4A5A6A7BadKeysLookAlike(t *testing.T) {
	g := newGateway(t, "", plainGate)
	revoked, r := g.key("acme", registrar.CreateKeyRequest{})
	if _, err := g.registrar().RevokeKey(t.Context(), revoked); err != nil {
		t.Fatal(err)
	}
	disabled, d := g.key("acme", registrar.CreateKeyRequest{})
	if _, err := g.registrar().DisableKey(t.Context(), disabled); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(2 * time.Second)
	_, x := g.key("acme", registrar.CreateKeyRequest{Expires: &soon})
	_, s := g.key("gone", registrar.CreateKeyRequest{})
	if _, err := g.registrar().SuspendTenant(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	for time.Now().Before(soon.Add(time.Second)) {
		time.Sleep(50 * time.Millisecond)
	}
	var first reply
	for i, key := range []string{"wrong", "kt_wrong", r, d, x, s, "kt_" + strings.Repeat("a", 38), strings.Repeat("k", 600), "sk_unknownButPlausible1234567890"} {
		got := g.do("GET", "/v1/x", "Authorization: Bearer "+key).expect(t, 401)
		if c := got.Header.Get("WWW-Authenticate"); c != `Bearer realm="api", error="invalid_token"` {
			t.Errorf("key %d: challenge %q", i, c)
		}
		if i == 0 {
			first = got
		} else if got.body != first.body || len(got.Header) != len(first.Header) {
			t.Errorf("key %d differs: %q %v", i, got.body, got.Header)
		}
	}
	basic := g.do("GET", "/v1/x", "Authorization: Basic dXNlcjpwYXNz").expect(t, 401)
	if c := basic.Header.Get("WWW-Authenticate"); !strings.HasPrefix(c, "Bearer ") {
		t.Errorf("A7: challenge %q", c)
	}
	if n := g.upstream.count(); n != 0 {
		t.Errorf("upstream saw %d requests", n)
	}
}

func TestA9HeadLikeGet(t *testing.T) {
	g := newGateway(t, "", plainGate)
	get := g.do("GET", "/v1/x", "X-Api-Key: wrong").expect(t, 401)
	head := g.do("HEAD", "/v1/x", "X-Api-Key: wrong").expect(t, 401)
	if head.body != "" {
		t.Errorf("HEAD has a body: %q", head.body)
	}
	for name := range get.Header {
		if name != "Date" && get.Header.Get(name) != head.Header.Get(name) {
			t.Errorf("%s: GET %q, HEAD %q", name, get.Header.Get(name), head.Header.Get(name))
		}
	}
}

func TestA10QueryKey(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	g.do("GET", "/v1/x?api_key="+key).expect(t, 401)

	g.load("", "keytoll {\n key_from bearer query:api_key\n }\n reverse_proxy {upstream}")
	for query, want := range map[string]string{
		"?a=1&api_key=" + key + "&b=%7e&&c":              "?a=1&b=%7e&&c",
		"?api_key=" + key:                                "",
		"?z=;&%61pi_key=" + key + "&a=+":                 "?z=;&a=+",
		"?x=%2f&api_key=" + key + "&api_key=" + key:      "?x=%2f",
		"?x=1&api_key=%6b" + key[1:] + "&y=b=c;d&empty=": "?x=1&y=b=c;d&empty=",
	} {
		g.do("GET", "/v1/x"+query).expect(t, 200)
		if got := g.upstream.last(t).URI; got != "/v1/x"+want {
			t.Errorf("%s: upstream saw %s", query, got)
		}
	}
}

func TestA25OneDecisionForAllSources(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n key_from bearer header:X-API-Key basic\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: &access.Rate{Requests: 1, Burst: 1, Window: time.Hour}})
	g.do("GET", "/", "Authorization: Bearer "+key).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
	req, _ := http.NewRequest("GET", g.url, nil)
	req.SetBasicAuth("any", key)
	g.send(req).expect(t, 429)
	req.SetBasicAuth(key, "")
	g.send(req).expect(t, 429)
}

func TestTwoDifferentCredentials(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, a := g.key("acme", registrar.CreateKeyRequest{})
	_, b := g.key("acme", registrar.CreateKeyRequest{})
	r := g.do("GET", "/", "Authorization: Bearer "+a, "X-Api-Key: "+b).expect(t, 400)
	if r.code() != "invalid_request" || r.Header.Get("WWW-Authenticate") != `Bearer realm="api", error="invalid_request"` {
		t.Errorf("%s %v", r.body, r.Header)
	}
	g.do("GET", "/", "Authorization: Bearer "+a, "Authorization: Bearer "+b).expect(t, 400)
	g.do("GET", "/", "Authorization: Bearer "+a, "X-Api-Key: "+a).expect(t, 200)
}

func TestMethods(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	if r := g.do("TRACE", "/", "X-Api-Key: "+key).expect(t, 405); r.Header.Get("Allow") == "" {
		t.Error("405 without Allow")
	}
	r, err := g.raw("CONNECT / HTTP/1.1\nHost: 127.0.0.1\nX-Api-Key: " + key + "\n\n")
	if err != nil || r.StatusCode != 405 {
		t.Errorf("CONNECT: %v %v", r.Response, err)
	}
	g.do("OPTIONS", "/", "Origin: https://a.example", "Access-Control-Request-Method: POST").expect(t, 200)
	if _, ok := g.upstream.last(t).Header["X-Tenant-Id"]; ok {
		t.Error("a preflight has a tenant")
	}
	g.do("OPTIONS", "/").expect(t, 401)
}

func TestPublicAndOptional(t *testing.T) {
	g := newGateway(t, "", "@h path /health /open/*\nkeytoll {\n public @h\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for _, headers := range [][]string{{}, {"X-Api-Key: wrong"}, {"X-Api-Key: " + key, "X-Tenant-Id: evil"}} {
		g.do("GET", "/open/x", headers...).expect(t, 200)
		saw := g.upstream.last(t)
		for _, name := range []string{"X-Tenant-Id", "X-Key-Id", "X-Api-Key"} {
			if v, ok := saw.Header[name]; ok {
				t.Errorf("upstream saw %s: %q", name, v)
			}
		}
	}
	g.do("GET", "/closed").expect(t, 401)

	g.load("", "keytoll {\n optional\n }\n reverse_proxy {upstream}")
	g.do("GET", "/", "X-Tenant-Id: evil").expect(t, 200)
	if _, ok := g.upstream.last(t).Header["X-Tenant-Id"]; ok {
		t.Error("an anonymous request has a tenant")
	}
	g.do("GET", "/", "X-Api-Key: wrong").expect(t, 401)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
}

func TestRevocationHoldsFromTheNextRequest(t *testing.T) {
	g := newGateway(t, "", plainGate)
	id, key := g.key("acme", registrar.CreateKeyRequest{})
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if _, err := g.registrar().DisableKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 401)
	if _, err := g.registrar().EnableKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if _, err := g.registrar().RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 401)
}

// Switching upgrades off switches off the form they have in HTTP/2 as well.
func TestUpgradeOffIsForExtendedConnectToo(t *testing.T) {
	for upgrades, want := range map[string]access.Reason{"": access.Missing, "off": access.MethodNotAllowed} {
		g := &gate.Gate{WebSocket: upgrades != "off", AllowHTTP: true}
		r := httptest.NewRequest("CONNECT", "/", nil)
		r.ProtoMajor = 2
		r.Header[":protocol"] = []string{"websocket"}
		c := new(gate.Call)
		if g.Decide(new(gate.State), r, c, new(gate.Asks)); c.Reason != want {
			t.Errorf("upgrade %q: %s, want %s", upgrades, c.Reason, want)
		}
	}
}
