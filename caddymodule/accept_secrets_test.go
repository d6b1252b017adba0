package caddymodule

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

const providerKeysPath = "/v1/provider-keys"

// No secret that passes through is in anything that is written: logs, traces,
// metrics, audit trail, configuration, admin endpoint, output of commands,
// database, backup and export. Caddy runs with all of it on, and with the log
// filter as README has it.
func TestNoSecretIsWritten(t *testing.T) {
	s := newSecretsRun(t)
	s.masterFile("first.key")
	s.masterFile("second.key")
	s.start("first.key")
	s.must("", "tenants", "create", "acme", "--name", "Acme, Inc.")
	k := s.mint("operator's key", "keys", "create", "--tenant", "acme", "--name", "laptop")

	s.keyLife(k)
	s.strangers(k)
	s.moved()
	s.providerKeys(k)
	s.failures(k)
	s.rotateMaster(k)
	s.operate(k)
	s.stop()
	db := filepath.Join(s.dir, "keytoll.db")
	for _, args := range [][]string{{"check", "--db", db}, {"check", s.dir + "/backup.db"}, {"restore", s.dir + "/backup.db", "--db", db}} {
		out, errs, err := keytoll(append(args, "--master-key", "{file."+s.in+"/second.key}")...)
		s.out.add("output of commands", out)
		s.out.add("errors of commands", errs)
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, errs)
		}
	}
	s.verdict()
}

// verdict searches all that was written, once it is sure that it is all there.
func (s *secretsRun) verdict() {
	t := s.t.(*testing.T)
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, text := range s.got {
		s.out[name] = text
	}
	s.out.files(t, s.dir)
	for name, words := range map[string][]string{
		"file default.log": {`"logger":"http.log.error`, `"logger":"http.handlers.reverse_proxy"`, `"logger":"admin.api"`, "REDACTED", "X-Provider-Key-Elevenlabs",
			"a bug of a handler", "using config from file", `"level":"debug"`, "provider_key_stored"},
		"file access.log":                      {`"status":500`, `"status":502`, `"status":401`, "REDACTED", "token=REDACTED", `"Location":["/?api_key=REDACTED`},
		"file config/caddy/autosave.json":      {"Authorization", "{env.KEYTOLL_TEST_EXPORT}", "X-Provider-Key-OpenAI"},
		"file keytoll.db":                      {"acme", "elevenlabs"},
		"file backup.db":                       {"acme"},
		"file export.ndjson":                   {`"tenant"`},
		"file refused.ndjson":                  {`"line"`},
		"sent to /v1/traces":                   {"url.path", "/v1/api-keys", "acme"},
		"sent to /events":                      {"specversion"},
		"admin /config/":                       {"first.key", "X-Internal"},
		"admin /metrics":                       {"caddy_keytoll_requests_total", "caddy_http_"},
		"admin /keytoll/v1/audit?limit=100":    {"provider_key.stored"},
		"admin /debug/pprof/goroutine?debug=2": {"goroutine"},
		"output of commands":                   {"ak_live_", "elevenlabs", "key.rotated", "provider_key.verified", "data_key.rekeyed"},
		"answers":                              {"last_four", "401 Unauthorized", "true_positive"},
	} {
		s.out.holds(t, name, words...)
	}
	size := 0
	for _, text := range s.out {
		size += len(text)
	}
	t.Logf("%d bytes in %d pieces, searched for %d secrets", size, len(s.out), len(s.names))
	s.out.search(t, &s.hunt)

	// The same search finds what is there.
	planted := append([]byte{}, s.out["file access.log"]...)
	planted = append(planted, s.secretOnce("token of the collector")[:20]...)
	if found := s.hunt.in(planted); len(found) != 1 || found["token of the collector"] < len(s.out["file access.log"]) {
		t.Errorf("the search found %v where a secret was planted", found)
	}
}

