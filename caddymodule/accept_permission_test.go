package caddymodule

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

const rulePermissions = `
permission rules:read "Read rules"
permission rules:write "Change rules" implies rules:read
permission admin implies rules:write
permission users:read
plan free {
	permissions rules:read
}
plan pro
default_plan pro
`

const ruleGate = `
@change {
	path /v1/rules /v1/rules/*
	method POST PUT DELETE
}
keytoll {
	public /open
	permit @change rules:write
	permit /v1/rules* rules:read
	permit /v1/users* users:read admin
}
reverse_proxy {upstream}
`

func (g *gateway) with(permissions ...string) string {
	g.t.Helper()
	_, secret := g.key("acme", registrar.CreateKeyRequest{Permissions: permissions})
	return secret
}

// A39: a key without the right gets 403 by every method, and is told which
// right that is.
func TestA39PermissionNeeded(t *testing.T) {
	g := newGateway(t, rulePermissions, ruleGate)
	for _, c := range []struct {
		holds        string
		method, path string
		status       int
		scope        string
	}{
		{"rules:read", "GET", "/v1/rules", 200, ""},
		{"rules:read", "GET", "/V1/Rules/7", 200, ""},
		{"rules:read", "POST", "/v1/rules", 403, "rules:write"},
		{"rules:read", "POST", "/V1/RULES", 403, "rules:write"},
		{"rules:read", "GET", "/v1/users", 403, "users:read admin"},
		{"rules:read", "GET", "/v2/else", 403, ""},
		{"rules:write", "GET", "/v1/rules", 200, ""},
		{"rules:write", "DELETE", "/v1/rules/7", 200, ""},
		{"admin", "POST", "/v1/rules", 200, ""},
		{"admin", "GET", "/v1/users", 200, ""},
		{"users:read", "GET", "/v1/users", 200, ""},
		{"rules:*", "POST", "/v1/rules", 200, ""},
		{"rules:*", "GET", "/v1/users", 403, "users:read admin"},
		{"*", "GET", "/v1/users", 200, ""},
		{"*", "GET", "/v2/else", 403, ""},
		{"", "GET", "/v1/rules", 403, "rules:read"},
		{"", "GET", "/open", 200, ""},
	} {
		r := g.do(c.method, c.path, "X-Api-Key: "+g.with(strings.Fields(c.holds)...))
		if r.StatusCode != c.status {
			t.Errorf("%s: %s %s: status %d, want %d", c.holds, c.method, c.path, r.StatusCode, c.status)
			continue
		}
		want := `Bearer realm="api", error="insufficient_scope"`
		if c.scope != "" {
			want += `, scope="` + c.scope + `"`
		}
		if got := r.Header.Get("WWW-Authenticate"); c.status == 403 && got != want {
			t.Errorf("%s: %s %s: challenge %q, want %q", c.holds, c.method, c.path, got, want)
		}
		if c.status == 403 && r.code() != "forbidden" {
			t.Errorf("%s: %s %s: body %s", c.holds, c.method, c.path, r.body)
		}
	}
	g.do("GET", "/v1/rules").expect(t, 401)
}

// A38: what the plan or the tenant lost, the key lost at its next request.
func TestA38RightsAreEvaluatedAtUse(t *testing.T) {
	g := newGateway(t, rulePermissions, ruleGate)
	key := g.with("rules:write")
	header := "X-Api-Key: " + key
	g.do("POST", "/v1/rules", header).expect(t, 200)
	free, pro := "free", "pro"
	if _, err := g.registrar().UpdateTenant(t.Context(), "acme", registrar.TenantUpdate{Plan: &free}); err != nil {
		t.Fatal(err)
	}
	r := g.do("POST", "/v1/rules", header).expect(t, 403)
	if !strings.Contains(r.body, "Your plan doesn't include access to this feature") || r.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("%s %v", r.body, r.Header)
	}
	g.do("GET", "/v1/rules", header).expect(t, 200)
	if _, err := g.registrar().UpdateTenant(t.Context(), "acme", registrar.TenantUpdate{Plan: &pro}); err != nil {
		t.Fatal(err)
	}
	g.do("POST", "/v1/rules", header).expect(t, 200)
	g.load(rulePermissions+"tenant small {\n permissions users:read\n}\n", ruleGate)
	_, small := g.key("small", registrar.CreateKeyRequest{Permissions: []string{"users:read"}})
	g.do("GET", "/v1/users", "X-Api-Key: "+small).expect(t, 200)
}

