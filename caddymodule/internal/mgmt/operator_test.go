package mgmt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func TestOperatorKeyLife(t *testing.T) {
	d := newDoor(t)
	d.tenant("acme")
	d.handler.Use = func(access.KeyID) access.Use {
		return access.Use{At: 1_900_000_000, Address: netip.MustParseAddr("192.0.2.9"), Agent: "curl"}
	}
	c := d.client
	k, err := c.CreateKey("acme", mgmt.CreateKey{Name: "Build", Description: "ci", ExpiresIn: new(int64(3600)),
		Addresses: []string{"192.0.2.7", "2001:db8::/32"}, Permissions: []string{"read"}, Rate: &mgmt.Rate{Requests: 5, Window: "1m"}})
	if err != nil || k.Description != "ci" || k.ExpiresAt == nil || strings.Join(k.Addresses, " ") != "192.0.2.7/32 2001:db8::/32" {
		t.Fatalf("created %+v, %v", k, err)
	}
	secret := k.Key
	if k, err = c.UpdateKey(k.ID, mgmt.UpdateKey{ExpiresAt: mgmt.Null[time.Time](), Rate: mgmt.Null[mgmt.Rate](), Addresses: &[]string{},
		Permissions: &[]string{"write"}, Metadata: &map[string]string{"a": "b"}, Description: new("")}); err != nil ||
		k.ExpiresAt != nil || k.Rate != nil || len(k.Addresses) != 0 || k.Permissions[0] != "write" || k.Metadata["a"] != "b" || k.Description != "" || k.Name != "Build" {
		t.Errorf("changed %+v, %v", k, err)
	}
	at := time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	if k, err = c.UpdateKey(k.ID, mgmt.UpdateKey{ExpiresAt: mgmt.Value(at), Rate: mgmt.Value(mgmt.Rate{Requests: 7, Window: "s"})}); err != nil || !k.ExpiresAt.Equal(at) || k.Rate.Requests != 7 {
		t.Errorf("changed %+v, %v", k, err)
	}
	if k.LastUsedAt == nil || k.LastUsedAddress != "192.0.2.9" || k.LastUsedAgent != "curl" {
		t.Errorf("last use of %+v", k)
	}
	if list, err := c.KeysNamed("", "", "uil", mgmt.Page{}); err != nil || len(list.Keys) != 1 {
		t.Errorf("named %+v, %v", list, err)
	}
	r, err := c.RotateKey(k.ID, mgmt.RotateKey{Grace: new("1d")})
	if err != nil || r.Key == "" || r.Key == secret || r.ID != k.ID || r.PreviousExpiresAt == nil || r.RotatedAt == nil {
		t.Fatalf("rotated %+v, %v", r, err)
	}
	again, err := c.RotateKeyOnce(k.ID, mgmt.RotateKey{Grace: new("0")}, "once")
	same, bad := c.RotateKeyOnce(k.ID, mgmt.RotateKey{Grace: new("0")}, "once")
	if err != nil || bad != nil || again.Key != same.Key || again.PreviousExpiresAt != nil {
		t.Errorf("rotated %+v and %+v, %v, %v", again, same, err, bad)
	}
	if got, err := c.RevokeSecret(again.Key); err != nil || got.ID != k.ID || got.Status != "revoked" || got.Key != "" {
		t.Errorf("revoked %+v, %v", got, err)
	}
	_, err = c.RevokeSecret("ak_live_nobodys")
	if e, ok := errors.AsType[*mgmt.Error](err); !ok || e.Status != 404 || strings.Contains(e.Message+e.Hint, "nobodys") {
		t.Errorf("revoking nobody's secret: %#v", err)
	}
}

func TestOperatorBadInput(t *testing.T) {
	d := newDoor(t)
	k := d.tenant("acme")
	keys, one := "/keytoll/v1/tenants/acme/keys", "/keytoll/v1/keys/"+k.ID
	for name, c := range map[string]struct{ method, path, body, field string }{
		"expiry of zero":    {"POST", keys, `{"expires_in":0}`, "expires_in"},
		"expiry too far":    {"POST", keys, `{"expires_in":9999999999999}`, "expires_in"},
		"two expiries":      {"POST", keys, `{"expires_in":5,"expires_at":"2999-01-01T00:00:00Z"}`, "expires_in"},
		"address":           {"POST", keys, `{"addresses":["localhost"]}`, "addresses"},
		"permission":        {"POST", keys, `{"permissions":["reed"]}`, "permissions"},
		"null name":         {"PATCH", one, `{"name":null}`, "name"},
		"null permissions":  {"PATCH", one, `{"permissions":null}`, "permissions"},
		"rate's field":      {"PATCH", one, `{"rate":{"per":1}}`, "rate.per"},
		"rate's type":       {"PATCH", one, `{"rate":{"requests":"1","window":"1m"}}`, "rate.requests"},
		"time":              {"PATCH", one, `{"expires_at":"soon"}`, "expires_at"},
		"time's type":       {"PATCH", one, `{"expires_at":7}`, ""},
		"past":              {"PATCH", one, `{"expires_at":"2001-01-01T00:00:00Z"}`, "expires_at"},
		"grace":             {"POST", one + "/rotate", `{"grace":"-1h"}`, "grace"},
		"grace of words":    {"POST", one + "/rotate", `{"grace":"long"}`, "grace"},
		"no secret":         {"POST", "/keytoll/v1/keys/revoke-secret", `{}`, "secret"},
		"audit's time":      {"GET", "/keytoll/v1/audit?since=yesterday", "", "since"},
		"audit's cursor":    {"GET", "/keytoll/v1/audit?cursor=x", "", "cursor"},
		"audit's parameter": {"GET", "/keytoll/v1/audit?objekt=x", "", "objekt"},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.want(d.send(c.method, c.path, c.body), 400, "invalid_request", c.field)
		})
	}
	d.t = t
	d.want(d.send("POST", keys, `{}`, "Idempotency-Key", "two words"), 400, "invalid_request", "Idempotency-Key")
	d.want(d.send("POST", keys, `{}`, "X-Keytoll-Actor", "a\x01b"), 400, "invalid_request", "X-Keytoll-Actor")
	if list, err := d.client.Keys("", "", mgmt.Page{}); err != nil || len(list.Keys) != 1 || list.Keys[0].RotatedAt != nil {
		t.Errorf("bad input left %+v, %v", list, err)
	}
}

