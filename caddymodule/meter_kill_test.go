package caddymodule

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// What the child of TestMeterKill is told: its directory, its address, that of
// the API and the number of its round, one after the other.
const meterChildEnv = "KEYTOLL_TEST_METER_CHILD"

const (
	killClients = 8
	killPrice   = 3 // credits, of /big
	killPurse   = 20
	killGrant   = 5
	killRounds  = 2 // for which a tenant with little takes part after its first
)

const killOptions = `
		plan roomy {
			credits 1000000000/month
		}
		plan loose {
			credits 20/month
		}
		plan tight {
			credits 20/month strict
		}
`

const killSite = `
	@free path /free
	@big path /big
	keytoll {
		charge @free 0
		charge @big 3
		charge 1
		charge_header X-Cost
	}
	reverse_proxy {upstream}
`

// TestMeterKillChild is the child: a Caddy until it is killed. It has a tenant
// with much and two new ones with little, and tells their keys.
func TestMeterKillChild(t *testing.T) {
	told := strings.Fields(os.Getenv(meterChildEnv))
	if len(told) != 4 {
		t.Skip("this is the child of TestMeterKill")
	}
	g := &gateway{t: t, dir: told[0], addr: told[1], url: "http://" + told[1], upstream: &upstream{addr: told[2]}}
	g.load(killOptions, killSite)
	g.killTenant("roomy", "roomy")
	n, err := strconv.Atoi(told[3])
	if err != nil {
		t.Fatal(err)
	}
	for i := max(n-killRounds, 0); i <= n; i++ {
		for _, plan := range []string{"loose", "tight"} {
			id := plan + strconv.Itoa(i)
			g.killTenant(id, plan)
			// A grant that is asked for again after each kill is given once.
			if _, err := g.registrar().GrantCredits(t.Context(), id, registrar.GrantRequest{Amount: killGrant * access.Credit,
				Idempotency: &registrar.Idempotency{Key: "once", Scope: "operator", Body: sha256.Sum256(nil)}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	requests := make(map[string]int64)
	for _, p := range g.points(rollup.ByTenant) {
		requests[p.Tenant] += p.Requests
	}
	for tenant, n := range requests {
		fmt.Println("usage", tenant, n)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone, if it does not kill
}

// killTenant makes sure of a tenant and tells a new key of it.
func (g *gateway) killTenant(id, plan string) {
	g.t.Helper()
	if err := g.registrar().EnsureTenant(g.t.Context(), registrar.CreateTenantRequest{ID: id, Plan: plan}); err != nil {
		g.t.Fatal(err)
	}
	_, key := g.key(id, hourly(1_000_000_000))
	fmt.Printf("key %s %s\n", id, key)
}

// killTally is one tenant: what the API answered, and what may be charged
// beyond that.
type killTally struct {
	key      string
	answered atomic.Int64 // credits
	lost     int64        // credits of requests that were in flight at kills
	used     int64        // as the gateway said after the last start
	sent     atomic.Int64 // requests
	ended    atomic.Int64 // of these, those that surely were over before a kill
	recorded int64        // in usage, as the child said when it started
}

// killLine is a client with one connection. On it a request is served when the
// one before is over, usage and all.
type killLine struct {
	tr   *http.Transport
	last *killTally
}

func newKillLine() *killLine { return &killLine{tr: &http.Transport{MaxConnsPerHost: 1}} }

// send sends a request of a tenant and reads all of its answer.
func (l *killLine) send(addr, path string, c *killTally) (*http.Response, error) {
	c.sent.Add(1)
	resp, err := l.tr.RoundTrip(killRequest(addr, path, c.key))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	if l.last != nil {
		l.last.ended.Add(1)
	}
	l.last = c
	return resp, nil
}

// killBench is the parent: API, clients and what they counted.
type killBench struct {
	t       *testing.T
	dir     string
	api     *httptest.Server
	rnd     *rand.Rand
	mu      sync.Mutex
	tenants map[string]*killTally
	busy    atomic.Int64 // requests at the API
	replies atomic.Int64 // to clients, with a status of success
	refused atomic.Int64
}

// TestMeterKill kills Caddy under load at random moments. After each restart,
// what is charged is at least what the API answered, and more than that only by
// requests that were in flight at a kill; nobody got more than he had; grants
// were given once; no count went back; and each request that was over is in
// usage, once.
func TestMeterKill(t *testing.T) {
	rounds := 200
	if testing.Short() || raceEnabled {
		rounds = 12
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := &killBench{t: t, dir: t.TempDir(), rnd: rand.New(rand.NewPCG(seed, 1)), tenants: make(map[string]*killTally)}
	b.api = httptest.NewServer(b)
	t.Cleanup(b.api.Close)
	for round := range rounds {
		b.round(round)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	lost, spent := b.tenants["roomy"].lost, 0
	var recorded, open int64
	for name, c := range b.tenants {
		recorded, open = recorded+c.recorded, open+c.sent.Load()-c.ended.Load()
		if strings.HasPrefix(name, "tight") && c.used == killPurse+killGrant {
			spent++
		}
	}
	t.Logf("%d requests in usage, %d of all that were sent were perhaps not over at a kill", recorded, open)
	t.Logf("%d kills, %d answers, %d refusals, %d strict purses spent, %d credits in flight at kills", rounds, b.replies.Load(), b.refused.Load(), spent, lost)
	if b.replies.Load() < int64(rounds) || spent == 0 || lost == 0 || recorded < int64(rounds) {
		t.Fatal("too little happened: the test proves nothing")
	}
}

// ServeHTTP is the API. It counts what it answers before the answer goes out.
func (b *killBench) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.busy.Add(1)
	defer b.busy.Add(-1)
	b.mu.Lock()
	tally, n := b.tenants[r.Header.Get("X-Tenant-Id")], rand.IntN(10)
	b.mu.Unlock()
	switch {
	case r.URL.Path == "/free":
	case r.URL.Path != "/big":
		tally.answered.Add(1)
	case n < 2:
		w.WriteHeader(http.StatusInternalServerError)
	case n < 5:
		tally.answered.Add(killPrice)
	case n < 8:
		tally.answered.Add(int64(n - 5)) // 0, 1 or 2
		w.Header().Set("X-Cost", strconv.Itoa(n-5))
	default:
		tally.answered.Add(2)
		_, _ = io.WriteString(w, "body")
		w.(http.Flusher).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Cost", "2")
	}
}

// round starts the child, compares, and kills it: most often under load.
func (b *killBench) round(n int) {
	t := b.t
	addr := freeAddr(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestMeterKillChild$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %d", meterChildEnv, b.dir, addr, b.api.Listener.Addr(), n))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	defer kill()
	if n%10 == 9 { // while it starts: as far as some random line of what it says
		b.listen(out, n, b.rnd.IntN(4))
		return
	}
	if said := b.listen(out, n, 100); !said {
		return
	}
	b.compare(addr, n)
	b.load(addr, n, kill)
}

// listen reads what the child says, up to so many lines or until it is ready.
func (b *killBench) listen(out io.Reader, n, lines int) (ready bool) {
	scan := bufio.NewScanner(out)
	var said []string
	for len(said) < lines && scan.Scan() {
		said = append(said, scan.Text())
		f := strings.Fields(scan.Text())
		if scan.Text() == "ready" {
			return true
		}
		if len(f) == 3 {
			b.told(f[0], f[1], f[2])
		}
	}
	if len(said) < lines {
		b.t.Errorf("the child of round %d ended by itself:\n%s", n, strings.Join(said, "\n"))
	}
	return false
}

// told is what the child says of a tenant.
func (b *killBench) told(what, tenant, value string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.tenants[tenant]
	if c == nil {
		c = new(killTally)
		b.tenants[tenant] = c
	}
	switch what {
	case "key":
		c.key = value
	case "usage":
		c.recorded, _ = strconv.ParseInt(value, 10, 64)
	}
}

// mine returns the names of the tenants that take part in a round.
func (b *killBench) mine(n int) []string {
	names := []string{"roomy"}
	for i := max(n-killRounds, 0); i <= n; i++ {
		for _, plan := range []string{"loose", "tight"} {
			if name := plan + strconv.Itoa(i); b.tenants[name] != nil {
				names = append(names, name)
			}
		}
	}
	return names
}

// compare asks the gateway what is used.
func (b *killBench) compare(addr string, n int) {
	t := b.t
	eventually(t, "the API is idle", func() bool { return b.busy.Load() == 0 })
	for name, c := range b.tenants {
		if ended, sent := c.ended.Load(), c.sent.Load(); c.recorded < ended || c.recorded > sent {
			t.Errorf("%s: %d requests are in usage, of %d that were sent and %d that were over", name, c.recorded, sent, ended)
		}
	}
	line := newKillLine()
	defer line.tr.CloseIdleConnections()
	for _, name := range b.mine(n) {
		c := b.tenants[name]
		answered := c.answered.Load()
		resp, err := line.send(addr, "/free", c)
		if err != nil {
			t.Fatal(err)
		}
		used := reply{resp, ""}.coherent(t)
		limit, _ := strconv.ParseInt(resp.Header.Get("X-Usage-Limit"), 10, 64)
		switch {
		case used < answered:
			t.Errorf("%s: the API answered %d credits, %d are charged", name, answered, used)
		case used > answered+c.lost:
			t.Errorf("%s: %d credits are charged, of which the API answered %d and %d were in flight at kills", name, used, answered, c.lost)
		case used < c.used:
			t.Errorf("%s: %d credits were used, and are %d now", name, c.used, used)
		case name != "roomy" && limit != killPurse+killGrant:
			t.Errorf("%s: has %d credits, want %d", name, limit, killPurse+killGrant)
		case name != "roomy" && answered > killPurse+killGrant:
			t.Errorf("%s: the API answered %d credits of %d", name, answered, killPurse+killGrant)
		}
		c.used = used
	}
}

func killRequest(addr, path, key string) *http.Request {
	req, err := http.NewRequest("GET", "http://"+addr+path, nil)
	if err != nil {
		panic(err)
	}
	req.Header.Set("X-Api-Key", key)
	return req
}

// load has clients send until the child is killed, which is some answers and
// some moments later.
func (b *killBench) load(addr string, n int, kill func()) {
	names := b.mine(n)
	enough, all := make(chan struct{}), int64(1+b.rnd.IntN(400))
	var got atomic.Int64
	var wg sync.WaitGroup
	for i := range killClients {
		rnd := rand.New(rand.NewPCG(b.rnd.Uint64(), uint64(i)))
		wg.Go(func() {
			line := newKillLine()
			defer line.tr.CloseIdleConnections()
			for b.send(line, addr, names[max(0, rnd.IntN(2*len(names))-len(names))]) {
				if got.Add(1) == all {
					close(enough)
				}
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(hangGuard):
		b.t.Error("the child does not answer")
	}
	for range b.rnd.IntN(20_000) { // some moment between two answers
		_ = rand.Uint64()
	}
	kill()
	wg.Wait()
}

// send sends one request, and reports whether it was answered. What was not
// may or may not have been charged.
func (b *killBench) send(line *killLine, addr, tenant string) bool {
	c, path, price := b.tenants[tenant], "/", int64(1)
	if tenant == "roomy" {
		path, price = "/big", killPrice
	}
	resp, err := line.send(addr, path, c)
	if err != nil {
		b.mu.Lock()
		c.lost += price
		b.mu.Unlock()
		return false
	}
	switch resp.StatusCode {
	case http.StatusOK:
		b.replies.Add(1)
	case http.StatusPaymentRequired:
		b.refused.Add(1)
	case http.StatusInternalServerError:
	default:
		b.t.Errorf("%s: status %d", tenant, resp.StatusCode)
	}
	return true
}
