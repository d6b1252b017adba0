package caddymodule

import (
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// each runs f(0) to f(n-1) at once.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// whole is all of an answer but its time.
func (r reply) whole() string {
	h := r.Header.Clone()
	h.Del("Date")
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(h)) {
		lines = append(lines, name+": "+strings.Join(h[name], ", "))
	}
	return fmt.Sprintf("%d\n%s\n\n%s", r.StatusCode, strings.Join(lines, "\n"), r.body)
}

// A key of another tenant is answered for like one that does not exist, and
// like what is no id at all, by every route and method.
func TestForeignIDIsAnUnknownID(t *testing.T) {
	for name, options := range map[string]string{
		"own": "", "403": "dialect ours {\n foreign 403\n}\ndialect ours", "prosodyai": "dialect prosodyai", "audiopod": "dialect audiopod",
		"example": "dialect example", "personalabs": "dialect personalabs", "prosopo": "dialect prosopo",
	} {
		t.Run(name, func(t *testing.T) { foreignIDs(t, options, name == "403" || name == "prosodyai") })
	}
}

func foreignIDs(t *testing.T, options string, forbidden bool) {
	g := newGateway(t, options, apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	foreign, theirs := g.key("other", registrar.CreateKeyRequest{Name: "theirs"})
	revoked, _ := g.key("other", registrar.CreateKeyRequest{})
	if _, err := g.registrar().RevokeKey(t.Context(), revoked); err != nil {
		t.Fatal(err)
	}
	deleted, _ := g.key("gone", registrar.CreateKeyRequest{})
	if err := g.registrar().DeleteTenant(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	before := g.stored(foreign)
	unknown, err := access.ParseKeyID("key_0123456789ABCDEF")
	if err != nil {
		t.Fatal(err)
	}
	want := 404
	if forbidden {
		want = 403
	}
	for _, c := range []struct{ method, tail, body, once string }{
		{"GET", "", "", ""}, {"HEAD", "", "", ""}, {"DELETE", "", "", ""},
		{"PATCH", "", `{"name":"mine"}`, ""}, {"PATCH", "", `{"disabled":true}`, ""}, {"PATCH", "", `{}`, ""}, {"PATCH", "", `{"nope":1}`, ""}, {"PATCH", "", `{`, ""},
		{"PATCH", "", `{"tenant":"acme"}`, ""},
		{"POST", "/rotate", "", ""}, {"POST", "/rotate", `{"grace_seconds":60}`, ""}, {"POST", "/rotate", `{}`, "once"}, {"POST", "/rotate", `{"nope":1}`, ""},
		{"GET", "/rotate", "", ""}, {"PUT", "", `{}`, ""}, {"POST", "", `{}`, ""}, {"GET", "?x=1", "", ""}, {"GET", "/usage", "", ""},
	} {
		var headers []string
		if c.once != "" {
			headers = append(headers, "Idempotency-Key: "+c.once)
		}
		first := g.api(c.method, keysPath+"/"+unknown.String()+c.tail, m, c.body, headers...)
		for _, id := range []string{foreign.String(), revoked.String(), deleted.String(), "key_x", "42", "..%2e", strings.Repeat("k", 500)} {
			if got := g.api(c.method, keysPath+"/"+id+c.tail, m, c.body, headers...); got.whole() != first.whole() {
				t.Errorf("%s %.40s%s %s:\n%s\nunknown:\n%s", c.method, id, c.tail, c.body, got.whole(), first.whole())
			}
		}
		if c.tail == "" && (c.method == "GET" || c.method == "DELETE") && first.StatusCode != want {
			t.Errorf("%s: status %d, want %d", c.method, first.StatusCode, want)
		}
		if first.StatusCode < 400 || first.StatusCode >= 500 {
			t.Errorf("%s%s: status %d", c.method, c.tail, first.StatusCode)
		}
		if strings.Contains(first.body, unknown.String()) {
			t.Errorf("%s%s: %s", c.method, c.tail, first.body)
		}
	}
	if after := g.stored(foreign); after != before {
		t.Errorf("%s is %s", before, after)
	}
	g.api("GET", "/", theirs, "").expect(t, 200)
	if r := g.api("GET", keysPath+"?cursor="+foreign.String(), m, ""); strings.Contains(r.body, foreign.String()) || strings.Contains(r.body, "theirs") {
		t.Errorf("%s", r.body)
	}
}

// Two doors under one configuration do not see each other's keys, and a header
// of the client's names no tenant.
func TestTenantIsTheKeysOwn(t *testing.T) {
	g := newGateway(t, "tenant other", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	r := g.api("POST", keysPath, m, `{}`, "X-Tenant-Id: other", "X-Key-Id: key_x").expect(t, 201)
	if r.text(t, "tenant") != "acme" || g.count("other") != 0 {
		t.Errorf("%s", r.body)
	}
	r = g.api("GET", "/v1/me", m, "", "X-Tenant-Id: other").expect(t, 200)
	if r.text(t, "tenant") != "acme" {
		t.Errorf("%s", r.body)
	}
}

// Fields that are not the tenant's to set are refused by name, at creation and
// at change, or left out where the dialect ignores what it does not know.
func TestReadOnlyFields(t *testing.T) {
	fields := map[string]string{
		"tenant": `"other"`, "id": `"key_1"`, "created_at": `"2020-01-01T00:00:00Z"`, "plan": `"pro"`, "key": `"kt_mine"`, "prefix": `"x"`,
		"status": `"active"`, "digest": `"00"`, "last_used_at": `null`, "rotated_at": `null`, "revoked_at": `null`, "previous_expires_at": `"2099-01-01T00:00:00Z"`,
		"last_used_address": `"127.0.0.1"`, "limits": `[]`, "last_refusal": `null`, "idempotency_key": `"a"`, "credits": `5`,
	}
	g := newGateway(t, "plan pro\nplan free\ntenant other\ntenant acme {\n plan free\n}", apiSite)
	id, m := g.key("acme", registrar.CreateKeyRequest{})
	before, start := g.stored(id), time.Now().Unix()
	for name, value := range fields {
		for _, how := range [][2]string{{"POST", keysPath}, {"PATCH", keysPath + "/" + id.String()}, {"POST", keysPath + "/" + id.String() + "/rotate"}} {
			r := g.api(how[0], how[1], m, `{"`+name+`":`+value+`}`)
			if r.StatusCode != 400 || r.field() != name {
				t.Errorf("%s %s: %d %s", how[0], name, r.StatusCode, r.body)
			}
		}
	}
	g.api("PATCH", keysPath+"/"+id.String(), m, `{"environment":"live"}`).expect(t, 400)
	g.api("POST", keysPath, m, `{"disabled":true}`).expect(t, 400)
	g.load("plan pro\nplan free\ndialect loose {\n unknown ignore\n}\ndialect loose", apiSite)
	for name, value := range fields {
		r := g.api("POST", keysPath, m, `{"`+name+`":`+value+`}`).expect(t, 201)
		if r.text(t, "tenant") != "acme" || r.text(t, "plan") != "free" || r.text(t, "id") == "key_1" || r.instant(t, "created_at") < start {
			t.Errorf("%s: %s", name, r.body)
		}
		g.api("PATCH", keysPath+"/"+id.String(), m, `{"description":"","`+name+`":`+value+`}`).expect(t, 200)
	}
	if after := g.stored(id); after != before || g.count("other") != 0 {
		t.Errorf("%s became %s", before, after)
	}
}

// A36: nobody gives more than he has, at creation, at change and by rotation.
func TestA36NoMoreThanTheCreator(t *testing.T) {
	options := "permission read\npermission write implies read\npermission rules:read\npermission rules:write\npermission keys:manage\npermission admin"
	g := newGateway(t, options, strings.Replace(apiSite, "base "+keysPath, "base "+keysPath+"\n require keys:manage", 1))
	end := time.Now().Add(24 * time.Hour).Truncate(time.Second)
	id, m := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"write", "rules:*", "keys:manage"}, Expires: &end,
		Rate: &access.Rate{Requests: 600, Burst: 300, Window: time.Minute}, Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	weak := g.api("POST", keysPath, m, `{"name":"weak"}`).expect(t, 201)
	if weak.instant(t, "expires_at") != end.Unix() || fmt.Sprint(weak.object(t)["permissions"]) != "[]" || fmt.Sprint(weak.object(t)["addresses"]) != "[127.0.0.0/8]" ||
		fmt.Sprint(weak.object(t)["rate"]) != "map[burst:300 requests:600 window:1m]" {
		t.Errorf("what is not asked for: %s", weak.body)
	}
	n := g.count("acme")
	late := end.Add(time.Second).UTC().Format(time.RFC3339)
	for _, c := range []struct{ body, field string }{
		{`{"permissions":["admin"]}`, "permissions"}, {`{"permissions":["read","admin"]}`, "permissions"},
		{`{"permissions":["*"]}`, "permissions"}, {`{"permissions":["keys:manage","rules:read","a*"]}`, "permissions"},
		{`{"expires_at":"` + late + `"}`, "expires_at"}, {`{"expires_in_days":2}`, "expires_in_days"},
		{`{"rate":{"requests":601,"window":"1m"}}`, "rate"}, {`{"rate":{"requests":100,"window":"1s","burst":1}}`, "rate"},
		{`{"rate":{"requests":600,"window":"1m","burst":301}}`, "rate"},
		{`{"addresses":["192.0.2.1"]}`, "addresses"}, {`{"addresses":["127.0.0.0/7"]}`, "addresses"}, {`{"addresses":["127.0.0.1","::/0"]}`, "addresses"},
	} {
		for _, how := range [][2]string{{"POST", keysPath}, {"PATCH", keysPath + "/" + weak.text(t, "id")}, {"PATCH", keysPath + "/" + id.String()}} {
			r := g.api(how[0], how[1], m, c.body)
			if r.StatusCode != 403 || r.field() != c.field || r.code() != "forbidden" {
				t.Errorf("%s %s: %d %s, want 403 %s", how[0], c.body, r.StatusCode, r.body, c.field)
			}
		}
	}
	for _, c := range []string{`{"addresses":[]}`, `{"rate":null}`, `{"expires_at":null}`} {
		g.api("PATCH", keysPath+"/"+weak.text(t, "id"), m, c).expect(t, 403)
	}
	strong, _ := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"admin"}})
	if r := g.api("POST", keysPath+"/"+strong.String()+"/rotate", m, "").expect(t, 403); strings.Contains(r.body, `"key"`) {
		t.Errorf("%s", r.body)
	}
	never := g.api("POST", keysPath, m, `{"expires_at":null}`)
	if never.StatusCode == 201 && never.object(t)["expires_at"] == nil {
		t.Errorf("a key that outlives its creator: %s", never.body)
	}
	if got := g.count("acme"); got > n+2 { // the strong one, and the one that has the creator's expiry
		t.Errorf("%d keys, want at most %d", got, n+2)
	}
	for _, body := range []string{
		`{"permissions":["read"]}`, `{"permissions":["write","rules:read"]}`, `{"permissions":["rules:*"]}`, `{"expires_in_seconds":60}`,
		`{"rate":{"requests":10,"window":"1s","burst":10}}`, `{"addresses":["127.0.0.1"]}`,
	} {
		g.api("POST", keysPath, m, body).expect(t, 201)
	}
}

