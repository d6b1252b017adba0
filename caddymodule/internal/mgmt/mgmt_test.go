package mgmt_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func (d *door) send(method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		d.t.Errorf("%s %s: Cache-Control %q", method, path, got)
	}
	return w
}

type envelope struct {
	Error mgmt.Error `json:"error"`
}

func (d *door) want(w *httptest.ResponseRecorder, status int, code, field string) mgmt.Error {
	d.t.Helper()
	var e envelope
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		d.t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	if w.Code != status || e.Error.Code != code || e.Error.Field != field || e.Error.Message == "" {
		d.t.Errorf("answer %d %s, want %d, %s, field %q", w.Code, w.Body, status, code, field)
	}
	if w.Header().Get("Content-Type") != "application/json" {
		d.t.Errorf("Content-Type %q", w.Header().Get("Content-Type"))
	}
	return e.Error
}

func TestKeyOverTheWire(t *testing.T) {
	d := newDoor(t)
	if w := d.send("POST", "/keytoll/v1/tenants", `{"id":"acme","plan":"pro"}`); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	w := d.send("POST", "/keytoll/v1/tenants/acme/keys",
		`{"name":"laptop","expires_at":"2999-01-31T01:00:00+01:00","rate":{"requests":100,"window":"1m"},"permissions":["read"]}`)
	if w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"id", "key", "tenant", "name", "prefix", "environment", "status", "rate", "permissions", "metadata", "created_at", "expires_at", "revoked_at"} {
		if _, ok := got[f]; !ok {
			t.Errorf("no field %s in %s", f, w.Body)
		}
	}
	if got["expires_at"] != "2999-01-31T00:00:00Z" || got["revoked_at"] != nil || !strings.HasPrefix(got["key"].(string), got["prefix"].(string)) {
		t.Errorf("created %s", w.Body)
	}
	if rate, _ := json.Marshal(got["rate"]); string(rate) != `{"burst":100,"requests":100,"window":"1m"}` {
		t.Errorf("rate %s", rate)
	}
	id := got["id"].(string)
	for _, path := range []string{"/keytoll/v1/keys/" + id, "/keytoll/v1/keys", "/keytoll/v1/tenants/acme/keys"} {
		w := d.send("GET", path, "")
		if w.Code != 200 || !strings.Contains(w.Body.String(), id) || strings.Contains(w.Body.String(), got["key"].(string)) {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Body)
		}
	}
	first := d.send("DELETE", "/keytoll/v1/keys/"+id, "")
	again := d.send("DELETE", "/keytoll/v1/keys/"+id, "")
	if first.Code != 200 || first.Body.String() != again.Body.String() || !strings.Contains(first.Body.String(), `"status":"revoked"`) {
		t.Errorf("revoked %s, then %s", first.Body, again.Body)
	}
	d.want(d.send("PATCH", "/keytoll/v1/keys/"+id, `{"status":"active"}`), 409, "conflict", "status")
}

