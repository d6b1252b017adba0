package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
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
	for try := 0; ; try++ {
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
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			// As in send: such a request was not read.
			if g.reloaded && try < 5 {
				continue
			}
			g.t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			g.t.Fatal(err)
		}
		return reply{resp, string(b)}
	}
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
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
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

// A8: the gate and the door refuse a key without the right, and tell which.
func TestA8KeyWithoutThePermission(t *testing.T) {
	g := newGateway(t, guardedOptions, guardedSite)
	key := g.with("read")
	for _, c := range []struct{ method, path, scope string }{
		{"POST", "/v1/x", "write"},
		{"GET", "/v2/x", "write"},
		{"POST", keysPath, "keys:manage"},
		{"GET", keysPath, "keys:manage keys:list"},
	} {
		r := g.api(c.method, c.path, key, "").expect(t, 403)
		if got, want := r.Header.Get("WWW-Authenticate"), `Bearer realm="api", error="insufficient_scope", scope="`+c.scope+`"`; got != want {
			t.Errorf("%s: challenge %s, want %s", c.path, got, want)
		}
		if r.code() != "forbidden" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %v", c.path, r.body, r.Header)
		}
	}
	if n := g.upstream.count(); n != 0 {
		t.Errorf("the upstream saw %d requests", n)
	}
	g.api("GET", "/v1/read", key, "").expect(t, 200)
}

// A26, A27: the answer to a creation has the secret, and nothing else of it.
func TestA26A27Create(t *testing.T) {
	g := newGateway(t, "keys {\n prefix psk_\n}\ndialect prosodyai", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	start := time.Now().Unix()
	r := g.api("POST", keysPath, m, `{"name":"n","expires_at":"2099-01-01T00:00:00Z","rate_limit":500}`).expect(t, 201)
	var got struct {
		Key struct {
			ID, Key, Name string
			CreatedAt     time.Time `json:"created_at"`
		} `json:"api_key"`
		Message string
	}
	if err := json.Unmarshal([]byte(r.body), &got); err != nil {
		t.Fatal(err)
	}
	k := got.Key
	if !strings.HasPrefix(k.Key, "psk_") || !strings.HasPrefix(k.ID, "key_") || k.Name != "n" || k.CreatedAt.Unix() < start || !strings.Contains(got.Message, "not be shown again") {
		t.Errorf("created %s", r.body)
	}
	if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", r.Header)
	}
	for name, values := range r.Header {
		if strings.Contains(strings.Join(values, " "), k.Key) {
			t.Errorf("the header %s has the secret", name)
		}
	}
	g.api("GET", "/v1/x", k.Key, "").expect(t, 200)
	if got := g.api("GET", "/v1/x", k.Key, "").Header.Get("X-RateLimit-Limit"); got != "500" {
		t.Errorf("limit %q", got)
	}
	list := g.api("GET", keysPath, m, "").expect(t, 200)
	if strings.Contains(list.body, k.Key) || strings.Contains(g.log(), k.Key) {
		t.Error("the secret is shown again")
	}
	db, err := os.ReadFile(filepath.Join(g.dir, "keytoll.db"))
	if err != nil || strings.Contains(string(db), k.Key) {
		t.Errorf("the secret is in the database, %v", err)
	}
}

