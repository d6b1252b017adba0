package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func init() {
	caddy.RegisterModule(panics{})
	httpcaddyfile.RegisterHandlerDirective("test_panic", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return panics{}, nil })
}

// panics is a handler with a bug.
type panics struct{}

func (panics) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.test_panic", New: func() caddy.Module { return new(panics) }}
}

func (panics) ServeHTTP(http.ResponseWriter, *http.Request, caddyhttp.Handler) error {
	panic("a bug of a handler")
}

// secretsRun is a Caddy in a process of its own that writes all it can below one
// directory, what stands around it, and what came out.
type secretsRun struct {
	*gateway
	hunt
	out     evidence
	in      string // directory of what it is given: nothing of that counts as written
	admin   string // address of its admin endpoint
	back    *httptest.Server
	scanner *ecdsa.PrivateKey // of a programme that looks for leaked keys
	cmd     *exec.Cmd
	starts  int

	mu  sync.Mutex
	got evidence // of servers around it
}

const secretsConfig = `{
	admin {admin}
	metrics {
		per_host
	}
	servers {
		trace
		listener_wrappers {
			hang_up
		}
	}
	log {
		output file {dir}/default.log
		level DEBUG
		format filter {
			request keytoll
			resp_headers keytoll
			headers keytoll
			uri keytoll
		}
	}
	keytoll {
		storage bolt {
			path {dir}/keytoll.db
		}
		{masters}
		keys {
			prefix ak_live_ live
			rotate_grace 1h
		}
		plan pro {
			rate 100000/1m
			credits 100000/month
		}
		default_plan pro
		throttle_failures off
		provider elevenlabs {
			header X-Provider-Key-ElevenLabs
			inject Xi-Api-Key {keytoll.provider_key}
			verify GET {back}/verify/good Xi-Api-Key {keytoll.provider_key}
			allow_private
		}
		provider openai {
			header X-Provider-Key-OpenAI
			inject Authorization "Bearer {keytoll.provider_key}"
			verify GET {back}/verify/moved Authorization "Bearer {keytoll.provider_key}"
			allow_private
		}
		provider garbled {
			header X-Provider-Key-Garbled
			verify POST {back}/verify/garbled X-Key {keytoll.provider_key}
			allow_private
		}
		provider closing {
			header X-Provider-Key-Closing
			verify GET {back}/verify/closing X-Key {keytoll.provider_key}
			allow_private
		}
		provider refusing {
			header X-Provider-Key-Refusing
			verify GET {back}/verify/refusing X-Key {keytoll.provider_key}
			allow_private
		}
		provider failing {
			header X-Provider-Key-Failing
			verify GET {back}/verify/failing X-Key {keytoll.provider_key}
			allow_private
		}
		metering {
			export http {back}/events Authorization {env.KEYTOLL_TEST_EXPORT}
		}
		learn {
			check GET {back}/whoami
			header X-Key {key}
			header X-Internal {env.KEYTOLL_TEST_LEARN}
			tenant header:X-Org
			until 2999-01-01T00:00:00Z
			rate 1000/1s
		}
	}
}
{url} {
	log {
		output file {dir}/access.log
		format filter {
			request keytoll
			resp_headers keytoll
			headers keytoll
			uri keytoll
		}
	}
	tracing {
		span run
		span_attributes {
			tenant {http.keytoll.tenant.id}
			key {http.keytoll.key.id}
		}
	}
	keytoll_api keys {
		base /v1/api-keys
		key_from bearer header:X-API-Key query:token
	}
	keytoll_api me {
		base /v1/me
	}
	keytoll_api usage {
		base /v1/usage
	}
	keytoll_api provider_keys {
		base /v1/provider-keys
	}
	keytoll_api leaks {
		base /leaks
		public_key k1 {in}/scanner.pem
	}
	handle /caddy/* {
		keytoll {
			key_from bearer header:X-API-Key basic query:token
			errors caddy
			byok
		}
		reverse_proxy {upstream}
	}
	handle /panic {
		route {
			keytoll {
				byok
			}
			test_panic
		}
	}
	handle_path /strip/* {
		keytoll {
			key_from query:token
		}
		reverse_proxy {upstream}
	}
	handle {
		keytoll {
			key_from bearer header:X-API-Key basic query:token
			charge 1
			byok {
				from {http.request.header.X-Provider}
			}
		}
		reverse_proxy {upstream}
	}
}
`