func TestTenantPermissions(t *testing.T) {
	d := newDoor(t)
	for body, want := range map[string]string{`{"id":"a"}`: "null", `{"id":"b","permissions":[]}`: "[]", `{"id":"c","permissions":["read"]}`: `["read"]`} {
		if w := d.send("POST", "/keytoll/v1/tenants", body); !strings.Contains(w.Body.String(), `"permissions":`+want) {
			t.Errorf("%s made %s", body, w.Body)
		}
	}
	if w := d.send("PATCH", "/keytoll/v1/tenants/c", `{"permissions":null}`); !strings.Contains(w.Body.String(), `"permissions":null`) {
		t.Errorf("no bound: %s", w.Body)
	}
}

func TestAudit(t *testing.T) {
	d := newDoor(t)
	k := d.tenant("acme")
	if _, err := d.client.RevokeKey(k.ID); err != nil {
		t.Fatal(err)
	}
	list, err := d.client.Audit(mgmt.AuditFilter{Object: k.ID}, mgmt.Page{})
	if err != nil || len(list.Entries) != 2 || list.Entries[1].Action != "key.revoked" ||
		list.Entries[0].Actor != (access.Actor{Kind: "operator", Name: "ada", Address: "192.0.2.1"}) {
		t.Fatalf("audit %+v, %v", list, err)
	}
	if text, _ := json.Marshal(list); strings.Contains(string(text), k.Key) {
		t.Errorf("the secret is in the audit trail: %s", text)
	}
	if list, err = d.client.Audit(mgmt.AuditFilter{}, mgmt.Page{Limit: 1}); err != nil || len(list.Entries) != 1 || list.Next == "" {
		t.Errorf("first page %+v, %v", list, err)
	}
	if n, err := d.client.VerifyAudit(); err != nil || n.Entries != 3 {
		t.Errorf("verified %+v, %v", n, err)
	}
}

func TestBackup(t *testing.T) {
	d := newDoor(t)
	d.want(d.send("GET", "/keytoll/v1/backup", ""), 503, "unavailable", "")
	d.handler.Backup = d.store.Backup
	var out bytes.Buffer
	if n, err := d.client.Backup(&out); err != nil || n == 0 || int(n) != out.Len() {
		t.Fatal(n, err)
	}
	d.handler.Backup = func(context.Context, io.Writer) (int64, error) { return 0, errors.New("disk") }
	d.want(d.send("GET", "/keytoll/v1/backup", ""), 500, "internal", "")
	d.handler.Backup = func(_ context.Context, w io.Writer) (int64, error) {
		_, _ = w.Write([]byte("half"))
		return 4, errors.New("disk")
	}
	defer func() {
		if recover() == nil {
			t.Error("half a backup looks whole")
		}
	}()
	d.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/keytoll/v1/backup", nil))
}