// A target that is not in normal form is refused while there is a rule about
// paths, before its key is looked at, and goes up untouched while there is none.
func TestTargetsNotInNormalForm(t *testing.T) {
	targets := []string{
		"/v1//rules", "/v1/./rules", "/open/../v1/rules", "/open/%2e%2e/v1/rules", "/open%2f..%2fv1/rules", "/v1/rules%00",
		"/v1/rules;x=1", "/v1%5crules", "/v1/%2Frules", "/v1/rules%252f", "//v1/rules",
	}
	g := newGateway(t, rulePermissions, ruleGate)
	for _, rules := range []string{"permit /v1/rules* rules:read", "tenant_guard {header.X-Org}", "public /open"} {
		g.load(rulePermissions, "keytoll {\n "+rules+"\n }\n reverse_proxy {upstream}")
		for _, target := range targets {
			r, err := g.raw("GET " + target + " HTTP/1.1\nHost: " + g.addr + "\nX-Api-Key: " + g.with("*") + "\nConnection: close\n\n")
			if err != nil || r.StatusCode != 400 || r.code() != "invalid_request" {
				t.Errorf("%s: %s: %v %+v", rules, target, err, r)
			}
		}
	}
	if n := g.upstream.count(); n != 0 {
		t.Errorf("the upstream saw %d requests", n)
	}
	g.load(rulePermissions, plainGate)
	g.do("GET", "/v1//rules/%2e%2e/x;y", "X-Api-Key: "+g.with()).expect(t, 200)
	if saw := g.upstream.last(t).URI; saw != "/v1//rules/%2e%2e/x;y" {
		t.Errorf("the upstream saw %s", saw)
	}
}

