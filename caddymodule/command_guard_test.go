package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
)

// TestCommandSendsNoKey gives a key in the place of all else: it must reach
// neither the server, whose log holds every URL, nor the output.
func TestCommandSendsNoKey(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme")
	k := c.key("keys", "create", "--tenant", "acme")
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { asked++; w.WriteHeader(500) }))
	defer srv.Close()
	for _, line := range [][]string{
		{"keys", "show", k.Key}, {"keys", "update", k.Key, "--name", "x"}, {"keys", "disable", k.Key}, {"keys", "enable", k.Key},
		{"keys", "rotate", k.Key}, {"keys", "revoke", k.Key}, {"keys", "revoke", k.ID, k.Key}, {"keys", "list", "--name", k.Key},
		{"keys", "list", "--cursor=" + k.Key}, {"keys", "create", "--tenant", "acme", "--metadata", "key=" + k.Key},
		{"keys", "create", "--tenant", "acme", "--permissions", "read," + k.Key},
		{"audit", "list", "--object", k.Key}, {"tenants", "show", k.Key}, {"keys", "import", k.Key},
		{"keys", "show", "old_product_key_1"}, {"keys", "rotate", "old_product_key_1"}, {"keys", "revoke", "old_product_key_1"},
		{"keys", "update", "old_product_key_1", "--name", "x"},
	} {
		out, errs, err := keytoll(append(line, "--address", srv.Listener.Addr().String())...)
		if err == nil || strings.Contains(out+errs, k.Key) || strings.Contains(out+errs, "old_product") {
			t.Errorf("%.2v: %v\n%s%s", line, err, out, errs)
		}
		if !strings.Contains(errs, "hint: ") || !strings.Contains(errs, "revoke --secret") {
			t.Errorf("%.2v: no next step:\n%s", line, errs)
		}
	}
	if asked != 0 {
		t.Errorf("%d requests were sent", asked)
	}
	if out := c.run("keys", "show", k.ID); !strings.Contains(out, "active") {
		t.Errorf("a key was changed:\n%s", out)
	}
}

func TestCommandNextSteps(t *testing.T) {
	addr := adminServer(t)
	for _, test := range []struct{ line, want string }{
		{"keys craete --tenant acme", `there is no command "keytoll keys craete"`},
		{"keys --tenant acme", "unknown flag: --tenant"},
		{"audit list --action key.born --address " + addr, "keys.replayed"},
		{"audit list --action key.born --address " + addr, "key.revoked"},
		{"backup - --address " + addr, "not to standard output"},
		{"conformance command_guard_test.go localhost", "conformance command_guard_test.go http://localhost:8080"},
	} {
		_, errs, err := keytoll(strings.Fields(test.line)...)
		if err == nil || !strings.Contains(errs, test.want) || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: %v, want %q in\n%s", test.line, err, test.want, errs)
		}
	}
}

// TestCommandBrokenTrail: the answer to a broken trail is a failure that says
// so, also as JSON.
func TestCommandBrokenTrail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	b, err := boltstore.New(boltstore.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	forged := []byte(`{"entry":{"seq":1,"action":"key.revoked"},"prev":"00","mac":"00"}`)
	err = s.Update(t.Context(), func(tx store.Tx) error { return tx.PutAudit(1, forged) })
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	addr := adminServerAt(t, path)
	for _, line := range []string{"audit verify", "audit verify --json"} {
		out, errs, err := keytoll(append(strings.Fields(line), "--address", addr)...)
		if err == nil || out != "" || !strings.Contains(errs, "the audit trail is") || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: %v\n%s%s", line, err, out, errs)
		}
	}
}

func TestStatusText(t *testing.T) {
	past, future := new(time.Now().Add(-time.Second)), new(time.Now().Add(time.Hour))
	for _, test := range []struct {
		key  mgmt.Key
		want string
	}{
		{mgmt.Key{Status: "active"}, "active"}, {mgmt.Key{Status: "active", ExpiresAt: future}, "active"},
		{mgmt.Key{Status: "active", ExpiresAt: past}, "expired"}, {mgmt.Key{Status: "revoked", ExpiresAt: past}, "revoked"},
		{mgmt.Key{Status: "disabled", ExpiresAt: past}, "disabled"},
	} {
		if got := statusText(test.key); got != test.want {
			t.Errorf("%+v is %q, want %q", test.key, got, test.want)
		}
	}
}

func TestPlainStatus(t *testing.T) {
	for value, want := range map[string]string{
		`{"revoked":1,"active":3}`: "active 3, revoked 1", `{}`: "", `[]`: "", `null`: "", `["a","b"]`: "a, b", `7`: "7", `"x"`: "x",
		`[{"prefix":"ak_","environment":"live"},{"prefix":"kt_","environment":""}]`: "ak_ live, kt_",
		`{"a":{"b":1}}`: `{"a":{"b":1}}`,
	} {
		if got := plain(json.RawMessage(value)); got != want {
			t.Errorf("%s is %q, want %q", value, got, want)
		}
	}
}
