package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// bareGate is a gate without a server around it, as Caddy provisions it.
type bareGate struct {
	t       testing.TB
	handler *Handler
	server  *caddyhttp.Server
	dir     string
}

// newBareGate provisions a gate with these members of the app and of the gate.
// It does not start the app.
func newBareGate(t testing.TB, dir, app, gate string) *bareGate {
	t.Helper()
	if app != "" {
		app = "," + app
	}
	storage := fmt.Sprintf(`"storage":{"backend":"bolt","path":%q}`, filepath.Join(dir, "keytoll.db"))
	var cfg caddy.Config
	if err := json.Unmarshal(adaptJSON(storage+app, gate), &cfg); err != nil {
		t.Fatal(err)
	}
	// The log of the process goes nowhere.
	cfg.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR", WriterRaw: []byte(`{"output":"discard"}`)}}}}
	ctx, err := caddy.ProvisionContext(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	server := mod.(*caddyhttp.App).Servers["s"]
	return &bareGate{t, server.Routes[0].Handlers[0].(*Handler), server, dir}
}

// start opens the engine, until the test ends.
func (b *bareGate) start() {
	b.t.Helper()
	if err := b.handler.app.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := b.handler.app.Cleanup(); err != nil {
			b.t.Error(err)
		}
	})
}

func (b *bareGate) key(req registrar.CreateKeyRequest) (access.KeyID, string) {
	b.t.Helper()
	reg := b.handler.app.registrar.Load()
	req.Tenant = "acme"
	if err := reg.EnsureTenant(context.Background(), registrar.CreateTenantRequest{ID: "acme"}); err != nil {
		b.t.Fatal(err)
	}
	k, secret, err := reg.CreateKey(context.Background(), req)
	if err != nil {
		b.t.Fatal(err)
	}
	return k.ID, secret.Reveal()
}

// request is a prepared request with a key from this machine.
func (b *bareGate) request(key string) *http.Request {
	r := httptest.NewRequest("GET", "http://localhost/v1/things?page=2", nil)
	r.RemoteAddr = "127.0.0.1:4711"
	r.Header.Set("User-Agent", "client/1.0")
	r.Header.Set("Accept", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nullWriter{}, b.server)
}

// nullWriter is a response writer that can be used again.
type nullWriter struct{ header http.Header }

func (w nullWriter) Header() http.Header         { return w.header }
func (w nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w nullWriter) WriteHeader(int)             {}

var nextOK = caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusOK)
	return nil
})

const allocThrottleOff = `"throttle_failures":{"off":true}`

// refusals returns a request for each reason the gate refuses for, by the
// reason.
func (b *bareGate) refusals() map[access.Reason]*http.Request {
	revoked, r := b.key(registrar.CreateKeyRequest{})
	if _, err := b.handler.app.registrar.Load().RevokeKey(context.Background(), revoked); err != nil {
		b.t.Fatal(err)
	}
	_, limited := b.key(registrar.CreateKeyRequest{Rate: limitRate(b.t, "1/366d")})
	_ = b.handler.ServeHTTP(nullWriter{http.Header{}}, b.request(limited), nextOK)
	two := b.request(limited)
	two.Header["X-Api-Key"] = []string{"other"}
	trace := b.request("")
	trace.Method = http.MethodTrace
	return map[access.Reason]*http.Request{
		access.Missing: b.request(""), access.Malformed: b.request("kt_" + strings.Repeat("a", 38)), access.Unknown: b.request("sk_of_someone_else_0123456789"),
		access.Revoked: b.request(r), access.RateLimited: b.request(limited), access.Ambiguous: two, access.MethodNotAllowed: trace,
	}
}

func TestRefusalDoesNotAllocateInTheGate(t *testing.T) {
	for _, throttle := range []string{allocThrottleOff, `"throttle_failures":{"requests":1000000,"window":"1s"}`} {
		b := newBareGate(t, t.TempDir(), throttle, "")
		b.start()
		e := b.handler.app.engine.Load()
		for want, r := range b.refusals() {
			got := access.Allowed
			n := testing.AllocsPerRun(1000, func() {
				var c gate.Call
				var asks gate.Asks
				c.Started = e.Limiter.Now()
				c.Secure = secure(r)
				b.handler.gate.Decide(&e.State, r, &c, &asks)
				got = c.Reason
			})
			if got != want {
				t.Errorf("reason %s, want %s", got, want)
			}
			if n != 0 && !allocRace {
				t.Errorf("%s: %v allocations", want, n)
			}
		}
		if err := b.handler.app.Cleanup(); err != nil {
			t.Error(err)
		}
		b.handler.app.engine.Store(nil) // cleaned up
	}
}

func TestRefusalAllocations(t *testing.T) {
	b := newBareGate(t, t.TempDir(), allocThrottleOff, "")
	b.start()
	for reason, r := range b.refusals() {
		w := nullWriter{http.Header{}}
		n := testing.AllocsPerRun(1000, func() {
			clear(w.header)
			if err := b.handler.ServeHTTP(w, r, nextOK); err != nil {
				t.Error(err)
			}
		})
		ceiling := 0.0
		if reason == access.RateLimited {
			ceiling = 3 // Retry-After, and the numbers of the limit
		}
		if n > ceiling && !allocRace {
			t.Errorf("%s: %v allocations, at most %v", reason, n, ceiling)
		}
	}
}