// Every field that keytoll's own dialect takes is in the answer, in the list
// and in force.
func TestA26EveryField(t *testing.T) {
	g := newGateway(t, "permission read\npermission write implies read", strings.Replace(apiSite, "base "+keysPath, "base "+keysPath+"\n require write", 1))
	_, m := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"write"}})
	r := g.api("POST", keysPath, m, `{"name":"n","description":"d","permissions":["read"],"rate":{"requests":60,"window":"1m","burst":5},
		"expires_in_days":2,"addresses":["127.0.0.0/8","::1"],"metadata":{"team":"a"}}`).expect(t, 201)
	k := r.object(t)
	secret := r.text(t, "key")
	if r.Header.Get("Location") != keysPath+"/"+r.text(t, "id") {
		t.Errorf("Location %q", r.Header.Get("Location"))
	}
	delete(k, "key")
	for name, want := range map[string]string{
		"name": `"n"`, "description": `"d"`, "permissions": `["read"]`, "rate": `{"burst":5,"requests":60,"window":"1m"}`,
		"addresses": `["127.0.0.0/8","::1/128"]`, "metadata": `{"team":"a"}`, "status": `"active"`, "tenant": `"acme"`,
		"last_used_at": "null", "rotated_at": "null", "revoked_at": "null", "previous_expires_at": "null",
	} {
		if got, _ := json.Marshal(k[name]); string(got) != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := r.instant(t, "expires_at") - r.instant(t, "created_at"); got != 2*24*3600 {
		t.Errorf("lives for %d seconds", got)
	}
	one := g.api("GET", keysPath+"/"+r.text(t, "id"), m, "").expect(t, 200)
	if got := one.object(t); !maps.EqualFunc(got, k, func(a, b any) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
		t.Errorf("got %v, created %v", got, k)
	}
	if got := g.api("GET", "/v1/x", secret, "").expect(t, 200).Header.Get("X-RateLimit-Limit"); got != "5" && got != "60" {
		t.Errorf("limit %q", got)
	}
	elsewhere := g.api("POST", keysPath, m, `{"addresses":["192.0.2.1"]}`).expect(t, 201).text(t, "key")
	g.api("GET", "/v1/x", elsewhere, "").expect(t, 403)
}

// A28: what a list shows.
func TestA28List(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{Name: "manager"})
	_, other := g.key("other", registrar.CreateKeyRequest{Name: "foreign"})
	secret := g.api("POST", keysPath, m, `{"name":"Production App"}`).expect(t, 201).text(t, "key")
	r := g.api("GET", keysPath, m, "").expect(t, 200)
	list := r.keys(t)
	if len(list) != 2 || r.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %v", r.body, r.Header)
	}
	for _, k := range list {
		for _, name := range []string{"id", "name", "prefix", "created_at", "last_used_at", "expires_at", "rate", "permissions", "status"} {
			if _, ok := k[name]; !ok {
				t.Errorf("no %s in %v", name, k)
			}
		}
		if k["expires_at"] != nil || k["key"] != nil || k["digest"] != nil || k["hash"] != nil {
			t.Errorf("%v", k)
		}
		if k["name"] == "Production App" && k["prefix"] != secret[:len("kt_")+6] {
			t.Errorf("prefix %v", k["prefix"])
		}
	}
	for _, s := range []string{secret, m, other, "foreign"} {
		if strings.Contains(r.body, s) {
			t.Errorf("the list shows %s", s)
		}
	}
	for query, want := range map[string]int{"?name=PRODUCTION": 1, "?name=app&status=active": 1, "?status=revoked": 0, "?name=foreign": 0} {
		if got := g.api("GET", keysPath+query, m, "").expect(t, 200).keys(t); len(got) != want {
			t.Errorf("%s: %v", query, got)
		}
	}
	for query, field := range map[string]string{"?stauts=active": "stauts", "?status=good": "status", "?limit=0": "limit", "?limit=x": "limit", "?cursor=x": "cursor", "?tenant=other": "tenant", "?name=a&name=b": "name"} {
		if r := g.api("GET", keysPath+query, m, "").expect(t, 400); r.field() != field {
			t.Errorf("%s: %s", query, r.body)
		}
	}
	head := g.api("HEAD", keysPath, m, "").expect(t, 200)
	if head.body != "" {
		t.Errorf("HEAD has the body %q", head.body)
	}
}

