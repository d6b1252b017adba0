package caddymodule

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

func concurrentOptions(lines string) string {
	return "plan free {\n " + lines + "\n}\ndefault_plan free\n"
}

// busy fails unless a request is refused for others that are under way.
func (g *gateway) busy(t testing.TB, key string) {
	t.Helper()
	n := g.upstream.count()
	r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
	if r.code() != access.ConcurrencyLimited.Answer().Code || r.Header.Get("Retry-After") != "1" || g.upstream.count() != n {
		t.Errorf("%s, Retry-After %q", r.body, r.Header.Get("Retry-After"))
	}
}

// Requests at one time, of a key and of a tenant, by the plan and by the gate.
func TestConcurrent(t *testing.T) {
	gate := "keytoll {\n concurrent 2\n concurrent 3 per tenant\n}\nreverse_proxy {upstream}"
	for name, tt := range map[string]struct{ options, site string }{
		"plan": {concurrentOptions("concurrent 2\n concurrent 3 per tenant"), plainGate},
		"gate": {"", gate},
		"both": {concurrentOptions("concurrent 2\n concurrent 100 per tenant"), strings.Replace(gate, "concurrent 2\n", "concurrent 100\n", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, tt.options, tt.site)
			_, one := g.key("acme", hourly(1000))
			_, two := g.key("acme", hourly(1000))
			_, other := g.key("other", hourly(1000))
			s := newGated(t, g.upstream)
			var replies []<-chan int
			slow := func(key string) {
				replies = append(replies, g.background("GET", "/slow", "X-Api-Key: "+key))
				s.await(t)
			}
			slow(one)
			g.do("GET", "/", "X-Api-Key: "+one).expect(t, 200)
			g.ended(1)
			slow(one)
			g.busy(t, one)
			g.do("GET", "/", "X-Api-Key: "+two).expect(t, 200)
			slow(two)
			g.busy(t, two)
			slow(other)
			s.release()
			for _, c := range replies {
				if status := <-c; status != 200 {
					t.Errorf("status %d", status)
				}
			}
			g.ended(8)
			g.do("GET", "/", "X-Api-Key: "+one).expect(t, 200)
		})
	}
}

// Whatever ends a request, its place is free.
func TestConcurrentIsReleased(t *testing.T) {
	g := newGateway(t, concurrentOptions("concurrent 1\n credits 1000/month"), meterSite)
	_, key := g.key("acme", hourly(1000))
	s := newGated(t, g.upstream)
	n := int64(0)
	free := func(what string) {
		t.Helper()
		n++
		g.ended(n)
		if r := g.do("GET", "/", "X-Api-Key: "+key); r.StatusCode != 200 {
			t.Fatalf("after %s: %d %s", what, r.StatusCode, r.body)
		}
		n++
		g.ended(n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan bool)
	req := g.request(t, "GET", "/slow", nil, "X-Api-Key: "+key).WithContext(ctx)
	go func() { _, _ = http.DefaultTransport.RoundTrip(req); close(done) }()
	s.await(t)
	g.busy(t, key)
	n++
	cancel()
	<-done
	free("an abort")

	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/part" {
			return wsEcho(w, r)
		}
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "hello")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := http.DefaultTransport.RoundTrip(g.request(t, "GET", "/part", nil, "X-Api-Key: "+key))
	if err == nil {
		_, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	free("a panic")

	conn, br := g.dial(g.handshake(key))
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	g.busy(t, key)
	n++
	conn.Close()
	free("an upgraded connection")
	g.upstream.server.Close()
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 502)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 502)
}

// What is only observed lets in, and shows.
func TestConcurrentObserved(t *testing.T) {
	for _, tt := range []struct{ options, site string }{
		{concurrentOptions("concurrent 1 observe"), plainGate},
		{"", "keytoll {\n concurrent 1 observe\n}\nreverse_proxy {upstream}"},
	} {
		g := newGateway(t, tt.options, tt.site)
		_, key := g.key("acme", hourly(1000))
		s := newGated(t, g.upstream)
		reply := g.background("GET", "/slow", "X-Api-Key: "+key)
		s.await(t)
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		s.release()
		<-reply
		g.ended(2)
		for _, p := range g.points(rollup.ByFlags) {
			if p.Requests != 1 {
				t.Errorf("usage %+v", p)
			}
		}
	}
}