// Where a product's document knows no permissions of keys, a key has those of
// its creator.
func TestKeysLikeTheirCreator(t *testing.T) {
	options := guardedOptions + "dialect ours {\n create {\n input name\n }\n}\ndialect ours"
	g := newGateway(t, options, guardedSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"keys:manage", "read"}})
	made := g.api("POST", keysPath, m, `{"name":"n"}`).expect(t, 201)
	if got := fmt.Sprint(made.object(t)["permissions"]); got != "[keys:manage read]" {
		t.Errorf("permissions %s", got)
	}
	g.api("GET", keysPath, made.text(t, "key"), "").expect(t, 200)
	g.api("POST", "/v1/x", made.text(t, "key"), "").expect(t, 403)
	g.api("POST", keysPath, m, `{"permissions":["write"]}`).expect(t, 400)
}

// What is refused to the creator by its plan or tenant, is refused to the keys
// that it makes.
func TestA36NoMoreThanPlanAndTenant(t *testing.T) {
	options := "permission read\npermission write implies read\npermission keys:manage\nplan free {\n permissions read keys:manage\n rate 100/1m\n}\ndefault_plan free\n"
	site := strings.Replace(apiSite, "base "+keysPath, "base "+keysPath+"\n require keys:manage", 1)
	g := newGateway(t, options+"plan big", site)
	big := "big"
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	if _, err := g.registrar().UpdateTenant(t.Context(), "acme", registrar.TenantUpdate{Plan: &big}); err != nil {
		t.Fatal(err)
	}
	_, m = g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"*"}})
	g.api("POST", keysPath, m, `{"permissions":["write"],"rate":{"requests":1000,"window":"1m"}}`).expect(t, 201)
	free := "free"
	if _, err := g.registrar().UpdateTenant(t.Context(), "acme", registrar.TenantUpdate{Plan: &free}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ body, field string }{
		{`{"permissions":["write"]}`, "permissions"}, {`{"permissions":["*"]}`, "permissions"}, {`{"rate":{"requests":101,"window":"1m"}}`, "rate"},
	} {
		if r := g.api("POST", keysPath, m, c.body); r.StatusCode != 403 || r.field() != c.field {
			t.Errorf("%s: %d %s", c.body, r.StatusCode, r.body)
		}
	}
	g.api("POST", keysPath, m, `{"permissions":["read"],"rate":{"requests":100,"window":"1m"}}`).expect(t, 201)
	only := []string{"keys:manage"}
	if _, err := g.registrar().UpdateTenant(t.Context(), "acme", registrar.TenantUpdate{Permissions: &only}); err != nil {
		t.Fatal(err)
	}
	if r := g.api("POST", keysPath, m, `{"permissions":["read"]}`); r.StatusCode != 403 || r.field() != "permissions" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
}