// A29: a walk by pages comes by every key once, in the order of another walk,
// while keys are made.
func TestA29Pages(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	want := []string{g.api("GET", "/v1/me", m, "").expect(t, 200).text(t, "id")}
	for i := range 9 {
		id, _ := g.key("acme", registrar.CreateKeyRequest{})
		if i%3 != 0 {
			want = append(want, id.String())
		} else if _, err := g.registrar().RevokeKey(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		g.key("other", registrar.CreateKeyRequest{})
	}
	walk := func() (ids []string) {
		path := keysPath + "?status=active&limit=2"
		for pages := 0; path != ""; pages++ {
			r := g.api("GET", path, m, "").expect(t, 200)
			list := r.keys(t)
			if len(list) > 2 || pages > 20 {
				t.Fatalf("page %d: %s", pages, r.body)
			}
			for _, k := range list {
				ids = append(ids, k["id"].(string))
			}
			link := r.Header.Get("Link")
			if path = ""; link != "" {
				next, ok := strings.CutSuffix(link, `>; rel="next"`)
				if !ok {
					t.Fatalf("Link %q", link)
				}
				path = next[1:]
			}
		}
		return ids
	}
	first := walk()
	if second := walk(); !slices.Equal(first, second) {
		t.Errorf("%v, then %v", first, second)
	}
	slices.Sort(first)
	slices.Sort(want)
	if !slices.Equal(first, want) {
		t.Errorf("walked %v, want %v", first, want)
	}
}

// A30: the last use shows at once, is written down, and is there after a stop.
func TestA30LastUse(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	created := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	path, start := keysPath+"/"+created.text(t, "id"), time.Now().Unix()
	if r := g.api("GET", path, m, ""); r.object(t)["last_used_at"] != nil {
		t.Errorf("used before its use: %s", r.body)
	}
	g.api("GET", "/v1/x", created.text(t, "key"), "", "User-Agent: demo/1").expect(t, 200)
	r := g.api("GET", path, m, "").expect(t, 200)
	if at := r.instant(t, "last_used_at"); at < start || at > time.Now().Unix() {
		t.Errorf("last use %d, want %d", at, start)
	}
	if r.text(t, "last_used_address") != "127.0.0.1" || r.text(t, "last_used_agent") != "demo/1" {
		t.Errorf("%s", r.body)
	}
	g.restart()
	if again := g.api("GET", path, m, "").expect(t, 200); again.body != r.body {
		t.Errorf("after a restart %s, before %s", again.body, r.body)
	}
	list := g.api("GET", keysPath, m, "").expect(t, 200).keys(t)
	if i := slices.IndexFunc(list, func(k map[string]any) bool { return k["id"] == created.text(t, "id") }); list[i]["last_used_at"] != r.text(t, "last_used_at") {
		t.Errorf("list: %v", list[i])
	}
}

// A31: a revoked key is refused at its next request; revoking again is the same
// success.
func TestA31Revoke(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	created := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	path := keysPath + "/" + created.text(t, "id")
	g.api("GET", "/", created.text(t, "key"), "").expect(t, 200)
	first := g.api("DELETE", path, m, "").expect(t, 204)
	if first.body != "" || first.Header.Get("Content-Type") != "" {
		t.Errorf("%s", first.whole())
	}
	refused := g.api("GET", "/", created.text(t, "key"), "").expect(t, 401)
	if unknown := g.api("GET", "/", "kt_unknown", "").expect(t, 401); unknown.body != refused.body {
		t.Errorf("revoked %s, unknown %s", refused.body, unknown.body)
	}
	if again := g.api("DELETE", path, m, ""); again.whole() != first.whole() {
		t.Errorf("%s, then %s", first.whole(), again.whole())
	}
	if r := g.api("PATCH", path, m, `{"disabled":false}`).expect(t, 409); r.code() != "conflict" {
		t.Errorf("%s", r.body)
	}
	if r := g.api("GET", path, m, "").expect(t, 200); r.text(t, "status") != "revoked" || r.object(t)["revoked_at"] == nil {
		t.Errorf("%s", r.body)
	}
	me := g.api("GET", "/v1/me", m, "").text(t, "id")
	g.api("DELETE", keysPath+"/"+me, m, "").expect(t, 204)
	g.api("GET", "/v1/me", m, "").expect(t, 401)
}

// A patch changes what it names, from the next request on.
func TestPatchIsInForceAtOnce(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	created := g.api("POST", keysPath, m, `{"name":"a","metadata":{"x":"1"}}`).expect(t, 201)
	path, key := keysPath+"/"+created.text(t, "id"), created.text(t, "key")
	g.api("PATCH", path, m, `{"disabled":true}`).expect(t, 200)
	g.api("GET", "/", key, "").expect(t, 401)
	g.api("PATCH", path, m, `{"disabled":false,"rate":{"requests":7,"window":"1h"}}`).expect(t, 200)
	if r := g.api("GET", "/", key, "").expect(t, 200); r.Header.Get("X-RateLimit-Limit") != "7" {
		t.Errorf("%v", r.Header)
	}
	g.api("PATCH", path, m, `{"rate":null,"addresses":["192.0.2.0/24"]}`).expect(t, 200)
	g.api("GET", "/", key, "").expect(t, 403)
	r := g.api("PATCH", path, m, `{"addresses":[],"name":"b","metadata":{},"expires_at":"2099-01-01T00:00:00Z"}`).expect(t, 200)
	if r.text(t, "name") != "b" || r.text(t, "expires_at") != "2099-01-01T00:00:00Z" || r.object(t)["rate"] != nil || len(r.object(t)["metadata"].(map[string]any)) != 0 {
		t.Errorf("%s", r.body)
	}
	g.api("GET", "/", key, "").expect(t, 200)
	if r := g.api("PATCH", path, m, `{"expires_at":null}`).expect(t, 200); r.object(t)["expires_at"] != nil {
		t.Errorf("%s", r.body)
	}
	g.api("PATCH", path, m, `{}`).expect(t, 400)
}

// A34: each form of an expiry is the same instant; answers are UTC.
func TestA34Expiries(t *testing.T) {
	for dialect, c := range map[string]struct{ body, form string }{
		"snake": {"fields snake", `{"expires_in_days":90} {"expires_in_seconds":3600} {"expires_at":"2099-01-01T00:00:00+02:00"}`},
		"camel": {"fields camel", `{"expiresInDays":90} {"expiresInSeconds":3600} {"expiresAt":"2099-01-01T00:00:00+02:00"}`},
		"named": {"name expires_in_seconds expires_in", `{"expires_in_days":90} {"expires_in":3600} {"expires_at":"2099-01-01T00:00:00+02:00"}`},
	} {
		t.Run(dialect, func(t *testing.T) {
			g := newGateway(t, "dialect ours {\n "+c.body+"\n}\ndialect ours", apiSite)
			_, m := g.key("acme", registrar.CreateKeyRequest{})
			out := "expires_at"
			if dialect == "camel" {
				out = "expiresAt"
			}
			for i, body := range strings.Fields(c.form) {
				start := time.Now().Unix()
				r := g.api("POST", keysPath, m, body).expect(t, 201)
				got := r.instant(t, out)
				from := []int64{start + 90*24*3600, start + 3600, 4070901600}[i] // the last is 2098-12-31T22:00:00Z
				to := from + time.Now().Unix() - start
				if got < from || got > to {
					t.Errorf("%s: %d, want %d to %d", body, got, from, to)
				}
			}
		})
	}
}

// A35: what is wrong is named, and nothing is made.
func TestA35BadInput(t *testing.T) {
	g := newGateway(t, "permission read", strings.Replace(apiSite, "base "+keysPath, "base "+keysPath+"\n require read", 1))
	id, m := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"read"}})
	before := g.stored(id)
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	for _, c := range []struct {
		body   string
		status int
		field  string
	}{
		{`{"expires_at":"yesterday"}`, 400, "expires_at"},
		{`{"expires_at":"2001-01-01T00:00:00Z"}`, 400, "expires_at"},
		{`{"expires_at":12}`, 400, "expires_at"},
		{`{"expires_in_days":0}`, 400, "expires_in_days"},
		{`{"expires_in_days":1.5}`, 400, "expires_in_days"},
		{`{"expires_in_seconds":"60"}`, 400, "expires_in_seconds"},
		{`{"expires_in_days":1,"expires_in_seconds":5}`, 400, "expires_in_seconds"},
		{`{"rate":"many"}`, 400, "rate"},
		{`{"rate":{"requests":-1,"window":"1m"}}`, 400, "rate"},
		{`{"rate":{"requests":1}}`, 400, "rate"},
		{`{"rate":{"requests":1,"window":"1m","brust":2}}`, 400, "rate.brust"},
		{`{"expiresat":"2099-01-01T00:00:00Z"}`, 400, "expiresat"},
		{`{"Name":"x"}`, 400, "Name"},
		{`{"name":"a","name":"b"}`, 400, "name"},
		{`{"metadata":{"a":"1","a":"2"}}`, 400, "metadata.a"},
		{`{"name":` + fmt.Sprintf("%q", strings.Repeat("n", 10_000)) + `}`, 400, "name"},
		{`{"name":7}`, 400, "name"},
		{`{"name":null}`, 400, "name"},
		{`{"name":"a\u0000b"}`, 400, "name"},
		{`{"permissions":["raed"]}`, 400, "permissions"},
		{`{"permissions":"read"}`, 400, "permissions"},
		{`{"addresses":["10.0.0.0/33"]}`, 400, "addresses"},
		{`{"addresses":["example.com"]}`, 400, "addresses"},
		{`{"metadata":{"a":1}}`, 400, "metadata"},
		{`{"metadata":[]}`, 400, "metadata"},
		{`{"metadata":` + deep + `}`, 400, ""},
		{`{"name":"a"`, 400, ""},
		{`{"name":"a"}{}`, 400, ""},
		{`[]`, 400, ""},
		{`null`, 400, ""},
		{"{\"name\":\"\xff\"}", 400, ""},
		{`{"name":"` + strings.Repeat("x", 64<<10) + `"}`, 413, ""},
	} {
		for _, how := range [][2]string{{"POST", keysPath}, {"PATCH", keysPath + "/" + id.String()}} {
			r := g.api(how[0], how[1], m, c.body)
			if r.StatusCode != c.status || c.field != "" && r.field() != c.field {
				t.Errorf("%s %.60s: %d %.200s, want %d %s", how[0], c.body, r.StatusCode, r.body, c.status, c.field)
			}
		}
	}
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", ""} {
		g.api("POST", keysPath, m, `{"name":"a"}`, "Content-Type: "+kind).expect(t, 415)
	}
	for _, query := range []string{"?name=a", "?limit=1"} {
		g.api("POST", keysPath+query, m, `{}`).expect(t, 400)
	}
	if n, after := g.count("acme"), g.stored(id); n != 1 || after != before {
		t.Errorf("%d keys, %s is %s", n, before, after)
	}
}