func TestBadInput(t *testing.T) {
	d := newDoor(t)
	if w := d.send("POST", "/keytoll/v1/tenants", `{"id":"acme"}`); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	const tenants, keys = "/keytoll/v1/tenants", "/keytoll/v1/tenants/acme/keys"
	const ours = "/keytoll/v1/keys/key_0000000000000000"
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code, field        string
	}{
		"not JSON":            {"POST", keys, `{"name":`, 400, "invalid_request", ""},
		"empty":               {"POST", keys, ` `, 400, "invalid_request", ""},
		"array":               {"POST", keys, `[]`, 400, "invalid_request", ""},
		"null":                {"POST", keys, `null`, 400, "invalid_request", ""},
		"trailing data":       {"POST", keys, `{} {}`, 400, "invalid_request", ""},
		"trailing garbage":    {"POST", keys, `{}x`, 400, "invalid_request", ""},
		"unknown field":       {"POST", keys, `{"nmae":"x"}`, 400, "invalid_request", "nmae"},
		"other case":          {"POST", keys, `{"Name":"x"}`, 400, "invalid_request", "Name"},
		"nested unknown":      {"POST", keys, `{"rate":{"requests":1,"per":"1m"}}`, 400, "invalid_request", "rate.per"},
		"duplicate":           {"POST", keys, `{"name":"a","name":"b"}`, 400, "invalid_request", "name"},
		"escaped duplicate":   {"POST", keys, `{"name":"a","n\u0061me":"b"}`, 400, "invalid_request", "name"},
		"duplicate in a map":  {"POST", keys, `{"metadata":{"a":"1","a":"2"}}`, 400, "invalid_request", "metadata.a"},
		"no UTF-8":            {"POST", keys, "{\"name\":\"\xff\"}", 400, "invalid_request", ""},
		"too deep":            {"POST", keys, `{"metadata":` + strings.Repeat(`{"a":`, 33) + `1` + strings.Repeat(`}`, 34), 400, "invalid_request", ""},
		"too large":           {"POST", keys, `{"name":"` + strings.Repeat("x", 64<<10) + `"}`, 400, "invalid_request", ""},
		"wrong type":          {"POST", keys, `{"name":7}`, 400, "invalid_request", "name"},
		"NaN":                 {"POST", keys, `{"rate":{"requests":NaN,"window":"1m"}}`, 400, "invalid_request", ""},
		"negative rate":       {"POST", keys, `{"rate":{"requests":-1,"window":"1m"}}`, 400, "invalid_request", "rate.requests"},
		"zero rate":           {"POST", keys, `{"rate":{"requests":0,"window":"1m"}}`, 400, "invalid_request", "rate"},
		"half a request":      {"POST", keys, `{"rate":{"requests":0.5,"window":"1m"}}`, 400, "invalid_request", "rate.requests"},
		"no window":           {"POST", keys, `{"rate":{"requests":5}}`, 400, "invalid_request", "rate.window"},
		"absurd rate":         {"POST", keys, `{"rate":{"requests":999999999,"window":"1s"}}`, 400, "invalid_request", "rate"},
		"past":                {"POST", keys, `{"expires_at":"2001-01-01T00:00:00Z"}`, 400, "invalid_request", "expires_at"},
		"no time":             {"POST", keys, `{"expires_at":"tomorrow"}`, 400, "invalid_request", "expires_at"},
		"control character":   {"POST", keys, `{"name":"a\r\nb"}`, 400, "invalid_request", "name"},
		"NUL":                 {"POST", keys, `{"name":"a\u0000"}`, 400, "invalid_request", "name"},
		"unknown plan":        {"POST", tenants, `{"id":"b","plan":"gold"}`, 400, "invalid_request", "plan"},
		"bad tenant id":       {"POST", tenants, `{"id":"a b"}`, 400, "invalid_request", "id"},
		"no tenant id":        {"POST", tenants, `{}`, 400, "invalid_request", "id"},
		"tenant exists":       {"POST", tenants, `{"id":"acme"}`, 409, "exists", "id"},
		"tenant of a key":     {"POST", "/keytoll/v1/tenants/nobody/keys", `{}`, 404, "not_found", "tenant"},
		"slash in an id":      {"GET", "/keytoll/v1/tenants/a%2Fb", "", 400, "invalid_request", "tenant"},
		"no tenant":           {"GET", "/keytoll/v1/tenants/nobody", "", 404, "not_found", "tenant"},
		"not our id":          {"GET", "/keytoll/v1/keys/42", "", 400, "invalid_request", "key"},
		"no key":              {"DELETE", ours, "", 404, "not_found", "key"},
		"revoke by PATCH":     {"PATCH", ours, `{"status":"revoked"}`, 400, "invalid_request", "status"},
		"nothing to change":   {"PATCH", ours, `{}`, 400, "invalid_request", ""},
		"no such status":      {"PATCH", tenants + "/acme", `{"status":"gone"}`, 400, "invalid_request", "status"},
		"disabled tenant":     {"PATCH", tenants + "/acme", `{"status":"disabled"}`, 400, "invalid_request", "status"},
		"misspelt filter":     {"GET", "/keytoll/v1/keys?tennant=acme", "", 400, "invalid_request", "tennant"},
		"two values":          {"GET", "/keytoll/v1/keys?tenant=a&tenant=b", "", 400, "invalid_request", "tenant"},
		"limit of zero":       {"GET", "/keytoll/v1/keys?limit=0", "", 400, "invalid_request", "limit"},
		"limit of too many":   {"GET", "/keytoll/v1/keys?limit=101", "", 400, "invalid_request", "limit"},
		"foreign cursor":      {"GET", "/keytoll/v1/keys?cursor=abc", "", 400, "invalid_request", "cursor"},
		"status of no key":    {"GET", "/keytoll/v1/keys?status=suspended", "", 400, "invalid_request", "status"},
		"path against query":  {"GET", keys + "?tenant=b", "", 400, "invalid_request", "tenant"},
		"no such path":        {"GET", "/keytoll/v1/secrets", "", 404, "not_found", ""},
		"no such method":      {"PUT", keys, `{}`, 405, "method_not_allowed", ""},
		"no delete of status": {"DELETE", "/keytoll/v1/status", "", 405, "method_not_allowed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.want(d.send(c.method, c.path, c.body), c.status, c.code, c.field)
		})
	}
	d.t = t
	if w := d.send("GET", "/keytoll/v1/keys", ""); w.Body.String() != "{\"keys\":[]}\n" {
		t.Errorf("bad input left %s", w.Body)
	}
}