func newSecretsRun(t *testing.T) *secretsRun {
	s := &secretsRun{out: make(evidence), got: make(evidence), in: t.TempDir(), admin: freeAddr(t)}
	s.gateway = &gateway{t: t, dir: t.TempDir(), addr: freeAddr(t), upstream: newUpstream(t)}
	s.url = "http://" + s.addr
	s.upstream.respond(misbehave)
	s.scanner = newScanner(t, filepath.Join(s.in, "scanner.pem"))
	s.back = httptest.NewServer(s)
	t.Cleanup(s.back.Close)
	return s
}

// newScanner makes a key that messages are signed with, and the file of its
// public part.
func newScanner(t *testing.T, file string) *ecdsa.PrivateKey {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return private
}

// misbehave is an API that fails in the ways that are logged.
func misbehave(w http.ResponseWriter, r *http.Request) bool {
	switch strings.TrimPrefix(r.URL.Path, "/caddy") {
	case "/500", "/502":
		w.Header().Set("Set-Cookie", "upstream=1")
		status := http.StatusInternalServerError
		if strings.HasSuffix(r.URL.Path, "2") {
			status = http.StatusBadGateway
		}
		http.Error(w, "no", status)
	case "/drop", "/garbled":
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return false
		}
		if strings.HasSuffix(r.URL.Path, "garbled") {
			_, _ = io.WriteString(conn, "this is not HTTP\r\n\r\n")
		}
		conn.Close()
	case "/echo":
		key := r.Header.Get("Xi-Api-Key")
		w.Header().Set("Xi-Api-Key", key)
		w.Header().Set("Location", "/?api_key="+key)
		w.Header().Set("Set-Cookie", "key="+key)
	case "/half":
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	default:
		return false
	}
	return true
}

// ServeHTTP is what stands around Caddy: a collector of traces and one of usage,
// the API that knows the keys of before, and providers that are asked whether a
// key is good. Some of them send back the key that they got.
func (s *secretsRun) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	key := strings.TrimPrefix(r.Header.Get("X-Key")+r.Header.Get("Xi-Api-Key")+r.Header.Get("Authorization"), "Bearer ")
	switch r.URL.Path {
	case "/v1/traces", "/events":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got.add("sent to "+r.URL.Path, string(body))
	case "/whoami":
		w.Header().Set("X-Org", "learned")
		if !strings.HasPrefix(key, "sk_learn_") {
			http.Error(w, key, http.StatusUnauthorized)
		}
	case "/verify/moved":
		w.Header().Set("Location", "/verify/good?key="+key)
		w.WriteHeader(http.StatusFound)
	case "/verify/garbled", "/verify/closing":
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		if r.Method == "POST" {
			_, _ = io.WriteString(conn, "HTTP/1.1 "+key+" "+key+"\r\n"+key+"\r\n\r\n")
		}
		conn.Close()
	case "/verify/refusing":
		http.Error(w, key, http.StatusUnauthorized)
	case "/verify/failing":
		http.Error(w, key, http.StatusInternalServerError)
	}
}

// random returns a new secret.
func (s *secretsRun) random(name, prefix string) string {
	return s.made(s.t, name, prefix, rand.Text())
}

// foreign returns a key as other products make them. Lists show its prefix and
// six characters.
func (s *secretsRun) foreign(name, prefix string) string {
	return s.secret(s.t, name, prefix+rand.Text(), len(prefix)+shownOfKey, 0)
}