// A37: a repeated creation is the answer of the first, whoever was faster and
// whatever was reloaded.
func TestA37Idempotency(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	_, second := g.key("acme", registrar.CreateKeyRequest{})
	once := "Idempotency-Key: u1"
	first := g.api("POST", keysPath, m, `{"name":"n"}`, once).expect(t, 201)
	same := func(when string) {
		t.Helper()
		r := g.api("POST", keysPath, m, `{"name":"n"}`, once).expect(t, 201)
		if r.body != first.body || r.Header.Get("Location") != first.Header.Get("Location") || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s, first %s", when, r.body, first.body)
		}
	}
	same("again")
	for _, body := range []string{`{"name":"m"}`, `{}`, `{"name": "n"}`} {
		if r := g.api("POST", keysPath, m, body, once).expect(t, 422); r.code() != "idempotency_mismatch" || strings.Contains(r.body, first.text(t, "key")) {
			t.Errorf("%s", r.body)
		}
	}
	g.load("plan a", apiSite)
	same("after a reload")
	g.restart()
	same("after a restart")
	if n := g.count("acme"); n != 3 {
		t.Errorf("%d keys, want 3", n)
	}
	other := g.api("POST", keysPath, second, `{"name":"n"}`, once).expect(t, 201)
	if other.text(t, "id") == first.text(t, "id") {
		t.Error("another caller got the answer")
	}
	for _, bad := range []string{"", "a b", strings.Repeat("x", 256), "ä"} {
		r := g.api("POST", keysPath, m, `{}`, "Idempotency-Key: "+bad)
		if r.StatusCode != 400 || r.field() != "Idempotency-Key" {
			t.Errorf("%q: %d %s", bad, r.StatusCode, r.body)
		}
	}
	refused := g.api("POST", keysPath, m, `{"expires_in_days":0}`, "Idempotency-Key: u2").expect(t, 400)
	if refused.code() != "invalid_request" {
		t.Errorf("%s", refused.body)
	}
	g.api("POST", keysPath, m, `{}`, "Idempotency-Key: u2").expect(t, 201) // a refusal is not kept
	db, err := os.ReadFile(filepath.Join(g.dir, "keytoll.db"))
	if err != nil || strings.Contains(string(db), first.text(t, "key")) || strings.Contains(g.log(), first.text(t, "key")) {
		t.Errorf("the kept answer is not sealed, %v", err)
	}
}

