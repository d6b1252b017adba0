package caddymodule

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// gateway is a real Caddy with keytoll in front of a recording upstream. There
// is one Caddy in a process, so tests that use it are not parallel.
type gateway struct {
	t        testing.TB
	url      string
	addr     string
	dir      string
	upstream *upstream
	config   string
}

// newGateway runs Caddy with the given keytoll global options and site body. In
// the body, {upstream} and {dir} stand for the address of the upstream and the
// directory of the test. The database is in a
// directory of the test.
func newGateway(t testing.TB, options, site string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), addr: freeAddr(t), upstream: newUpstream(t)}
	g.url = "http://" + g.addr
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	g.load(options, site)
	return g
}

// text makes a Caddyfile.
func (g *gateway) text(options, site string) string {
	site = strings.NewReplacer("{upstream}", g.upstream.addr, "{dir}", g.dir).Replace(site)
	return fmt.Sprintf(`{
	admin off
	persist_config off
	log {
		output file %s/caddy.log
		level DEBUG
		format filter {
			request keytoll
		}
	}
	keytoll {
		storage bolt {
			path %[1]s/keytoll.db
		}
		%s
	}
}
%s {
%s
}
`, g.dir, options, g.url, site)
}

// load puts another configuration in force: whoever asks when it has returned
// asks that one. hangUp says why, and for which connections.
func (g *gateway) load(options, site string) {
	g.t.Helper()
	if err := g.tryLoad(g.text(options, site)); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) tryLoad(text string) error {
	cfg, err := adapt(text)
	if err != nil {
		return err
	}
	if cfg, err = hangsUp(cfg); err != nil {
		return err
	}
	g.config = text
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections() // they are the old server's
	return caddy.Load(cfg, true)
}

// adapt turns a Caddyfile into JSON.
func adapt(text string) ([]byte, error) {
	cfg, _, err := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return cfg, err
}

// lastPort is the port that freeAddr gave last.
var lastPort atomic.Uint32

func init() { lastPort.Store(10_000 + rand.Uint32N(15_000)) }

// freeAddr returns an address that Caddy can listen on, for TCP and UDP. Its
// port is below those that systems give to outgoing connections and to
// listeners on port 0 (32768 and up on Linux, 49152 and up elsewhere), as one
// of those could be taken by any connection of the tests that run meanwhile,
// and it is given once in a process.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+lastPort.Add(1)%20_000)
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		tcp.Close()
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		udp.Close()
		return addr
	}
	t.Fatal("no free port between 10000 and 30000")
	return ""
}

// registrar returns the one of the running configuration.
func (g *gateway) registrar() *registrar.Registrar {
	g.t.Helper()
	reg, err := activeRegistrar()
	if err != nil {
		g.t.Fatal(err)
	}
	return reg
}

// key creates a key of a tenant, which is created as well if need be, and
// returns its id and secret.
func (g *gateway) key(tenant string, req registrar.CreateKeyRequest) (access.KeyID, string) {
	g.t.Helper()
	ctx := context.Background()
	if err := g.registrar().EnsureTenant(ctx, registrar.CreateTenantRequest{ID: tenant}); err != nil {
		g.t.Fatal(err)
	}
	req.Tenant = tenant
	key, secret, err := g.registrar().CreateKey(ctx, req)
	if err != nil {
		g.t.Fatal(err)
	}
	return key.ID, secret.Reveal()
}

// answer is what a client got.
type reply struct {
	*http.Response
	body string
}

// code returns the error code in the body.
func (r reply) code() string {
	var v struct {
		Error struct{ Code string }
	}
	_ = json.Unmarshal([]byte(r.body), &v)
	return v.Error.Code
}

// do sends a request with headers given as "Name: value".
func (g *gateway) do(method, path string, headers ...string) reply {
	g.t.Helper()
	req, err := http.NewRequest(method, g.url+path, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header[name] = append(req.Header[name], value)
	}
	return g.send(req)
}

func (g *gateway) send(req *http.Request) reply {
	g.t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		g.t.Fatal(err)
	}
	return g.reply(resp)
}

// reply reads the whole response.
func (g *gateway) reply(resp *http.Response) reply {
	g.t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return reply{resp, string(b)}
}

// raw sends bytes as they stand and returns what comes back until the server
// closes or answers once.
func (g *gateway) raw(text string) (reply, error) {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
		return reply{}, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp, string(b)}, err
}

// expect fails unless the reply has this status.
func (r reply) expect(t testing.TB, status int) reply {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("status %d, want %d; body %q, headers %v", r.StatusCode, status, r.body, r.Header)
	}
	return r
}

// log returns what Caddy logged so far.
func (g *gateway) log() string {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, "caddy.log"))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// seen is what the upstream saw of one request.
type seen struct {
	Method, URI, Host string
	Header, Trailer   http.Header
	Length            int64
	Sum               string // SHA-256 of the body
}

// upstream records every request and answers 200 with a short body, or as
// handle says.
type upstream struct {
	addr   string
	server *httptest.Server

	mu     sync.Mutex
	all    []seen
	handle func(http.ResponseWriter, *http.Request) bool // true: answered
}

func newUpstream(t testing.TB) *upstream {
	u := new(upstream)
	u.server = httptest.NewServer(u)
	u.addr = u.server.Listener.Addr().String()
	t.Cleanup(u.server.Close)
	return u
}

// ServeHTTP records and answers.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	handle := u.handle
	u.mu.Unlock()
	if handle != nil && handle(w, r) {
		u.record(r, 0, "")
		return
	}
	sum := sha256.New()
	n, _ := io.Copy(sum, r.Body)
	u.record(r, n, hex.EncodeToString(sum.Sum(nil)))
	_, _ = io.Copy(w, bytes.NewReader([]byte("hello from the api\n")))
}

func (u *upstream) record(r *http.Request, n int64, sum string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.all = append(u.all, seen{r.Method, r.RequestURI, r.Host, r.Header.Clone(), r.Trailer.Clone(), n, sum})
}

// respond sets what answers from now on.
func (u *upstream) respond(f func(http.ResponseWriter, *http.Request) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handle = f
}

// count returns how many requests came.
func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.all)
}

// last returns the newest request.
func (u *upstream) last(t testing.TB) seen {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.all) == 0 {
		t.Fatal("the upstream saw nothing")
	}
	return u.all[len(u.all)-1]
}