// keyLife makes, uses, rotates and ends keys at both doors.
func (s *secretsRun) keyLife(k mgmt.Key) {
	for _, credential := range []string{"Authorization: Bearer " + k.Key, "X-API-Key: " + k.Key, "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+k.Key))} {
		s.ask("GET", "/v1/things?page=2", "", "", credential, "Cookie: session="+s.random("cookie "+credential[:14], "")).expect(s.t, 200)
	}
	s.ask("GET", "/v1/things?token="+k.Key+"&page=2", "", "", "Referer: https://app.example/?token="+k.Key).expect(s.t, 200)
	s.ask("GET", "/v1/me", k.Key, "").expect(s.t, 200)
	for _, name := range []string{"own key", "own key, repeated"} {
		s.create(name, keysPath, k.Key, `{"name":"ci","expires_in_days":9}`, "Idempotency-Key: once")
	}
	own := s.create("second own key", keysPath, k.Key, `{"name":"ci"}`)
	path := keysPath + "/" + own.text(s.t, "id")
	s.ask("GET", "/", own.text(s.t, "key"), "").expect(s.t, 200)
	turned := s.create("second own key, rotated", path+"/rotate", k.Key, `{"grace_seconds":600}`)
	for _, secret := range []string{own.text(s.t, "key"), turned.text(s.t, "key")} {
		s.ask("GET", "/", secret, "").expect(s.t, 200)
	}
	s.ask("PATCH", path, k.Key, `{"name":"`+"renamed"+`"}`).expect(s.t, 200)
	s.ask("PATCH", path, k.Key, `{"key":"`+own.text(s.t, "key")+`"}`).expect(s.t, 400)
	s.ask("POST", keysPath, k.Key, `{"name":1,"`+own.text(s.t, "key")+`":2}`)
	s.ask("GET", keysPath, k.Key, "").expect(s.t, 200)
	s.ask("DELETE", path, k.Key, "").expect(s.t, 204)
	s.ask("GET", "/", turned.text(s.t, "key"), "").expect(s.t, 401)
	s.ask("GET", keysPath+"?token="+turned.text(s.t, "key"), "", "").expect(s.t, 401)

	leaked := s.mint("leaked key", "keys", "create", "--tenant", "acme")
	s.mint("leaked key, rotated", "keys", "rotate", leaked.ID, "--grace", "1h")
	s.must(leaked.Key, "keys", "inspect")
	s.must(leaked.Key, "keys", "revoke", "--secret")
	for _, args := range [][]string{{"keys", "revoke", leaked.Key}, {"keys", "show", leaked.Key}, {"tenants", "create", leaked.Key},
		{"keys", "create", "--tenant", "acme", "--name", leaked.Key}, {"keys", "create", "--tenant", leaked.Key}} {
		if _, err := s.cli("", args...); err == nil {
			s.t.Errorf("%v: no error", args[:2])
		}
	}
	found := s.mint("key found in public", "keys", "create", "--tenant", "acme")
	message := fmt.Sprintf(`[{"token":%q,"type":"k","url":"https://forge.example/?q=%s"},{"token":%q,"type":"k"}]`, found.Key, found.Key, s.random("found in public, not ours", "ak_live_"))
	sum := sha256.Sum256([]byte(message))
	signature, err := ecdsa.SignASN1(rand.Reader, s.scanner, sum[:])
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sign := range []string{"AAAA", base64.StdEncoding.EncodeToString(signature)} {
		s.ask("POST", "/leaks", "", message, "Github-Public-Key-Identifier: k1", "Github-Public-Key-Signature: "+sign)
	}
	s.ask("GET", "/", found.Key, "").expect(s.t, 401)
	if _, err := s.cli(leaked.Key+"x", "keys", "revoke", "--secret"); err == nil {
		s.t.Error("an unknown secret was revoked")
	}
}

// strangers come with credentials that are none, and with those of others.
func (s *secretsRun) strangers(k mgmt.Key) {
	wrong := func(name string) string { return s.random("wrong "+name, "wrong_") }
	basic := base64.StdEncoding.EncodeToString([]byte(wrong("user") + ":" + wrong("password")))
	for _, path := range []string{"/v1/things", "/caddy/v1/things", keysPath, providerKeysPath} {
		for _, header := range []string{"Authorization: Bearer " + wrong("bearer"), "X-API-Key: " + wrong("header"), "Authorization: Basic " + basic,
			"Authorization: Bearer " + k.Key[:len(k.Key)-1] + "~", "X-API-Key: " + k.Key + k.Key} {
			s.ask("GET", path, "", "", header, "Cookie: session="+wrong("cookie"), "Proxy-Authorization: Bearer "+wrong("proxy"),
				"X-Auth-Token: "+wrong("X-Auth-Token"), "X-Provider-Key-ElevenLabs: "+wrong("provider key")).expect(s.t, 401)
		}
		s.ask("GET", path+"?token="+wrong("parameter")+"&access_token="+wrong("access_token")+"&api_key="+wrong("api_key"), "", "").expect(s.t, 401)
		s.ask("GET", path, k.Key, "", "Authorization: Bearer "+wrong("second")).expect(s.t, 400)
	}
	s.broken("/v1/things", "X-API-Key: "+k.Key, "X-API-Key: "+wrong("header twice"))
	s.broken("/v1/things", "X-API-Key : "+wrong("header with a space"))
	s.broken("/v1/things?token="+wrong("parameter of a bad request")+" x", "Host: twice")
}