// A37: ten at once make one key.
func TestA37IdempotencyAtOnce(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	for round := range 5 {
		bodies := make([]string, 10)
		each(len(bodies), func(i int) {
			r := g.api("POST", keysPath, m, `{"name":"n"}`, fmt.Sprintf("Idempotency-Key: round-%d", round))
			if bodies[i] = r.body; r.StatusCode != 201 {
				t.Errorf("status %d: %s", r.StatusCode, r.body)
			}
		})
		if one := slices.Compact(bodies); len(one) != 1 {
			t.Errorf("%d answers: %v", len(one), one)
		}
		if n := g.count("acme"); n != 2+round {
			t.Errorf("%d keys after round %d", n, round)
		}
	}
}

// A39: every method and route of the door needs the right for its action.
func TestA39EveryMethodOfTheDoor(t *testing.T) {
	g := newGateway(t, guardedOptions, guardedSite)
	id, plain := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"write"}})
	path := keysPath + "/" + id.String()
	list := g.with("keys:list")
	for _, c := range [][3]string{
		{"POST", keysPath, `{}`}, {"GET", keysPath, ""}, {"HEAD", keysPath, ""}, {"GET", path, ""}, {"PATCH", path, `{"name":"x"}`},
		{"DELETE", path, ""}, {"POST", path + "/rotate", ""}, {"POST", keysPath, `{"bad":`}, {"GET", keysPath + "/unknown", ""},
	} {
		g.api(c[0], c[1], plain, c[2]).expect(t, 403)
		want := 403
		if c[1] == keysPath && c[0] != "POST" {
			want = 200
		}
		g.api(c[0], c[1], list, c[2]).expect(t, want)
	}
	k, err := g.registrar().Key(t.Context(), id)
	if n := g.count("acme"); n != 2 || err != nil || k.Status != access.StatusActive || k.Name != "" {
		t.Errorf("%d keys, %+v, %v", n, k, err)
	}
	manager := g.with("keys:manage")
	g.api("GET", path, manager, "").expect(t, 200)
	g.api("DELETE", path, manager, "").expect(t, 204)
	g.api("GET", "/v1/me", list, "").expect(t, 200) // asks for no right
}

