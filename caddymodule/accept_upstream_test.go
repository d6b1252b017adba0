package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func TestA11ForgedIdentityHeaders(t *testing.T) {
	g := newGateway(t, "", plainGate)
	id, key := g.key("acme", registrar.CreateKeyRequest{})
	forged := [][]string{
		{"X-Tenant-Id: other"}, {"x-tenant-id: other"}, {"X-TENANT-ID: other", "X-Key-Id: k"},
		{"X-Tenant-Id: a", "X-Tenant-Id: b"}, {"X_Tenant_Id: other"}, {"X-Tenant.Id: other"}, {"x_tenant-id: a", "X-Key_Id: b"},
		{"Connection: close, X-Tenant-Id"}, {"Connection: X-Tenant-Id, X-Key-Id, keep-alive"},
		{"Connection: x-tenant-id", "Connection: x-key-id"},
	}
	for _, extra := range forged {
		g.do("GET", "/v1/x", append(extra, "Authorization: Bearer "+key)...).expect(t, 200)
		saw := g.upstream.last(t)
		for name, values := range saw.Header {
			folded := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
			if folded == "x-tenant-id" && (name != "X-Tenant-Id" || len(values) != 1 || values[0] != "acme") ||
				folded == "x-key-id" && (name != "X-Key-Id" || len(values) != 1 || values[0] != id.String()) {
				t.Errorf("%v: upstream saw %s: %q", extra, name, values)
			}
		}
		if saw.Header.Get("X-Tenant-Id") != "acme" || saw.Header.Get("X-Key-Id") != id.String() {
			t.Errorf("%v: identity is gone: %v", extra, saw.Header)
		}
	}
}

// Caddy drops '_' and '.' headers by itself unless they are allowed.
func TestF11AliasesWhenCaddyLetsThemIn(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	text := strings.Replace(g.config, "admin off", "admin off\n servers {\n expected_underscore_headers X_Tenant_Id\n expected_dot_headers X.Key.Id\n }", 1)
	if err := g.tryLoad(text); err != nil {
		t.Fatal(err)
	}
	g.do("GET", "/", "X-Api-Key: "+key, "X_Tenant_Id: evil", "X.Key.Id: evil").expect(t, 200)
	for name, v := range g.upstream.last(t).Header {
		if strings.ContainsAny(name, "_.") {
			t.Errorf("upstream saw %s: %q", name, v)
		}
	}
}

func TestF2Trailers(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for _, announce := range []string{"X-Sum", "X-Sum, X-Tenant-Id", "X_Tenant_Id"} {
		r, err := g.raw("POST / HTTP/1.1\nHost: 127.0.0.1\nConnection: close\nX-Api-Key: " + key +
			"\nTransfer-Encoding: chunked\nTrailer: " + announce + "\n\n5\nhello\n0\nX-Sum: 1\nX-Tenant-Id: evil\nX-Key-Id: evil2\nX_Tenant_Id: evil\nAuthorization: Bearer " + key + "\n\n")
		if err != nil || r.StatusCode != 200 {
			t.Fatal(r.Response, err)
		}
		for name, v := range g.upstream.last(t).Trailer {
			if name != "X-Sum" {
				t.Errorf("announced %q: upstream saw the trailer %s: %q", announce, name, v)
			}
		}
	}
}

func TestA12NoCredentialReachesTheUpstream(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n key_from bearer\n inject X-Request-Id {http.request.uuid}\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	req, _ := http.NewRequest("GET", g.url+"/p?tok="+key+"&a=1&b=x;tok="+key, nil)
	req.Header = http.Header{
		"Authorization": {"Bearer " + key}, "X-Api-Key": {key}, "X-Something": {"Token " + key},
		"Referer": {"https://a.example/?k=" + key}, "Cookie": {"k=" + key}, "Api_key": {key},
	}
	g.send(req).expect(t, 200)
	saw := g.upstream.last(t)
	if saw.URI != "/p?a=1" {
		t.Errorf("upstream saw %s", saw.URI)
	}
	for name, values := range saw.Header {
		for _, v := range values {
			if strings.Contains(v, key[5:]) {
				t.Errorf("upstream saw the key in %s", name)
			}
		}
	}
	if len(saw.Header.Get("X-Request-Id")) != 36 {
		t.Errorf("X-Request-Id %q", saw.Header.Get("X-Request-Id"))
	}
}