// moved are keys of other products, imported and learned.
func (s *secretsRun) moved() {
	plain, hashed, slow, short := s.foreign("foreign key", "sk_old_"), s.foreign("foreign key, hashed", "sk_old_"), s.foreign("foreign key, bcrypt", "sk_old_"), "tiny"
	sum := sha256.Sum256([]byte(hashed))
	hash, err := bcrypt.GenerateFromPassword([]byte(slow), bcrypt.MinCost)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.in, "old.csv")
	lines := fmt.Sprintf("tenant,key,sha256,hash,hint\nmoved,%s,,,\nmoved,,%x,,\nmoved,,,%s,sk_old_\nmoved,%s,,,\nno such tenant,%s,,,\n", plain, sum, hash, short,
		s.foreign("foreign key, refused", "sk_old_"))
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		s.t.Fatal(err)
	}
	_, _ = s.cli("", "keys", "import", file, "--dry-run", "--create-tenants", "--json")
	if _, err := s.cli("", "keys", "import", file, "--create-tenants", "--report", s.dir+"/refused.ndjson"); err == nil {
		s.t.Error("the import refused nothing")
	}
	for _, key := range []string{plain, hashed, slow, s.foreign("learned key", "sk_learn_")} {
		s.ask("GET", "/v1/things", key, "").expect(s.t, 200)
		s.ask("GET", "/v1/me", key, "").expect(s.t, 200)
	}
}

// providerKeys brings provider keys in all ways and has them verified.
func (s *secretsRun) providerKeys(k mgmt.Key) {
	providers := []string{"elevenlabs", "openai", "garbled", "closing", "refusing", "failing"}
	for i, name := range providers {
		first := s.random("first key for "+name, "sk_")
		if i%2 == 0 {
			s.must(first+"\n", "provider-keys", "set", "acme", name)
		} else {
			s.ask("POST", providerKeysPath, k.Key, fmt.Sprintf(`{"provider":%q,"api_key":%q}`, name, first)).expect(s.t, 201)
		}
		s.ask("POST", providerKeysPath, k.Key, fmt.Sprintf(`{"provider":%q,"api_key":%q}`, name, s.random("key for "+name, "sk_"))).expect(s.t, 200)
		s.ask("GET", "/v1/say", k.Key, "", "X-Provider: "+name).expect(s.t, 200)
		s.ask("GET", "/v1/say", k.Key, "", "X-Provider: "+name, "X-Provider-Key-"+name+": "+s.random("sent key for "+name, "sk_")).expect(s.t, 200)
		if i%2 == 0 {
			_, _ = s.cli("", "provider-keys", "verify", "acme", name)
		} else {
			s.ask("POST", providerKeysPath+"/"+name+"/verify", k.Key, "")
		}
	}
	if sent := s.upstream.last(s.t).Header; !strings.HasPrefix(sent.Get("X-Provider-Key-Failing"), "sk_") {
		s.t.Errorf("the API got %v", sent)
	}
	for range 8 { // until it has asked too often
		_, _ = s.cli("", "provider-keys", "verify", "acme", "garbled", "--json")
	}
	secret := func(name string) string { return s.random("provider key, "+name, "sk_") }
	for _, body := range []string{`{"provider":"` + secret("as a name") + `","api_key":"x"}`, `{"provider":"openai","api_key":"` + secret("with a space") + ` "}`,
		`{"provider":"openai","apikey":"` + secret("wrong member") + `"}`, `{"` + secret("as a member") + `":1}`, `{"provider":"openai","api_key":["` + secret("in a list") + `"]}`,
		`{"provider":"openai","api_key":"` + secret("broken off")} {
		s.ask("POST", providerKeysPath, k.Key, body).expect(s.t, 400)
	}
	s.ask("GET", "/v1/say", k.Key, "", "X-Provider-Key-Unheard-Of: "+secret("of an unknown provider")).expect(s.t, 200)
	s.ask("GET", "/v1/say", k.Key, "", "X-Provider-Key-OpenAI: "+secret("malformed")+" x").expect(s.t, 400)
	s.broken("/v1/say", "X-API-Key: "+k.Key, "X-Provider-Key-OpenAI: "+secret("twice, a"), "X-Provider-Key-OpenAI: "+secret("twice, b"))
	for _, args := range [][]string{{"acme", strings.ToUpper(secret("as an argument"))}, {"acme", "nobody"}, {"nobody", "openai"}} {
		if _, err := s.cli(secret("of a command"), append([]string{"provider-keys", "set"}, args...)...); err == nil {
			s.t.Errorf("%v: no error", args)
		}
	}
	s.must("", "provider-keys", "list", "acme", "--json")
	s.ask("GET", providerKeysPath, k.Key, "").expect(s.t, 200)
	s.must("", "provider-keys", "delete", "acme", "closing")
	s.ask("DELETE", providerKeysPath+"/refusing", k.Key, "").expect(s.t, 204)
}

