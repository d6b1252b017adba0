package caddymodule

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

var usageNames = []string{"X-Usage-Current", "X-Usage-Limit", "X-Usage-Remaining", "X-Request-Id"}

// coherent fails unless the usage headers stand once each and fit one another,
// and returns what was used.
func (r reply) coherent(t testing.TB) (used int64) {
	t.Helper()
	once(t, r.Header, usageNames...)
	var n [3]int64
	for i, name := range usageNames[:3] {
		v, err := strconv.ParseInt(r.Header.Get(name), 10, 64)
		if err != nil || v < 0 {
			t.Fatalf("%s: %q", name, r.Header.Get(name))
		}
		n[i] = v
	}
	if n[0] != n[1]-n[2] {
		t.Errorf("used %d is not limit %d − remaining %d", n[0], n[1], n[2])
	}
	return n[0]
}

// balance returns what a tenant has, as the ledger has it.
func (g *gateway) balance(tenant string) credit.Balance {
	g.t.Helper()
	app, err := activeApp()
	if err != nil {
		g.t.Fatal(err)
	}
	t := app.engine.Load().Index.TenantByID(tenant)
	b, err := app.metering.Ledger.Balance(app.termsOf(app.metering, t, time.Now().Unix()).payer)
	if err != nil {
		g.t.Fatal(err)
	}
	return b
}

// used returns the credits that a tenant used, those beyond its own too.
func (g *gateway) used(tenant string) access.Credits {
	b := g.balance(tenant)
	return b.Used + b.Overage
}

// points returns all usage.
func (g *gateway) points(by rollup.Group) []rollup.Point {
	g.t.Helper()
	app, err := activeApp()
	if err != nil {
		g.t.Fatal(err)
	}
	now := time.Now()
	points, err := app.metering.Usage.Query(context.Background(), rollup.Filter{}, now.Add(-24*time.Hour), now.Add(time.Hour), rollup.Minute, by)
	if err != nil {
		g.t.Fatal(err)
	}
	return points
}

// counted returns how many requests are in usage: those that have ended, which
// is some time after their clients have the answer.
func (g *gateway) counted() (n int64) {
	for _, p := range g.points(0) {
		n += p.Requests
	}
	return n
}

// ended waits until so many requests have ended since Caddy first ran.
func (g *gateway) ended(n int64) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%d requests end", n), func() bool { return g.counted() >= n })
	if got := g.counted(); got != n {
		g.t.Fatalf("%d requests in usage, want %d", got, n)
	}
}

// want is what a table test expects of one request.
type want struct {
	status int
	used   access.Credits // by this request
}

// charged sends a request, and fails unless it got the status and the tenant
// acme was charged so much.
func (g *gateway) charged(t testing.TB, req *http.Request, w want) reply {
	t.Helper()
	before, n := g.used("acme"), g.counted()
	r := g.send(req).expect(t, w.status)
	g.ended(n + 1)
	if got := g.used("acme") - before; got != w.used {
		t.Errorf("%s %s: %d, charged %s credits, want %s", req.Method, req.URL.Path, r.StatusCode, got, w.used)
	}
	return r
}

// gated is an API whose answers to /slow wait. Each request that has come in
// tells so.
type gated struct {
	come chan string
	once sync.Once
	free chan struct{}
}

func newGated(t testing.TB, u *upstream) *gated {
	s := &gated{come: make(chan string, 100), free: make(chan struct{})}
	t.Cleanup(s.release)
	u.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/slow" {
			return false
		}
		s.come <- r.Header.Get("X-Key-Id")
		select {
		case <-s.free:
		case <-r.Context().Done():
		}
		return false
	})
	return s
}

// release lets all that wait go on, and does not hold up others.
func (s *gated) release() { s.once.Do(func() { close(s.free) }) }

// await waits until a request has come in.
func (s *gated) await(t testing.TB) {
	t.Helper()
	select {
	case <-s.come:
	case <-time.After(hangGuard):
		t.Fatal("no request came to the API")
	}
}

// background sends a request whose reply comes over the channel.
func (g *gateway) background(method, path string, headers ...string) <-chan int {
	done := make(chan int, 1)
	req := g.request(g.t, method, path, nil, headers...)
	go func() {
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			done <- 0
			return
		}
		resp.Body.Close()
		done <- resp.StatusCode
	}()
	return done
}

// dial sends bytes over a connection of its own and leaves it open.
func (g *gateway) dial(text string) (net.Conn, *bufio.Reader) {
	g.t.Helper()
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(hangGuard))
	fmt.Fprint(conn, text)
	return conn, bufio.NewReader(conn)
}