// A40: the thousand and first key of a tenant whose plan has a thousand.
func TestA40NumberOfKeys(t *testing.T) {
	g := newGateway(t, "plan small {\n max_keys 1000\n}\ndefault_plan small", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	moved := make([]registrar.ImportKey, 998)
	for i := range moved {
		sum := [32]byte{byte(i), byte(i >> 8), 1}
		moved[i] = registrar.ImportKey{Tenant: "acme", SHA256: sum[:]}
	}
	if _, err := g.registrar().Import(t.Context(), moved, registrar.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	last := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	r := g.api("POST", keysPath, m, `{}`).expect(t, 409)
	if r.code() != "conflict" || !strings.Contains(r.body, "number of keys") {
		t.Errorf("%s", r.body)
	}
	if n := g.count("acme"); n != 1000 {
		t.Errorf("%d keys", n)
	}
	g.api("DELETE", keysPath+"/"+last.text(t, "id"), m, "").expect(t, 204)
	g.api("POST", keysPath, m, `{}`).expect(t, 201)
	g.api("POST", keysPath, m, `{}`).expect(t, 409)
}

// A40: of many at once as many are made as there is room for.
func TestA40NumberOfKeysAtOnce(t *testing.T) {
	g := newGateway(t, "plan small {\n max_keys 5\n}\ndefault_plan small", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	var made atomic.Int32
	each(12, func(int) {
		switch r := g.api("POST", keysPath, m, `{}`); r.StatusCode {
		case 201:
			made.Add(1)
		case 409:
		default:
			t.Errorf("%d %s", r.StatusCode, r.body)
		}
	})
	if n := g.count("acme"); made.Load() != 4 || n != 5 {
		t.Errorf("made %d, there are %d", made.Load(), n)
	}
}

// operator asks the operator's door.
func (g *gateway) operator(method, path, body string) reply {
	g.t.Helper()
	admin := new(AdminAPI)
	if err := admin.Provision(caddy.ActiveContext()); err != nil {
		g.t.Fatal(err)
	}
	req := httptest.NewRequest(method, "/keytoll/v1"+path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Keytoll-Actor", "ada")
	w := httptest.NewRecorder()
	if err := admin.Routes()[0].Handler.ServeHTTP(w, req); err != nil {
		g.t.Fatal(err)
	}
	return reply{w.Result(), w.Body.String()}
}

// A41: one entry for each change, of who made it, when, and from where.
func TestA41Audit(t *testing.T) {
	g := newGateway(t, "", apiSite)
	start := time.Now().Unix()
	g.operator("POST", "/tenants", `{"id":"acme"}`).expect(t, 201)
	manager := g.operator("POST", "/tenants/acme/keys", `{"name":"manager"}`).expect(t, 201)
	m, by := manager.text(t, "key"), manager.text(t, "id")
	created := g.api("POST", keysPath, m, `{"name":"n"}`, "Idempotency-Key: once").expect(t, 201)
	g.api("POST", keysPath, m, `{"name":"n"}`, "Idempotency-Key: once").expect(t, 201)
	path := keysPath + "/" + created.text(t, "id")
	g.api("PATCH", path, m, `{"rate":{"requests":5,"window":"1m"}}`).expect(t, 200)
	g.api("PATCH", path, m, `{"rate":{"requests":5,"window":"1m"}}`).expect(t, 200) // changes nothing
	g.api("PATCH", path, m, `{"disabled":true}`).expect(t, 200)
	g.api("PATCH", path, m, `{"disabled":false}`).expect(t, 200)
	rotated := g.api("POST", path+"/rotate", m, "").expect(t, 200)
	g.api("GET", path, m, "").expect(t, 200)
	g.api("POST", keysPath, m, `{"bad":1}`).expect(t, 400)
	g.api("DELETE", path, m, "").expect(t, 204)
	g.api("DELETE", path, m, "").expect(t, 204)

	r := g.operator("GET", "/audit?tenant=acme", "").expect(t, 200)
	var list struct{ Entries []access.AuditEntry }
	if err := json.Unmarshal([]byte(r.body), &list); err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, e := range list.Entries {
		actions = append(actions, e.Action)
		if at := e.At.Unix(); at < start || at > time.Now().Unix() {
			t.Errorf("%s at %s", e.Action, e.At)
		}
		if e.Seq <= 2 {
			if e.Actor.Kind != access.ActorOperator || e.Actor.Name != "ada" || e.Actor.Address != "192.0.2.1" {
				t.Errorf("%s by %+v", e.Action, e.Actor)
			}
			continue
		}
		if want := (access.Actor{Kind: access.ActorKey, Key: by, Address: "127.0.0.1"}); e.Actor != want || e.Object != created.text(t, "id") || e.Tenant != "acme" {
			t.Errorf("%s of %s by %+v, want by %+v", e.Action, e.Object, e.Actor, want)
		}
		if e.After == nil || e.Before == nil && e.Action != "key.created" {
			t.Errorf("%s: from %s to %s", e.Action, e.Before, e.After)
		}
	}
	want := []string{"tenant.created", "key.created", "key.created", "key.updated", "key.disabled", "key.enabled", "key.rotated", "key.revoked"}
	if !slices.Equal(actions, want) {
		t.Errorf("%v, want %v", actions, want)
	}
	for _, secret := range []string{m, created.text(t, "key"), rotated.text(t, "key")} {
		if strings.Contains(r.body, secret) || strings.Contains(r.body, secret[len(secret)-12:]) {
			t.Error("the trail holds a secret")
		}
	}
	for query, n := range map[string]int{"action=key.rotated": 1, "actor=" + by: 6, "object=" + created.text(t, "id"): 6, "actor=ada": 2, "tenant=other": 0} {
		if got := strings.Count(g.operator("GET", "/audit?"+query, "").expect(t, 200).body, `"seq"`); got != n {
			t.Errorf("%s: %d entries, want %d", query, got, n)
		}
	}
	if r := g.operator("GET", "/audit/verify", "").expect(t, 200); !strings.Contains(r.body, `"entries":8`) {
		t.Errorf("%s", r.body)
	}
	g.restart()
	if again := g.operator("GET", "/audit?tenant=acme", "").expect(t, 200); again.body != r.body {
		t.Errorf("after a restart %s", again.body)
	}
}

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