// Overrides of requests at one time.
func TestConcurrentOverride(t *testing.T) {
	g := newGateway(t, concurrentOptions("concurrent 1\n concurrent 1 per tenant"), plainGate)
	id, key := g.key("acme", hourly(1000))
	s := newGated(t, g.upstream)
	g.background("GET", "/slow", "X-Api-Key: "+key)
	s.await(t)
	g.busy(t, key)
	g.override("acme", &access.Override{Concurrent: 2})
	if _, err := g.registrar().SetKeyOverride(t.Context(), id, &access.Override{Concurrent: 2}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the override holds", func() bool { return g.do("GET", "/", "X-Api-Key: "+key).StatusCode == 200 })
}

// Each request counts once, by tenant, key, route and class, also after a flush
// and a restart.
func TestUsageCountsOnce(t *testing.T) {
	g := newGateway(t, meterOptions, meterSite)
	a, one := g.key("acme", hourly(1000))
	b, two := g.key("acme", hourly(1000))
	c, other := g.key("other", hourly(1000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/bad" {
			w.WriteHeader(500)
			return true
		}
		return false
	})
	for _, s := range []struct {
		key, path string
		times     int
	}{{one, "/", 3}, {one, "/bad", 2}, {two, "/big", 2}, {other, "/big", 1}, {other, "/bad", 1}} {
		for range s.times {
			g.do("GET", s.path, "X-Api-Key: "+s.key)
		}
	}
	g.ended(9)
	want := map[rollup.Series]rollup.Values{
		{Tenant: "acme", Key: a, Class: rollup.Class2xx}:                {Requests: 3, Credits: int64(3 * credits), BytesOut: 57},
		{Tenant: "acme", Key: a, Class: rollup.Class5xx}:                {Requests: 2},
		{Tenant: "acme", Key: b, Route: "big", Class: rollup.Class2xx}:  {Requests: 1, Credits: int64(5 * credits), BytesOut: 19},
		{Tenant: "acme", Key: b, Route: "big", Class: rollup.Refused}:   {Requests: 1},
		{Tenant: "other", Key: c, Route: "big", Class: rollup.Class2xx}: {Requests: 1, Credits: int64(5 * credits), BytesOut: 19},
		{Tenant: "other", Key: c, Class: rollup.Class5xx}:               {Requests: 1},
	}
	check := func(when string) {
		t.Helper()
		got := map[rollup.Series]rollup.Values{}
		for _, p := range g.points(rollup.ByTenant | rollup.ByKey | rollup.ByRoute | rollup.ByClass) {
			v := got[p.Series]
			v.Requests, v.Credits, v.BytesOut = v.Requests+p.Requests, v.Credits+p.Credits, v.BytesOut+p.BytesOut
			got[p.Series] = v
		}
		for s, w := range want {
			if v := got[s]; v != w {
				t.Errorf("%s: %+v: %+v, want %+v", when, s, v, w)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d series, want %d", when, len(got), len(want))
		}
	}
	check("in memory")
	app, err := activeApp()
	if err != nil {
		t.Fatal(err)
	}
	if err := app.metering.Usage.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("flushed")
	g.restart()
	check("after a restart")
}

// A49: a restart keeps what was used of credits, quotas and grants.
func TestA49RestartKeepsCounts(t *testing.T) {
	for _, strict := range []string{"", " strict"} {
		g := newGateway(t, "plan free {\n credits 10/month"+strict+"\n quota 5/day\n}\ndefault_plan free\n", meterSite)
		_, key := g.key("acme", hourly(1000))
		for range 3 {
			g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
			g.restart()
		}
		g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 200)
		g.restart()
		r := g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 402)
		if r.coherent(t) != 8 {
			t.Errorf("%v", r.Header)
		}
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		g.restart()
		g.over(t, key)
		if got := g.used("acme"); got != 9*credits {
			t.Errorf("used %s", got)
		}
	}
}

// A reload amid load loses no count and sells nothing twice.
func TestReloadUnderLoadKeepsCounts(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1_000_000))
	var wg sync.WaitGroup
	var sent, lost atomic.Int64
	stop := make(chan struct{})
	tr := new(http.Transport)
	defer tr.CloseIdleConnections()
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				req, _ := http.NewRequest("POST", g.url+"/", strings.NewReader("x")) // never sent again by itself
				req.Header.Set("X-Api-Key", key)
				resp, err := tr.RoundTrip(req)
				if err != nil {
					lost.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode == 200 {
					sent.Add(1)
				} else {
					t.Errorf("status %d", resp.StatusCode)
				}
			}
		})
	}
	for i := range 8 {
		at := sent.Load()
		eventually(t, "load", func() bool { return sent.Load() > at+50 })
		g.load(strings.Replace(roomyOptions, "1000000/", "100000"+string(rune('0'+i))+"/", 1), meterSite)
	}
	close(stop)
	wg.Wait()
	api := int64(g.upstream.count())
	eventually(t, "all end", func() bool { return g.counted() >= api })
	if used := int64(g.used("acme") / credits); used != api || g.counted() != api || sent.Load() > api || sent.Load() < api-lost.Load() {
		t.Errorf("the API saw %d, clients %d and lost %d; %d are charged, %d in usage", api, sent.Load(), lost.Load(), used, g.counted())
	}
}
