package caddymodule

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

const guardStranger = "203.0.113.9:4711"

func TestFailureThrottleDefault(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n allow_http\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for range 60 {
		if w := limitFrom(g, guardStranger, "/", key, nil); w.Code != 200 {
			t.Fatalf("a success counted: %d", w.Code)
		}
	}
	for i := range 30 {
		if w := limitFrom(g, guardStranger, "/", "kt_wrong"+strconv.Itoa(i), nil); w.Code != 401 {
			t.Fatalf("failure %d: %d", i+1, w.Code)
		}
	}
	// One is regained every two seconds, so on a slow machine a few more pass.
	var w *httptest.ResponseRecorder
	for range 200 {
		if w = limitFrom(g, guardStranger, "/", "wrong", nil); w.Code == 429 {
			break
		}
	}
	n, err := strconv.Atoi(w.Header().Get("Retry-After"))
	if w.Code != 429 || err != nil || n < 1 || n > 2 || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("%d, %v", w.Code, w.Header())
	}
	if w.Header().Get("X-RateLimit-Limit") != "" {
		t.Error("the throttle is not a limit that clients are told of")
	}
	// Without a credential nobody guesses, and other addresses are not concerned.
	if w := limitFrom(g, guardStranger, "/", "", nil); w.Code != 401 {
		t.Errorf("no credential: %d", w.Code)
	}
	for _, remote := range []string{"203.0.113.8:1", "[2001:db8::9]:1"} {
		if w := limitFrom(g, remote, "/", "wrong", nil); w.Code != 401 {
			t.Errorf("%s: %d", remote, w.Code)
		}
		if w := limitFrom(g, remote, "/", key, nil); w.Code != 200 {
			t.Errorf("%s with a good key: %d", remote, w.Code)
		}
	}
}

func TestFailureThrottleSettings(t *testing.T) {
	site := "keytoll {\n allow_http\n }\n reverse_proxy {upstream}"
	g := newGateway(t, "throttle_failures 100/1d burst 2 per 24 48", site)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for _, c := range []struct {
		remote, key string
		want        int
	}{
		{"203.0.113.1:1", "w1", 401}, {"203.0.113.2:1", "w2", 401}, {"203.0.113.3:1", "w3", 429},
		{"203.0.113.3:1", key, 429}, {"203.0.114.3:1", key, 200},
		{"[2001:db8:7:1::1]:1", "w1", 401}, {"[2001:db8:7:2::1]:1", "w2", 401}, {"[2001:db8:7:3::1]:1", "w3", 429},
		{"[2001:db8:8:3::1]:1", "w3", 401},
	} {
		if w := limitFrom(g, c.remote, "/", c.key, nil); w.Code != c.want {
			t.Errorf("%s: %d, want %d", c.remote, w.Code, c.want)
		}
	}
	g.load("throttle_failures off", site)
	for range 10 {
		if w := limitFrom(g, "203.0.113.1:1", "/", "wrong", nil); w.Code != 401 {
			t.Errorf("throttled though off: %d", w.Code)
		}
	}
}

// guardProto sets X-Forwarded-Proto.
func guardProto(values ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header["X-Forwarded-Proto"] = values }
}

func TestCleartextFromOtherMachines(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n public /open\n optional\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	var first *httptest.ResponseRecorder
	for _, c := range []struct {
		path, key string
		change    func(*http.Request)
	}{
		{"/", "", nil}, {"/", key, nil}, {"/", "wrong", nil}, {"/open", "", nil}, {"/open", key, nil},
		{"/", key, guardProto("https")}, {"/", key, func(r *http.Request) { r.Method = "OPTIONS" }},
	} {
		w := limitFrom(g, guardStranger, c.path, c.key, c.change)
		if w.Code != 403 {
			t.Errorf("%s %q: %d", c.path, c.key, w.Code)
		}
		if first == nil {
			first = w
		} else if w.Body.String() != first.Body.String() || len(w.Header()) != len(first.Header()) {
			t.Errorf("%s differs: %s %v", c.path, w.Body, w.Header())
		}
	}
	if n := g.upstream.count(); n != 0 {
		t.Errorf("the upstream saw %d requests", n)
	}
	tlsOn := func(r *http.Request) { r.TLS = &tls.ConnectionState{HandshakeComplete: true, ServerName: "127.0.0.1"} }
	for _, c := range []struct {
		remote string
		change func(*http.Request)
	}{
		{"127.0.0.1:1", nil}, {"127.8.8.8:1", nil}, {"[::1]:1", nil}, {"[::ffff:127.0.0.1]:1", nil},
		{"@", nil}, {"", nil}, {"/run/caddy.sock", nil}, {guardStranger, tlsOn},
		{"127.0.0.1:1", guardProto("http")}, // nobody trusted said so
	} {
		if w := limitFrom(g, c.remote, "/", key, c.change); w.Code != 200 {
			t.Errorf("%q: %d", c.remote, w.Code)
		}
	}
}

func TestCleartextAllowed(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n allow_http\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	if w := limitFrom(g, guardStranger, "/", key, nil); w.Code != 200 {
		t.Errorf("good key: %d", w.Code)
	}
	if w := limitFrom(g, guardStranger, "/", "", nil); w.Code != 401 {
		t.Errorf("no key: %d", w.Code)
	}
}