func TestContentType(t *testing.T) {
	d := newDoor(t)
	for _, ct := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"} {
		w := d.send("POST", "/keytoll/v1/tenants", `{"id":"acme"}`, "Content-Type", ct)
		d.want(w, 415, "invalid_request", "")
	}
	if w := d.send("POST", "/keytoll/v1/tenants", `{"id":"acme"}`, "Content-Type", "application/json; charset=utf-8"); w.Code != 201 {
		t.Error(w.Code, w.Body)
	}
}

func TestListsLink(t *testing.T) {
	d := newDoor(t)
	for _, id := range []string{"a", "b", "c"} {
		if _, err := d.client.CreateTenant(mgmt.CreateTenant{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	w := d.send("GET", "/keytoll/v1/tenants?limit=2", "")
	if got := w.Header().Get("Link"); got != `</keytoll/v1/tenants?cursor=b&limit=2>; rel="next"` {
		t.Errorf("Link %q", got)
	}
	page, err := d.client.Tenants(mgmt.Page{Limit: 2, Cursor: "b"})
	if err != nil || len(page.Tenants) != 1 || page.Tenants[0].ID != "c" || page.Next != "" {
		t.Errorf("second page %+v, %v", page, err)
	}
	if w := d.send("GET", "/keytoll/v1/tenants?limit=2&cursor=b", ""); w.Header().Get("Link") != "" {
		t.Error("the last page links to another")
	}
}

func TestClient(t *testing.T) {
	d := newDoor(t)
	c := d.client
	if s, err := c.Status(); err != nil || string(s) != `{"keys":7}` {
		t.Errorf("status %s, %v", s, err)
	}
	_, err := c.CreateKey("acme", mgmt.CreateKey{})
	if e, ok := errors.AsType[*mgmt.Error](err); !ok || e.Status != 404 || e.Hint != "caddy keytoll tenants create acme" {
		t.Fatalf("error %#v", err)
	}
	if _, err := c.CreateTenant(mgmt.CreateTenant{ID: "acme"}); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	k, err := c.CreateKey("acme", mgmt.CreateKey{ExpiresAt: &at, Rate: &mgmt.Rate{Requests: 5, Window: "s", Burst: 9}})
	if err != nil || k.Key == "" || !k.ExpiresAt.Equal(at) || *k.Rate != (mgmt.Rate{Requests: 5, Window: "1s", Burst: 9}) {
		t.Fatalf("created %+v, %v", k, err)
	}
	if k, err = c.UpdateKey(k.ID, mgmt.UpdateKey{Status: new("disabled"), Name: new("n")}); err != nil || k.Status != "disabled" || k.Name != "n" || k.Key != "" {
		t.Errorf("changed %+v, %v", k, err)
	}
	if k, err = c.RevokeKey(k.ID); err != nil || k.RevokedAt == nil {
		t.Errorf("revoked %+v, %v", k, err)
	}
	if list, err := c.Keys("acme", "revoked", mgmt.Page{}); err != nil || len(list.Keys) != 1 || list.Keys[0].ID != k.ID {
		t.Errorf("list %+v, %v", list, err)
	}
	meta := map[string]string{"a": "b"}
	if tn, err := c.UpdateTenant("acme", mgmt.UpdateTenant{Status: new("suspended"), Plan: new("pro"), Metadata: &meta}); err != nil || tn.Status != "suspended" || tn.Plan != "pro" || tn.Metadata["a"] != "b" {
		t.Errorf("tenant %+v, %v", tn, err)
	}
	if err := c.DeleteTenant("acme"); err != nil {
		t.Error(err)
	}
	if _, err := c.Key(k.ID); err == nil {
		t.Error("the key outlived its tenant")
	}
}

func TestFaultsStayInside(t *testing.T) {
	d := newDoor(t)
	var told error
	closed := mgmt.NewHandler(func() (*registrar.Registrar, error) { return nil, errors.New("secret path") }, nil)
	w := httptest.NewRecorder()
	closed.ServeHTTP(w, httptest.NewRequest("GET", "/keytoll/v1/keys", nil))
	if d.want(w, 503, "unavailable", ""); strings.Contains(w.Body.String(), "secret path") {
		t.Error(w.Body)
	}
	if err := d.store.Close(); err != nil {
		t.Fatal(err)
	}
	d.want(d.send("GET", "/keytoll/v1/keys", ""), 503, "unavailable", "")
	bad := mgmt.NewHandler(func() (*registrar.Registrar, error) { return nil, nil }, func() any { return func() {} })
	bad.OnInternal = func(_ *http.Request, err error) { told = err }
	w = httptest.NewRecorder()
	bad.ServeHTTP(w, httptest.NewRequest("GET", "/keytoll/v1/status", nil))
	d.want(w, 500, "internal", "")
	if told == nil {
		t.Error("the fault was not told")
	}
}