func TestA13OtherHeadersAreUntouched(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	sent := http.Header{
		"Accept-Language": {"de"}, "Cookie": {"a=1; b=2"}, "X-One": {"1", "2"}, "X-Client-Thing": {"a, b"},
		"If-None-Match": {`"x"`}, "Content-Language": {"en"}, "X-Tenant": {"mine"}, "Authorization": {"Negotiate abc"},
	}
	req, _ := http.NewRequest("GET", g.url+"/?a=%2F&b", nil)
	req.Header = sent.Clone()
	req.Header.Set("X-Api-Key", key)
	g.send(req).expect(t, 200)
	saw := g.upstream.last(t)
	for name, want := range sent {
		if got := saw.Header[name]; strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if saw.URI != "/?a=%2F&b" {
		t.Errorf("target %s", saw.URI)
	}
}

func TestA14BodyArrivesWhole(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	body := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	sum := sha256.Sum256(body)
	for _, r := range []io.Reader{bytes.NewReader(body), io.MultiReader(bytes.NewReader(body))} { // length known, chunked
		req, _ := http.NewRequest("POST", g.url, r)
		req.Header.Set("X-Api-Key", key)
		g.send(req).expect(t, 200)
		if got := g.upstream.last(t); got.Sum != hex.EncodeToString(sum[:]) {
			t.Errorf("upstream got %d bytes of another sum", got.Length)
		}
	}
}

func TestF5UpgradeOfAnotherProtocol(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	g.do("GET", "/", "X-Api-Key: "+key, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "Http2-Settings: AAMAAABk").expect(t, 200)
	saw := g.upstream.last(t)
	for _, name := range []string{"Upgrade", "Connection", "Http2-Settings"} {
		if v, ok := saw.Header[name]; ok {
			t.Errorf("upstream saw %s: %q", name, v)
		}
	}
}

// A refused request whose body never comes must not pin its connection.
func TestF4RefusalWithUnreadBodyClosesAtOnce(t *testing.T) {
	g := newGateway(t, "", plainGate)
	for _, extra := range []string{"Content-Length: 100000\n", "Transfer-Encoding: chunked\n", "Content-Length: 10\nExpect: 100-continue\n"} {
		start := time.Now()
		r, err := g.raw("POST / HTTP/1.1\nHost: 127.0.0.1\n" + extra + "\n")
		if err != nil || r.StatusCode != 401 {
			t.Fatal(r.Response, err)
		}
		if !r.Close {
			t.Errorf("%q: the connection stays open", extra)
		}
		if d := time.Since(start); d > 15*time.Second { // unmended it takes 60 s
			t.Errorf("%q: answered after %s", extra, d)
		}
	}
}

func TestA55UpstreamDown(t *testing.T) {
	g := newGateway(t, "", "keytoll\nreverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	g.upstream.server.Close()
	r := g.do("GET", "/v1/secret-path", "X-Api-Key: "+key, "X-Provider-Key-Openai: sk_provider").expect(t, 502)
	if r.code() != "bad_gateway" || strings.Contains(r.body, "127.0.0.1") || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v", r.body, r.Header)
	}
	log := g.log()
	if !strings.Contains(log, "upstream failed") || !strings.Contains(log, "connection refused") {
		t.Errorf("the failure is not logged: %s", log)
	}
	for _, secret := range []string{key, "sk_provider"} {
		if strings.Contains(log, secret) {
			t.Errorf("the log shows %s", secret[:4])
		}
	}
}

func TestInjectedPlaceholders(t *testing.T) {
	g := newGateway(t, "plan pro {\n rate 1000/1m\n }\n tenant acme {\n name \"Acme, Inc.\"\n plan pro\n }\n keys {\n prefix ak_live_ live\n }", `
	keytoll {
		inject X-Plan {http.keytoll.plan}
		inject X-Environment {http.keytoll.environment}
		inject X-Permissions {http.keytoll.permissions}
		inject X-Name {http.keytoll.key.name}
		inject X-Tenant-Name {http.keytoll.tenant.name}
		inject X-Team {http.keytoll.key.metadata.team}
		inject X-Who "key {http.auth.user.id} of {http.keytoll.tenant.id}"
		inject X-Gateway keytoll
		inject X-Empty {http.keytoll.key.metadata.none}
		inject X-Path {http.request.header.X-Evil}
	}
	reverse_proxy {upstream}`)
	id, key := g.key("acme", registrar.CreateKeyRequest{Name: "laptop", Permissions: []string{"read", "write"}, Metadata: map[string]string{"team": "red"}})
	g.do("GET", "/", "X-Api-Key: "+key, "X-Evil: {env.HOME}{http.keytoll.plan}", "X-Team: evil", "X-Empty: evil").expect(t, 200)
	saw := g.upstream.last(t)
	for name, want := range map[string]string{
		"X-Plan": "pro", "X-Environment": "live", "X-Permissions": "read write", "X-Name": "laptop",
		"X-Tenant-Name": "Acme, Inc.", "X-Team": "red", "X-Who": "key " + id.String() + " of acme",
		"X-Gateway": "keytoll", "X-Path": "{env.HOME}{http.keytoll.plan}", "X-Empty": "",
	} {
		if got := saw.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
