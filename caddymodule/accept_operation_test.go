package caddymodule

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// A first start makes no credential, and a secret of its own.
func TestA47NoDefaultSecrets(t *testing.T) {
	masters := make(map[string]bool)
	for range 2 {
		g := newGateway(t, "tenant acme", plainGate)
		keys, _, err := g.registrar().Keys(t.Context(), registrar.KeyFilter{}, access.KeyID{}, 0)
		if err != nil || len(keys) != 0 {
			t.Fatalf("a new database holds keys: %v, %v", keys, err)
		}
		g.do("GET", "/", "X-Api-Key: admin").expect(t, 401)
		file := filepath.Join(g.dir, "master.key")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of master.key: %v, %v", info.Mode(), err)
		}
		masters[string(text)] = true
	}
	if len(masters) != 2 {
		t.Error("two installations have the same master key")
	}
	g := newGateway(t, "", plainGate)
	for value, want := range map[string]string{
		"":         "no such value, or it is empty",
		"changeme": "32 random bytes",
		base64.StdEncoding.EncodeToString(make([]byte, 32)): "no random value",
	} {
		t.Setenv("KEYTOLL_TEST_MASTER", value)
		err := g.tryLoad(g.text("master_key {env.KEYTOLL_TEST_MASTER}", plainGate))
		if err == nil || !strings.Contains(err.Error(), want) || value != "" && strings.Contains(err.Error(), value) {
			t.Errorf("master key %q: %v", value, err)
		}
	}
}

func TestA48MistakesNameTheirLine(t *testing.T) {
	g := &gateway{t: t, dir: t.TempDir(), addr: "127.0.0.1:1", url: "http://127.0.0.1:1", upstream: &upstream{addr: "127.0.0.1:2"}}
	if _, err := adapt(g.text("", plainGate)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ options, site, want string }{
		{"", "keytoll {\n limt 100/1m\n }", "did you mean limit?"},
		{"", "keytoll {\n limit -5/1m\n }", "not a whole number"},
		{"keys {\n prefix a_\n prefix a_\n }", "keytoll", "listed twice"},
	} {
		_, err := adapt(g.text(tt.options, tt.site))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "Caddyfile:") {
			t.Errorf("%s%s: %v", tt.options, tt.site, err)
		}
	}
}

// F3: Caddy's own log line of a failed upstream shows every header but four.
func TestF3NoSecretInAnyLog(t *testing.T) {
	g := newGateway(t, "", "log {\n output file {dir}/access.log\n format filter {\n request keytoll\n }\n }\n keytoll {\n key_from bearer header:X-API-Key query:token\n errors caddy\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{Name: "laptop"})
	g.do("GET", "/a?token="+key, "X-Provider-Key-Openai: sk_provider_secret", "Cookie: s=cookie_secret").expect(t, 200)
	g.do("GET", "/b?token=wrong_query_secret", "X-Api-Key: wrong_header_secret").expect(t, 400) // two of them
	g.upstream.server.Close()
	g.do("GET", "/c", "X-Api-Key: "+key, "X-Provider-Key-Openai: sk_provider_secret", "Referer: http://x/?token="+key).expect(t, 502)
	logs := g.log()
	if lines, err := os.ReadFile(filepath.Join(g.dir, "access.log")); err == nil {
		logs += string(lines)
	} else {
		t.Fatal(err)
	}
	for _, secret := range []string{key[8:], "sk_provider_secret", "cookie_secret", "wrong_query_secret", "wrong_header_secret"} {
		if strings.Contains(logs, secret) {
			t.Errorf("a log shows %s", secret)
		}
	}
	for _, word := range []string{`"reason":"allowed"`, `"tenant":"acme"`, `"user_id":"key_`, "REDACTED", `"reason":"ambiguous"`} {
		if !strings.Contains(logs, word) {
			t.Errorf("no log holds %s", word)
		}
	}
}