func TestExportAndImport(t *testing.T) {
	d := newDoor(t)
	k := d.tenant("acme", "read")
	gone := d.tenant("acme")
	if _, err := d.client.RevokeKey(gone.ID); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if n, err := d.client.Export(&file); err != nil || int(n) != file.Len() {
		t.Fatal(n, err)
	}
	if strings.Contains(file.String(), k.Key) || !strings.HasPrefix(file.String(), `{"keytoll_export":1,"installation":"0123"}`) ||
		!strings.HasSuffix(file.String(), `{"type":"end","tenants":1,"keys":2}`+"\n") {
		t.Errorf("export\n%s", file.String())
	}
	again, err := d.client.ImportLines(file.Bytes(), mgmt.ImportOptions{})
	if err != nil || again.Created != 0 || again.Skipped != 2 || len(again.Errors) != 0 {
		t.Errorf("into itself: %+v, %v", again, err)
	}
	if err := d.client.DeleteTenant("acme"); err != nil {
		t.Fatal(err)
	}
	if dry, err := d.client.ImportLines(file.Bytes(), mgmt.ImportOptions{DryRun: true, CreateTenants: true}); err != nil || dry.Created != 1 || len(dry.Errors) != 1 { // the active key died with its tenant
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	if _, err := d.client.Tenant("acme"); err == nil {
		t.Error("a dry run made a tenant")
	}
	sum := d.sum("ak_live_moved")
	moved := fmt.Sprintf(`{"keytoll_export":1,"installation":"0123"}
{"type":"tenant","id":"moved","status":"suspended","permissions":["read"]}
{"type":"key","id":"key_00000000000000ab","tenant":"moved","digest":"%x","alg":1,"prefix":"ak_live_mo"}`, sum)
	if r, err := d.client.ImportLines([]byte(moved), mgmt.ImportOptions{}); err != nil || r.Created != 1 || len(r.Errors) != 0 {
		t.Errorf("an export of this installation: %+v, %v", r, err)
	}
	if tn, err := d.client.Tenant("moved"); err != nil || tn.Status != "suspended" || len(tn.Permissions) != 1 {
		t.Errorf("moved tenant %+v, %v", tn, err)
	}
	if k, err := d.client.RevokeSecret("ak_live_moved"); err != nil || k.ID != "key_00000000000000ab" || k.Prefix != "ak_live_mo" {
		t.Errorf("moved key %+v, %v", k, err)
	}
	foreign := strings.Replace(file.String(), `"0123"`, `"4567"`, 1)
	if r, err := d.client.ImportLines([]byte(foreign), mgmt.ImportOptions{}); err != nil || r.Created != 0 || len(r.Errors) != 2 || r.Errors[0].Field != "digest" {
		t.Errorf("from another installation: %+v, %v", r, err)
	}
}

func TestImport(t *testing.T) {
	d := newDoor(t)
	d.tenant("acme")
	lines := strings.Join([]string{
		`{"tenant":"acme","key":"old_secret_number_one","permissions":["read"],"expires_at":"2999-01-01T00:00:00Z"}`,
		`{"tenant":"acme","nmae":"x"}`,
		``,
		`not json`,
		`{"tenant":"acme","sha256":"zz"}`,
		`{"tenant":"nobody","key":"old_secret_number_two"}`,
		`{"tenant":"acme","key":"old_secret_number_three","status":"gone"}`,
		`{"type":"thing"}`,
		`{"keytoll_export":9}`,
		`{"tenant":"acme","digest":"` + strings.Repeat("ab", 32) + `","alg":1}`,
		`{"tenant":"acme","key":"` + strings.Repeat("x", 70<<10) + `"}`,
	}, "\n")
	r, err := d.client.ImportLines([]byte(lines), mgmt.ImportOptions{})
	if err != nil || r.Created != 1 || r.Skipped != 0 {
		t.Fatalf("report %+v, %v", r, err)
	}
	fields := map[int]string{}
	for _, e := range r.Errors {
		fields[e.Line] = e.Field
		if strings.Contains(e.Message, "number") {
			t.Errorf("a secret is in the report: %+v", e)
		}
	}
	for line, field := range map[int]string{2: "nmae", 4: "", 5: "sha256", 6: "tenant", 7: "status", 8: "type", 9: "keytoll_export", 10: "digest", 11: ""} {
		if got, ok := fields[line]; !ok || got != field {
			t.Errorf("line %d: field %q, %t, want %q", line, got, ok, field)
		}
	}
	keys := []registrar.ImportKey{
		{Line: 70, Tenant: "acme", Secret: token.Wrap("old_secret_number_one")},
		{Line: 80, Tenant: "new", SHA256: bytes.Repeat([]byte{7}, 32), Disabled: true, Rate: &access.Rate{Requests: 5, Burst: 5, Window: time.Minute}},
		{Line: 90, Tenant: "new", Name: "a\x00b", SHA256: bytes.Repeat([]byte{8}, 32)},
	}
	results, err := d.client.Import(keys, mgmt.ImportOptions{CreateTenants: true})
	if err != nil || len(results) != 3 || !results[0].Skipped || results[0].Line != 70 || results[1].Err != nil || results[1].Skipped ||
		results[2].Err == nil || results[2].Line != 90 || results[2].Err.Field != "name" {
		t.Fatalf("results %+v, %v", results, err)
	}
	if list, err := d.client.Keys("new", "disabled", mgmt.Page{}); err != nil || len(list.Keys) != 1 || list.Keys[0].Rate.Requests != 5 {
		t.Errorf("imported %+v, %v", list, err)
	}
	if w := d.send("POST", "/keytoll/v1/import?dry=true", "{}", "Content-Type", "application/x-ndjson"); w.Code != 400 {
		t.Errorf("a misspelt option: %d %s", w.Code, w.Body)
	}
	if w := d.send("POST", "/keytoll/v1/import", "{}"); w.Code != 415 {
		t.Errorf("JSON: %d %s", w.Code, w.Body)
	}
}
