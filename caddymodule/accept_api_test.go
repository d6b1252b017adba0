package caddymodule

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

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