func TestCleartextBehindATrustedProxy(t *testing.T) {
	g := newGateway(t, "}\nservers {\n trusted_proxies static 203.0.113.0/24 127.0.0.1/32\n", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for _, c := range []struct {
		remote string
		change func(*http.Request)
		want   int
	}{
		{guardStranger, guardProto("https"), 200}, {guardStranger, guardProto("HTTPS"), 200},
		{guardStranger, guardProto("http"), 403}, {guardStranger, nil, 403},
		{guardStranger, guardProto("https, http"), 403}, {guardStranger, guardProto("https", "http"), 403},
		{guardStranger, guardProto(""), 403},
		{"198.51.100.7:1", guardProto("https"), 403},
		{"127.0.0.1:1", guardProto("http"), 403}, // a proxy on this machine, a client that is not
		{"127.0.0.1:1", guardProto("https"), 200}, {"127.0.0.1:1", nil, 200},
	} {
		if w := limitFrom(g, c.remote, "/", key, c.change); w.Code != c.want {
			t.Errorf("%s: %d, want %d", c.remote, w.Code, c.want)
		}
	}
}

func TestEarlyData(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 425, "PUT": 425, "DELETE": 425, "PATCH": 425} {
		w := limitFrom(g, guardStranger, "/", key, func(r *http.Request) {
			r.Method, r.TLS = method, &tls.ConnectionState{ServerName: "127.0.0.1"}
		})
		if w.Code != want {
			t.Errorf("%s: %d, want %d", method, w.Code, want)
		}
	}
}

func init() { caddy.RegisterModule(guardRecorder{}) }

// guardRecorder is a subscriber that remembers keytoll's events.
type guardRecorder struct{}

var guardEvents struct {
	sync.Mutex
	all []caddy.Event
}

// CaddyModule returns the Caddy module information.
func (guardRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.keytoll_recorder", New: func() caddy.Module { return new(guardRecorder) }}
}

// UnmarshalCaddyfile takes no settings.
func (*guardRecorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { d.Next(); return nil }

// Handle remembers the event.
func (*guardRecorder) Handle(_ context.Context, e caddy.Event) error {
	guardEvents.Lock()
	defer guardEvents.Unlock()
	guardEvents.all = append(guardEvents.all, e)
	return nil
}

var _ caddyevents.Handler = (*guardRecorder)(nil)

// guardSeen returns the data of the events of a name so far.
func guardSeen(name string) (data []map[string]any) {
	guardEvents.Lock()
	defer guardEvents.Unlock()
	for _, e := range guardEvents.all {
		if e.Name() == name {
			data = append(data, e.Data)
		}
	}
	return data
}

func TestEvents(t *testing.T) {
	guardEvents.all = nil
	on := ""
	for _, name := range []string{"api_key_created", "api_key_revoked", "api_key_throttled", "auth_failures_throttled"} {
		on += "\n on " + name + " keytoll_recorder"
	}
	g := newGateway(t, "throttle_failures 2/1d\n}\nevents {"+on+"\n", "keytoll {\n allow_http\n }\n reverse_proxy {upstream}")
	id, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "1/1d")})
	if got := guardSeen("api_key_created"); len(got) != 1 || got[0]["key"] != id.String() || got[0]["tenant"] != "acme" {
		t.Errorf("created: %v", got)
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	for range 5 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
	}
	if got := guardSeen("api_key_throttled"); len(got) != 1 || got[0]["key"] != id.String() || got[0]["tenant"] != "acme" || got[0]["limit"] != int64(1) {
		t.Errorf("throttled, once a minute: %v", got)
	}
	for range 5 {
		limitFrom(g, guardStranger, "/", "wrong", nil)
	}
	if got := guardSeen("auth_failures_throttled"); len(got) != 1 || got[0]["client_ip"] != "203.0.113.9" {
		t.Errorf("failures: %v", got)
	}
	if _, err := g.registrar().RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := guardSeen("api_key_revoked"); len(got) != 1 || got[0]["key"] != id.String() {
		t.Errorf("revoked: %v", got)
	}
	for _, e := range guardEvents.all {
		for k, v := range e.Data {
			if s, ok := v.(string); ok && s == key {
				t.Errorf("event %s gives the secret away as %s", e.Name(), k)
			}
		}
	}
}

// guardMetrics returns the values of keytoll's metrics by name and labels.
func guardMetrics(t *testing.T) map[string]float64 {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestA52Metrics(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "2/1d")})
	for range 3 {
		g.do("GET", "/", "X-Api-Key: "+key)
	}
	g.do("GET", "/", "X-Api-Key: nonsense").expect(t, 401)
	g.do("GET", "/", "X-Evil: {\"reason\"=\"x\"}").expect(t, 401)
	for range 70 {
		g.do("TRACE", "/").expect(t, 405)
	}
	check := func(when string) {
		t.Helper()
		m := guardMetrics(t)
		for name, want := range map[string]float64{
			"requests_total reason=allowed": 2, "requests_total reason=rate_limited": 1, "requests_total reason=unknown": 1,
			"requests_total reason=missing": 1, "requests_total reason=method_not_allowed": 70, "requests_total reason=revoked": 0,
			"keys state=active": 1, "keys state=revoked": 0, "tenants state=active": 1, "store_errors_total": 0, "decision_seconds": 1,
		} {
			if got, ok := m["caddy_keytoll_"+name]; !ok || got != want {
				t.Errorf("%s: %s is %v, want %v", when, name, got, want)
			}
		}
		series := 0
		for name := range m {
			if len(name) > 28 && name[:28] == "caddy_keytoll_requests_total" {
				series++
			}
		}
		if series != access.NumReasons {
			t.Errorf("%s: %d series of requests, %d reasons", when, series, access.NumReasons)
		}
	}
	check("at first")
	g.load("", "keytoll {\n errors caddy\n }\n reverse_proxy {upstream}")
	check("after a reload")
}