// failures makes Caddy log requests as errors.
func (s *secretsRun) failures(k mgmt.Key) {
	for _, base := range []string{"", "/caddy"} {
		for _, path := range []string{"/500", "/502", "/drop", "/garbled", "/half"} {
			s.broken(base+path+"?page=2&token="+k.Key, "X-Provider: openai", "X-Provider-Key-OpenAI: "+s.random("key to "+path, "sk_"),
				"X-Provider-Key-Other: "+s.random("other key to "+path, "sk_"), "Cookie: session="+s.random("cookie to "+path, ""))
		}
	}
	s.ask("GET", "/strip/v1/things?token="+k.Key, "", "").expect(s.t, 200)
	s.api("GET", "/echo", k.Key, "", "X-Provider: elevenlabs", "X-Provider-Key-ElevenLabs: "+s.random("key that is sent back", "sk_")).expect(s.t, 200)
	s.broken("/panic", "X-API-Key: "+k.Key, "X-Provider-Key-OpenAI: "+s.random("key to the panic", "sk_"))
	addr := s.upstream.addr
	s.upstream.addr = freeAddr(s.t) // where nobody listens
	s.reload("first.key")
	s.broken("/v1/say", "X-API-Key: "+k.Key, "X-Provider-Key-OpenAI: "+s.random("key to nobody", "sk_"))
	s.broken("/caddy/v1/say?token="+k.Key, "X-Provider-Key-OpenAI: "+s.random("key to nobody, as an error", "sk_"))
	s.upstream.addr = addr
	s.reload("first.key")
}

// reload puts a configuration in force by the admin endpoint, which is replaced
// as well: it is stopped in the background, and says when it is.
func (s *secretsRun) reload(masters ...string) {
	s.t.Helper()
	stops := func() int {
		log, _ := os.ReadFile(filepath.Join(s.dir, "default.log"))
		return strings.Count(string(log), "stopped previous server")
	}
	before := stops()
	s.door("POST", "/load", "text/caddyfile", s.caddyfile(masters...))
	eventually(s.t, "the old admin endpoint stops", func() bool { return stops() > before })
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // they are the old server's
}

// rotateMaster replaces the master key while Caddy runs.
func (s *secretsRun) rotateMaster(k mgmt.Key) {
	s.reload("second.key", "first.key")
	s.must("", "rekey")
	s.must("", "backup", s.dir+"/between.db")
	s.door("GET", "/config/", "", "")
	s.reload("second.key")
	s.ask("GET", "/v1/say", k.Key, "", "X-Provider: elevenlabs").expect(s.t, 200)
	s.stop()
	s.start("second.key")
	s.ask("GET", "/v1/say", k.Key, "", "X-Provider: elevenlabs").expect(s.t, 200)
}

// operate looks at everything that an operator can look at.
func (s *secretsRun) operate(k mgmt.Key) {
	for _, args := range [][]string{{"status"}, {"tenants", "list"}, {"tenants", "show", "acme"}, {"keys", "list"}, {"keys", "show", k.ID}, {"audit", "list", "--all"},
		{"audit", "verify"}, {"usage"}, {"credits", "show", "acme"}, {"credits", "history", "acme"}, {"provider-keys", "list", "acme"}} {
		s.must("", args...)
		s.must("", append(args, "--json")...)
	}
	s.must("", "backup", s.dir+"/backup.db")
	s.must("", "export", s.dir+"/export.ndjson")
	s.must("", "import", s.dir+"/export.ndjson", "--dry-run")
	for _, path := range []string{"/config/", "/metrics", "/reverse_proxy/upstreams", "/debug/vars", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1",
		"/keytoll/v1/status", "/keytoll/v1/tenants", "/keytoll/v1/keys", "/keytoll/v1/keys/" + k.ID, "/keytoll/v1/audit?limit=100", "/keytoll/v1/usage",
		"/keytoll/v1/tenants/acme/provider-keys", "/keytoll/v1/export"} {
		s.door("GET", path, "", "")
	}
	var usage map[string]any
	if err := json.Unmarshal([]byte(s.ask("GET", "/v1/usage", k.Key, "").expect(s.t, 200).body), &usage); err != nil {
		s.t.Error(err)
	}
	eventually(s.t, "usage is exported", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.got["sent to /events"]) > 0
	})
}