// A38: the right to manage keys, and what the keys hold that it made, end with
// the tenant's, the plan's and the key's own, at the next request.
func TestA38RightsOfTheDoorAtUse(t *testing.T) {
	g := newGateway(t, guardedOptions, guardedSite)
	id, m := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"write", "keys:manage"}})
	made := g.api("POST", keysPath, m, `{"permissions":["write"]}`).expect(t, 201).text(t, "key")
	update := func(u registrar.TenantUpdate) {
		t.Helper()
		if _, err := g.registrar().UpdateTenant(t.Context(), "acme", u); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(list, write int) {
		t.Helper()
		g.api("GET", keysPath, m, "").expect(t, list)
		if r := g.api("POST", keysPath, m, "{}"); r.StatusCode != list && (list != 200 || r.StatusCode != 201) {
			t.Errorf("create: %d %s", r.StatusCode, r.body)
		}
		g.api("POST", "/v1/x", made, "").expect(t, write)
	}
	expect(200, 200)
	free, pro := "free", "pro"
	update(registrar.TenantUpdate{Plan: &free})
	expect(403, 403)
	update(registrar.TenantUpdate{Plan: &pro})
	expect(200, 200)
	update(registrar.TenantUpdate{Permissions: &[]string{"keys:manage", "read"}})
	expect(200, 403)
	g.api("GET", "/v1/read", made, "").expect(t, 200)
	update(registrar.TenantUpdate{Permissions: &[]string{"write"}})
	expect(403, 200)
	update(registrar.TenantUpdate{Permissions: &[]string{"*"}})
	expect(200, 200)
	if _, err := g.registrar().UpdateKey(t.Context(), id, registrar.KeyUpdate{Permissions: &[]string{"read"}}); err != nil {
		t.Fatal(err)
	}
	expect(403, 200)
	if _, err := g.registrar().UpdateKey(t.Context(), id, registrar.KeyUpdate{Permissions: &[]string{"keys:*"}}); err != nil {
		t.Fatal(err)
	}
	expect(200, 200)
	if _, err := g.registrar().SuspendTenant(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	expect(401, 401)
}

// An operator's rights are no permission that a key could hold.
func TestNoKeyIsAnOperator(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"*"}})
	for _, path := range []string{"/keytoll/v1/tenants", "/keytoll/v1/status"} {
		g.api("GET", path, m, "").expect(t, 200) // the API's own, whatever it is
		if saw := g.upstream.last(t).URI; saw != path {
			t.Errorf("the upstream saw %s", saw)
		}
	}
	for _, path := range []string{keysPath + "/../tenants", keysPath + "/revoke-secret", keysPath + "/export"} {
		req, err := http.NewRequest("GET", g.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", m)
		if r := g.send(req); r.StatusCode != 404 {
			t.Errorf("%s: %d %s", path, r.StatusCode, r.body)
		}
	}
}