// A value of the request must be the key's tenant, whatever it looks like.
func TestTenantGuard(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n tenant_guard /orgs/* {path.1}\n tenant_guard /q {query.org}\n tenant_guard /h {header.X-Org}\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for _, c := range []struct {
		path, org string
		status    int
	}{
		{"/orgs/acme/x", "", 200}, {"/orgs/acme", "", 200}, {"/orgs/other/x", "", 403}, {"/orgs/ACME", "", 403}, {"/orgs/", "", 403},
		{"/orgs/acme2", "", 403}, {"/else", "", 200},
		{"/q?org=acme", "", 200}, {"/q?org=other", "", 403}, {"/q", "", 403}, {"/q?org=acme&org=other", "", 403},
		{"/q?org={http.keytoll.tenant.id}", "", 403},
		{"/h", "acme", 200}, {"/h", "other", 403}, {"/h", "", 403}, {"/h", "{http.keytoll.tenant.id}", 403}, {"/h", "{env.HOME}", 403},
	} {
		r := g.do("GET", c.path, "X-Api-Key: "+key, "X-Org: "+c.org)
		if r.StatusCode != c.status {
			t.Errorf("%s %s: status %d, want %d", c.path, c.org, r.StatusCode, c.status)
		}
		if c.status == 403 && (r.code() != "forbidden" || r.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %s %v", c.path, r.body, r.Header)
		}
	}
	g.do("GET", "/h", "X-Api-Key: "+key, "X-Org: acme", "X-Org: other").expect(t, 403)
	g.do("GET", "/orgs/acme").expect(t, 401)
}

func TestAddressesOfAKey(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, here := g.key("acme", registrar.CreateKeyRequest{Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	_, there := g.key("acme", registrar.CreateKeyRequest{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	g.do("GET", "/", "X-Api-Key: "+here).expect(t, 200)
	if r := g.do("GET", "/", "X-Api-Key: "+there).expect(t, 403); r.code() != "forbidden" {
		t.Error(r.body)
	}
}

// A33: with a grace period both secrets work, and the old one says that it
// ends, whatever the upstream says.
func TestA33GraceIsAnnounced(t *testing.T) {
	g := newGateway(t, "", plainGate)
	id, old := g.key("acme", registrar.CreateKeyRequest{})
	grace := time.Hour
	start := time.Now().Truncate(time.Second)
	issued, err := g.registrar().RotateKey(t.Context(), id, registrar.RotateRequest{Grace: &grace})
	if err != nil {
		t.Fatal(err)
	}
	r := g.do("GET", "/", "X-Api-Key: "+old).expect(t, 200)
	since, err := strconv.ParseInt(strings.TrimPrefix(r.Header.Get("Deprecation"), "@"), 10, 64)
	if err != nil || since < start.Unix() || since > time.Now().Unix() {
		t.Errorf("Deprecation %q", r.Header.Get("Deprecation"))
	}
	until, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", r.Header.Get("Sunset"))
	if err != nil || until.Unix() != since+3600 {
		t.Errorf("Sunset %q", r.Header.Get("Sunset"))
	}
	r = g.do("GET", "/", "X-Api-Key: "+issued.Secret.Reveal()).expect(t, 200)
	if r.Header["Deprecation"] != nil || r.Header["Sunset"] != nil {
		t.Errorf("the new secret: %v", r.Header)
	}
	saw := g.upstream.last(t).Header["X-Key-Id"]
	if len(saw) != 1 || saw[0] != id.String() {
		t.Errorf("key id %v", saw)
	}
}

// A key within the notice period of its expiry has Sunset alone.
func TestSunsetWithinNotice(t *testing.T) {
	g := newGateway(t, "keys {\n expiry_notice 2d 1d\n}", plainGate)
	near, far := time.Now().Add(24*time.Hour).Truncate(time.Second), time.Now().Add(72*time.Hour)
	_, a := g.key("acme", registrar.CreateKeyRequest{Expires: &near})
	_, b := g.key("acme", registrar.CreateKeyRequest{Expires: &far})
	r := g.do("GET", "/", "X-Api-Key: "+a).expect(t, 200)
	if got, want := r.Header.Get("Sunset"), near.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"); got != want || r.Header["Deprecation"] != nil {
		t.Errorf("Sunset %q, want %q; %v", got, want, r.Header)
	}
	if r = g.do("GET", "/", "X-Api-Key: "+b).expect(t, 200); r.Header["Sunset"] != nil {
		t.Errorf("too early: %v", r.Header)
	}
}

// The refusals of a dialect: envelope, codes, details, realm and headers.
func TestRefusalsByDialect(t *testing.T) {
	g := newGateway(t, "dialect mine example {\n realm shop\n reset seconds\n}\n", "keytoll {\n dialect mine\n }\n reverse_proxy {upstream}")
	r := g.do("GET", "/").expect(t, 401)
	if !strings.Contains(r.body, `"MISSING_API_KEY"`) || !strings.Contains(r.body, `"success":false`) || !strings.Contains(r.body, `"header":"Authorization"`) {
		t.Errorf("body %s", r.body)
	}
	if got := r.Header.Get("WWW-Authenticate"); got != `Bearer realm="shop"` {
		t.Errorf("challenge %q", got)
	}
	if r.Header.Get("Content-Length") != strconv.Itoa(len(r.body)) {
		t.Errorf("length %s of %d", r.Header.Get("Content-Length"), len(r.body))
	}
	id, key := g.key("acme", registrar.CreateKeyRequest{Rate: &access.Rate{Requests: 1, Burst: 1, Window: time.Hour}})
	r = g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if n, err := strconv.Atoi(r.Header.Get("X-RateLimit-Reset")); err != nil || n < 1 || n > 3600 {
		t.Errorf("reset %q", r.Header.Get("X-RateLimit-Reset"))
	}
	if _, err := g.registrar().RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	r = g.do("GET", "/", "X-Api-Key: "+key).expect(t, 401)
	if !strings.Contains(r.body, `"INVALID_API_KEY"`) || !strings.Contains(r.body, `"key_id":"`+id.String()+`"`) {
		t.Errorf("body %s", r.body)
	}
	g.load("dialect personalabs", plainGate)
	_, key = g.key("acme", registrar.CreateKeyRequest{Rate: &access.Rate{Requests: 1, Burst: 1, Window: time.Hour}})
	r = g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if r.Header["X-Ratelimit-Reset"] != nil || r.Header.Get("X-RateLimit-Limit") != "1" {
		t.Errorf("headers %v", r.Header)
	}
}

const orders = `openapi: 3.0.3
info: {title: orders, version: '1'}
servers: [{url: 'https://api.example.com/v1'}]
paths:
  /orders: {get: {operationId: listOrders}, post: {operationId: createOrder}}
  /orders/{id}: {get: {operationId: getOrder}}
`

// The operations of an API's own description are its permissions; what is no
// operation is refused.
func TestPermitOpenAPI(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.yaml")
	if err := os.WriteFile(file, []byte(orders), 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, "", "keytoll {\n permit openapi "+file+"\n }\n reverse_proxy {upstream}")
	list, get, all := g.with("listOrders"), g.with("get*"), g.with("*")
	for _, c := range []struct {
		key, method, path string
		status            int
	}{
		{list, "GET", "/v1/orders", 200}, {list, "HEAD", "/v1/orders", 200}, {list, "POST", "/v1/orders", 403}, {list, "GET", "/v1/orders/7", 403},
		{get, "GET", "/V1/Orders/7", 200}, {get, "GET", "/v1/orders", 403},
		{all, "POST", "/v1/orders", 200}, {all, "DELETE", "/v1/orders", 403}, {all, "GET", "/v1/orders/", 403}, {all, "GET", "/orders", 403},
	} {
		if r := g.do(c.method, c.path, "X-Api-Key: "+c.key); r.StatusCode != c.status {
			t.Errorf("%s %s: status %d, want %d", c.method, c.path, r.StatusCode, c.status)
		}
	}
	r := g.do("POST", "/v1/orders", "X-Api-Key: "+list).expect(t, 403)
	if !strings.HasSuffix(r.Header.Get("WWW-Authenticate"), `scope="createOrder"`) {
		t.Errorf("%v", r.Header)
	}
	if _, _, err := g.registrar().CreateKey(t.Context(), registrar.CreateKeyRequest{Tenant: "acme", Permissions: []string{"listOrder"}}); err == nil {
		t.Error("a key has a permission that no operation needs")
	}
	for text, want := range map[string]string{
		"permit openapi " + file + ".none":                                file + ".none",
		"permit openapi " + file + " base /v1\n permit openapi /dev/null": "the description is empty",
	} {
		err := g.tryLoad(g.text("", "keytoll {\n "+text+"\n }\n reverse_proxy {upstream}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	err := g.tryLoad(g.text("permission listOrders\npermission getOrders", "keytoll {\n permit openapi "+file+"\n }\n reverse_proxy {upstream}"))
	if err == nil || !strings.Contains(err.Error(), "POST /v1/orders: permission createOrder is not defined") {
		t.Errorf("error %v", err)
	}
}