// masterFile makes a file with a new master key.
func (s *secretsRun) masterFile(name string) {
	s.t.Helper()
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	s.secret(s.t, name, string(raw), 0, 0)
	if err := os.WriteFile(filepath.Join(s.in, name), []byte(base64.StdEncoding.EncodeToString(raw)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// caddyfile makes the configuration with the named master keys.
func (s *secretsRun) caddyfile(masters ...string) string {
	var lines strings.Builder
	for _, name := range masters {
		fmt.Fprintf(&lines, "master_key {file.%s/%s}\n", s.in, name)
	}
	return strings.NewReplacer("{admin}", s.admin, "{dir}", s.dir, "{in}", s.in, "{url}", s.url, "{upstream}", s.upstream.addr,
		"{back}", s.back.URL, "{masters}", lines.String()).Replace(secretsConfig)
}

// start runs Caddy and waits for it. What it says is in files too.
func (s *secretsRun) start(masters ...string) {
	s.t.Helper()
	config := filepath.Join(s.in, "Caddyfile")
	if err := os.WriteFile(config, []byte(s.caddyfile(masters...)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.starts++
	cmd := exec.Command(os.Args[0], "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "KEYTOLL_TEST_COMMAND=1", "HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir+"/config", "XDG_DATA_HOME="+s.dir+"/data",
		"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT="+s.back.URL, "OTEL_BSP_SCHEDULE_DELAY=100",
		"KEYTOLL_TEST_LEARN="+s.secretOnce("token for the API of before"), "KEYTOLL_TEST_EXPORT="+s.secretOnce("token of the collector"))
	for name, to := range map[string]*io.Writer{"stdout": &cmd.Stdout, "stderr": &cmd.Stderr} {
		file, err := os.Create(filepath.Join(s.dir, fmt.Sprintf("%s%d.txt", name, s.starts)))
		if err != nil {
			s.t.Fatal(err)
		}
		defer file.Close()
		*to = file
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = cmd
	s.t.Cleanup(func() { s.stop() })
	eventually(s.t, "Caddy starts", func() bool {
		_, _, err := keytoll("status", "--address", s.admin)
		return err == nil
	})
}

// secretOnce returns a secret that stays the same for all starts.
func (s *secretsRun) secretOnce(name string) string {
	path := filepath.Join(s.in, strings.ReplaceAll(name, " ", "-"))
	text, err := os.ReadFile(path)
	if err != nil {
		text = []byte(s.random(name, "token_"))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return string(text)
}

// stop ends Caddy as an operator does.
func (s *secretsRun) stop() {
	if s.cmd == nil {
		return
	}
	cmd := s.cmd
	s.cmd = nil
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		text, _ := os.ReadFile(filepath.Join(s.dir, fmt.Sprintf("stderr%d.txt", s.starts)))
		s.t.Errorf("Caddy: %v\n%s", err, text)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// cli runs a command and notes what it writes.
func (s *secretsRun) cli(stdin string, args ...string) (string, error) {
	s.t.Helper()
	out, errs, err := keytollIn(stdin, append(args, "--address", s.admin)...)
	s.out.add("output of commands", out)
	s.out.add("errors of commands", errs)
	return out, err
}

// must is cli for what has to succeed.
func (s *secretsRun) must(stdin string, args ...string) string {
	s.t.Helper()
	out, err := s.cli(stdin, args...)
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, s.out["errors of commands"])
	}
	return out
}

// shown notes a text with the secret that was minted for it, which it shows
// once.
func (s *secretsRun) shown(name, where, text, secret string) string {
	s.t.Helper()
	if strings.Count(text, secret) != 1 {
		s.t.Fatalf("%s shows its secret %d times", name, strings.Count(text, secret))
	}
	s.secret(s.t, name, secret, len("ak_live_")+shownOfKey, 0)
	s.out.add(where, strings.Replace(text, secret, "", 1))
	return secret
}

// mint runs a command that makes a key.
func (s *secretsRun) mint(name string, args ...string) mgmt.Key {
	s.t.Helper()
	out, errs, err := keytoll(append(args, "--json", "--address", s.admin)...)
	var k mgmt.Key
	if err != nil || json.Unmarshal([]byte(out), &k) != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, errs)
	}
	s.out.add("errors of commands", errs)
	s.shown(name, "output of commands", out, k.Key)
	return k
}

// ask sends a request and notes the answer.
func (s *secretsRun) ask(method, path, key, body string, headers ...string) reply {
	s.t.Helper()
	r := s.api(method, path, key, body, headers...)
	s.out.add("answers", fmt.Sprintln(r.Status, r.Header, r.body))
	return r
}

// create sends a request whose answer shows a new secret.
func (s *secretsRun) create(name, path, key, body string, headers ...string) reply {
	s.t.Helper()
	r := s.api("POST", path, key, body, headers...)
	if r.StatusCode/100 != 2 {
		s.t.Fatalf("%s: %s", name, r.body)
	}
	s.shown(name, "answers", fmt.Sprintln(r.Status, r.Header, r.body), r.text(s.t, "key"))
	return r
}

// broken sends a request whose answer may break off.
func (s *secretsRun) broken(path string, headers ...string) {
	s.t.Helper()
	r, err := s.raw("GET " + path + " HTTP/1.1\nHost: " + s.addr + "\nConnection: close\n" + strings.Join(headers, "\n") + "\n\n")
	if r.Response != nil {
		s.out.add("answers", fmt.Sprintln(r.Status, r.Header, r.body, err))
	}
}

// door asks the admin endpoint and notes the answer.
func (s *secretsRun) door(method, path, kind, body string) string {
	s.t.Helper()
	resp, err := admin(s.admin)(method, path, http.Header{"Content-Type": {kind}}, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Errorf("%s %s: %s %s %v", method, path, resp.Status, text, err)
	}
	s.out.add("admin "+path, fmt.Sprintln(resp.Status, resp.Header, string(text)))
	return string(text)
}
