package caddymodule

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// While keys are learned, the existing backend still accepts secrets that were
// rotated away here. They stay dead.
func TestLearningRevivesNoDeadSecret(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Org", "acme")
	}))
	defer backend.Close()
	g := newGateway(t, `learn {
		check get `+backend.URL+`/whoami
		header X-Api-Key {key}
		tenant header:X-Org
		until 2999-01-31T00:00:00Z
	}`, plainGate)
	const old = "sk_live_0123456789abcdef"
	g.do("GET", "/", "X-Api-Key: "+old).expect(t, 200)
	id := onlyKey(t, g, "acme")
	for _, grace := range []time.Duration{time.Second, 0} {
		if _, err := g.registrar().RotateKey(t.Context(), id, registrar.RotateRequest{Grace: &grace}); err != nil {
			t.Fatal(err)
		}
	}
	r := g.do("GET", "/", "X-Api-Key: "+old)
	r.expect(t, 401)
}

// lingerer answers in full and goes on for as long as the request does.
type lingerer struct{}

func init() {
	caddy.RegisterModule(new(lingerer))
	httpcaddyfile.RegisterHandlerDirective("review_linger", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return new(lingerer), nil
	})
}

func (*lingerer) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.review_linger", New: func() caddy.Module { return new(lingerer) }}
}

func (*lingerer) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	w.Header().Set("Content-Length", "5")
	fmt.Fprint(w, "hello")
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
	return nil
}

// The connection of a request whose key ended meanwhile is closed, even if the
// answer was complete: the deadline that ended it would hit the next request.
func TestEndedRequestEndsItsConnection(t *testing.T) {
	g := newGateway(t, "", "route {\n keytoll\n review_linger\n}")
	id, key := g.key("acme", hourly(10))
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(hangGuard))
	request := "GET / HTTP/1.1\r\nHost: " + g.addr + "\r\nX-API-Key: "
	fmt.Fprint(conn, request+key+"\r\n\r\n")
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "hello" {
		t.Fatal(string(body), err)
	}
	if _, err := g.registrar().RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if c, err := br.ReadByte(); err == nil {
		t.Fatalf("the connection goes on with %q", c)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatal("the connection stays open")
	}
}

// A refusal at the tenant's door does not wait for a body that nobody reads,
// and lets go of the connection.
func TestDoorRefusalsWaitForNoBody(t *testing.T) {
	g := newGateway(t, guardedOptions, guardedSite)
	_, key := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"read"}})
	_, manager := g.key("acme", registrar.CreateKeyRequest{Permissions: []string{"keys:manage"}})
	for _, c := range []struct {
		name, line, key, body string
		length, status        int
	}{
		{"no permission", "POST " + keysPath, key, "", 100, 403},
		{"no path", "POST " + keysPath + "/a/b/c", manager, "", 100, 404},
		{"no method", "PUT " + keysPath, manager, "", 100, 405},
		{"no parameter", "POST " + keysPath + "?x=1", manager, "", 100, 400},
		{"delete", "DELETE " + keysPath + "/nobody", manager, "", 100, 404},
		{"too large", "POST " + keysPath, manager, strings.Repeat(" ", 64<<10+1), 1 << 20, 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			r, err := g.raw(c.line + " HTTP/1.1\nHost: " + g.addr + "\nX-API-Key: " + c.key +
				"\nContent-Type: application/json\nContent-Length: " + fmt.Sprint(c.length) + "\n\n" + c.body)
			if err != nil {
				t.Fatal(err, time.Since(start))
			}
			r.expect(t, c.status)
			if !r.Close {
				t.Error("the connection goes on with the body unread")
			}
		})
	}
}

// Whoever is not known to sign messages is answered before his message is
// read.
func TestUnsignedMessageIsNotRead(t *testing.T) {
	dir := t.TempDir()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, "", "keytoll_api leaks {\n base /leaks\n public_key k1 "+file+"\n}\nrespond 404")
	for line, status := range map[string]int{"POST /leaks": 401, "PUT /leaks": 405} {
		r, err := g.raw(line + " HTTP/1.1\nHost: " + g.addr + "\nContent-Length: 1000000\n\n")
		if err != nil {
			t.Fatal(err)
		}
		if r.expect(t, status); !r.Close {
			t.Errorf("%s: the connection goes on with the body unread", line)
		}
	}
}

// What this gateway and the API could read in two ways is no tenant's.
func TestGuardRefusesAmbiguousQueries(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n tenant_guard {query.org}\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", hourly(100))
	for query, status := range map[string]int{
		"org=acme":               200,
		"org=other":              403,
		"org=acme&org=other":     403,
		"org=acme&x=1;org=other": 403,
		"org=acme&org=other%zz":  403,
		"x=1;org=acme":           403,
	} {
		if r := g.do("GET", "/?"+query, "X-Api-Key: "+key); r.StatusCode != status {
			t.Errorf("%s: %d, want %d", query, r.StatusCode, status)
		}
	}
}

// onlyKey returns the one key of a tenant.
func onlyKey(t *testing.T, g *gateway, tenant string) access.KeyID {
	t.Helper()
	keys, _, err := g.registrar().Keys(t.Context(), registrar.KeyFilter{Tenant: tenant}, access.KeyID{}, 0)
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	return keys[0].ID
}