const allocInject = `"inject":[{"header":"X-Plan","value":"{http.keytoll.plan}"},{"header":"X-Environment","value":"{http.keytoll.environment}"},{"header":"X-Gate","value":"keytoll"}]`

const allocApp = allocThrottleOff + `,"prefixes":[{"prefix":"ak_live_","environment":"live"}],"plans":{"free":{"rates":[{"requests":1000000,"window":"1s"}]}},"default_plan":"free"`

func TestAdmittedAllocations(t *testing.T) {
	b := newBareGate(t, t.TempDir(), allocApp, allocInject)
	b.start()
	_, key := b.key(registrar.CreateKeyRequest{})
	w := nullWriter{http.Header{}}
	var seen http.Header
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		seen = r.Header
		w.WriteHeader(http.StatusOK)
		return nil
	})
	measure := func(serve func(http.ResponseWriter, *http.Request) error) float64 {
		return testing.AllocsPerRun(1000, func() {
			clear(w.header)
			if err := serve(w, b.request(key)); err != nil {
				t.Error(err)
			}
		})
	}
	bare := measure(next.ServeHTTP)
	gated := measure(func(w http.ResponseWriter, r *http.Request) error { return b.handler.ServeHTTP(w, r, next) })
	t.Logf("%v allocations above %v", gated-bare, bare)
	if gated-bare > 2 && !allocRace {
		t.Errorf("%v allocations above the next handler, at most 2", gated-bare)
	}
	for _, name := range []string{"X-Tenant-Id", "X-Key-Id", "X-Plan", "X-Environment", "X-Gate"} {
		if seen.Get(name) == "" {
			t.Errorf("%s is not set: %v", name, seen)
		}
	}
	for _, name := range []string{"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} {
		if w.header.Get(name) == "" {
			t.Errorf("%s is not set: %v", name, w.header)
		}
	}
}

// fill adds keys to the index until it holds n, and returns the texts of some.
// They are of one tenant, or with alone each is of its own.
func (b *bareGate) fill(n, some int, alone bool) []string {
	e := b.handler.app.engine.Load()
	texts := make([]string, 0, some)
	_, key := b.key(registrar.CreateKeyRequest{})
	texts = append(texts, key)
	k := access.KeyHead{Alg: 1, Status: access.StatusActive, Tenant: "acme", Environment: "live"}
	for i := 1; i < n; i++ {
		text := "imported-key-of-another-shape-" + strconv.Itoa(i)
		k.Digest = e.Digester.Sum(text)
		copy(k.ID[:], fmt.Sprintf("%0*d", len(k.ID), i))
		if alone {
			k.Tenant = "tenant-" + strconv.Itoa(i)
			e.Index.Apply(store.Change{Tenant: &access.Tenant{ID: k.Tenant, Status: access.StatusActive}})
		}
		e.Index.Apply(store.Change{Key: &k})
		if i%(n/some) == 0 && len(texts) < some {
			texts = append(texts, text)
		}
	}
	return texts
}

const benchmarkKeys = 1_000_000

func BenchmarkRefuse(b *testing.B) {
	g := newBareGate(b, b.TempDir(), allocThrottleOff, "")
	g.start()
	g.fill(benchmarkKeys, 1, false)
	for reason, r := range g.refusals() {
		b.Run(reason.String(), func(b *testing.B) {
			w := nullWriter{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				_ = g.handler.ServeHTTP(w, r, nextOK)
			}
		})
	}
}

func noReplacement(string) (any, bool) { return nil, false }

// BenchmarkAdmit is an admitted request with 5 request headers and 3 rate
// headers; next is what the same loop costs without the gate.
func BenchmarkAdmit(b *testing.B) {
	g := newBareGate(b, b.TempDir(), allocApp, allocInject)
	g.start()
	var requests []*http.Request
	var values [][]string
	for _, text := range g.fill(benchmarkKeys, 1<<10, false) {
		r := g.request(text)
		requests, values = append(requests, r), append(values, r.Header["Authorization"])
	}
	for name, serve := range map[string]func(http.ResponseWriter, *http.Request) error{
		"next": nextOK.ServeHTTP,
		"gate": func(w http.ResponseWriter, r *http.Request) error { return g.handler.ServeHTTP(w, r, nextOK) },
	} {
		b.Run(name, func(b *testing.B) {
			w := nullWriter{http.Header{}}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				clear(w.header)
				r := requests[i%len(requests)]
				for _, in := range g.handler.inject { // what the last turn set no client sent
					delete(r.Header, in.name)
				}
				r.Header["Authorization"] = values[i%len(values)]
				repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
				*repl = *caddy.NewEmptyReplacer()
				repl.Map(noReplacement) // as the server has its own by now: room for another
				repl.Map(noReplacement)
				if err := serve(w, r); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
