package caddymodule

import (
	"encoding/json"
	"fmt"
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
