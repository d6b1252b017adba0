package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
