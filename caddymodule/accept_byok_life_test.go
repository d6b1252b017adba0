package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// A key for a provider opens no other limit: rates, quotas and requests at one
// time hold.
func TestLimitsHoldWithOwnKeys(t *testing.T) {
	for name, tt := range map[string]struct {
		plan, code string
		rate       uint32
	}{
		"rate of the key":  {"credits 100/month", access.RateLimited.Answer().Code, 2},
		"rate of the plan": {"credits 100/month\n rate 2/1h", access.RateLimited.Answer().Code, 1000},
		"quota":            {"credits 100/month\n quota 2/day", access.QuotaExceeded.Answer().Code, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, strings.Replace(byokOptions, "credits 1000000/month", tt.plan, 1), byokSite("byok elevenlabs"))
			req := registrar.CreateKeyRequest{}
			if tt.rate < 1000 {
				req = hourly(tt.rate)
			}
			_, key := g.key("acme", req)
			g.keep("acme", "elevenlabs", elevenKey)
			g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
			g.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": sk_x").expect(t, 200).bypass(t, true, "elevenlabs")
			n := g.upstream.count()
			for _, header := range []string{"X-Other: 1", elevenHeader + ": sk_x"} {
				r := g.do("GET", "/", "X-Api-Key: "+key, header).expect(t, 429).bypass(t, false)
				if r.code() != tt.code || r.Header.Get("Retry-After") == "" {
					t.Errorf("%s %v", r.body, r.Header)
				}
			}
			g.ended(4)
			if yes, no := g.bypassed(); yes != 2 || no != 2 || g.upstream.count() != n {
				t.Errorf("%d bypassed, %d not; the API saw %d more", yes, no, g.upstream.count()-n)
			}
			if got := g.used("acme"); got != 0 {
				t.Errorf("used %s", got)
			}
		})
	}
}

func TestConcurrencyHoldsWithOwnKeys(t *testing.T) {
	g := newGateway(t, strings.Replace(byokOptions, "credits 1000000/month", "credits 100/month\n concurrent 1", 1), byokSite("byok elevenlabs"))
	_, key := g.key("acme", hourly(1000))
	g.keep("acme", "elevenlabs", elevenKey)
	s := newGated(t, g.upstream)
	first := g.background("GET", "/slow", "X-Api-Key: "+key)
	s.await(t)
	g.busy(t, key)
	g.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": sk_x").expect(t, 429).bypass(t, false)
	s.release()
	if status := <-first; status != 200 {
		t.Error(status)
	}
	g.ended(3)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
}

// Usage tells bypassed requests apart, at both doors and on the command line.
func TestUsageOfOwnKeys(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok elevenlabs"))
	_, key := g.key("acme", hourly(1000))
	for range 3 {
		g.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": "+elevenKey).expect(t, 200)
	}
	for range 2 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	g.ended(5)
	count := func(points []mgmt.UsagePoint) (yes, no int64, spent access.Credits) {
		for _, p := range points {
			if p.Bypassed {
				yes += p.Requests
				if p.Credits != "0" && p.Credits != "" {
					t.Errorf("a bypassed request took %s credits", p.Credits)
				}
			} else {
				no += p.Requests
			}
		}
		return yes, no, spent
	}
	report := asJSON[mgmt.UsageReport](g.clerk(t), "usage", "--by", "flags", "--tenant", "acme")
	if yes, no, _ := count(report.Points); yes != 3 || no != 2 {
		t.Errorf("the command: %d bypassed, %d not: %+v", yes, no, report.Points)
	}
	says(t, g.clerk(t).run("usage", "--by", "flags", "--tenant", "acme"), "bypassed")
	says(t, g.operator("GET", "/usage?by=flags&step=day", "").expect(t, 200).body, `"bypassed":true,"requests":3`, `"requests":2`)
	r := g.do("GET", "/v1/usage?step=day", "X-Api-Key: "+key).expect(t, 200)
	says(t, r.body, `"requests":5`)
	var sum access.Credits
	for _, p := range g.points(rollup.ByFlags) {
		sum += access.Credits(p.Credits)
	}
	if sum != 2*credits || g.used("acme") != 2*credits {
		t.Errorf("usage has %s credits, the ledger %s", sum, g.used("acme"))
	}
	if n := openEngine(t).Counts.Bypassed.Load(); n != 3 {
		t.Errorf("the metric counts %d", n)
	}
}

// However the API answers or fails, and whoever writes that down, a request with
// the caller's own key takes no credits and is in usage as bypassed.
func TestFailuresWithOwnKeys(t *testing.T) {
	site := byokSite("byok elevenlabs\n charge_status 1xx 2xx 3xx 4xx 5xx")
	page := "\nhandle_errors {\n respond \"sorry {err.status_code}\"\n}\n"
	for name, site := range map[string]string{
		"errors inline": site,
		"errors caddy":  strings.Replace(site, "keytoll {\n charge", "keytoll {\n errors caddy\n charge", 1) + page,
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, byokOptions, "@gone path /gone\n"+strings.Replace(site, "reverse_proxy", "error @gone 410\nreverse_proxy", 1))
			_, key := g.key("acme", hourly(1000))
			status := 0
			g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(status)
				return true
			})
			n := int64(0)
			try := func(path string, status int) {
				t.Helper()
				g.charged(t, g.request(t, "GET", path, nil, "X-Api-Key: "+key, elevenHeader+": "+elevenKey), want{status, 0})
				n++
				if yes, no := g.bypassed(); yes != n || no != 0 {
					t.Errorf("%s %d: %d bypassed, %d not", path, status, yes, no)
				}
			}
			for _, status = range []int{200, 302, 400, 404, 429, 500, 503} {
				try("/", status)
			}
			g.upstream.server.Close()
			try("/", 502)
			try("/gone", 410)
		})
	}
}

// A client that goes, before or amid the answer, is charged nothing, and its
// place is free again.
func TestAbortWithOwnKey(t *testing.T) {
	g := newGateway(t, strings.Replace(byokOptions, "credits 1000000/month", "credits 100/month\n concurrent 1", 1), byokSite("byok elevenlabs"))
	_, key := g.key("acme", hourly(1000))
	s := newGated(t, g.upstream)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	req := g.request(t, "GET", "/slow", nil, "X-Api-Key: "+key, elevenHeader+": "+elevenKey).WithContext(ctx)
	go func() {
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	s.await(t)
	cancel()
	if err := <-done; err == nil {
		t.Fatal("not cancelled")
	}
	g.ended(1)
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "hello")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	resp, err := http.DefaultTransport.RoundTrip(g.request(t, "GET", "/", nil, "X-Api-Key: "+key, elevenHeader+": "+elevenKey))
	if err != nil {
		t.Fatal(err)
	}
	reply{resp, ""}.bypass(t, true, "elevenlabs")
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the answer looks whole")
	}
	resp.Body.Close()
	g.ended(2)
	if yes, no := g.bypassed(); yes != 2 || no != 0 || g.used("acme") != 0 {
		t.Errorf("%d bypassed, %d not, used %s", yes, no, g.used("acme"))
	}
}

// A WebSocket tells on its 101, a stream of events with its head; both go on
// without credits, and stored keys count there too.
func TestStreamsWithOwnKeys(t *testing.T) {
	for _, stored := range []bool{false, true} {
		g := newGateway(t, byokOptions, byokSite("byok elevenlabs"))
		_, key := g.key("acme", hourly(1000))
		header := elevenHeader + ": " + elevenKey
		if stored {
			g.keep("acme", "elevenlabs", elevenKey)
			header = "X-Other: 1"
		}
		g.upstream.respond(wsEcho)
		conn, br := g.dial(strings.TrimSuffix(g.handshake(key), "\r\n") + "Connection: " + elevenHeader + "\r\n" + header + "\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
		reply{resp, ""}.bypass(t, true, "elevenlabs").coherent(t)
		_, _ = conn.Write(wsFrame("hello", true))
		if got, err := readFrame(br); err != nil || got != "echo hello" {
			t.Errorf("%q, %v", got, err)
		}
		g.upstream.last(t).has(t, elevenHeader, elevenKey)
		conn.Close()
		g.ended(1)

		next := make(chan bool)
		g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "text/event-stream")
			for range next {
				fmt.Fprintf(w, "data: %s\n\n", r.Header.Get(elevenHeader)[:3])
				w.(http.Flusher).Flush()
			}
			w.Header().Set(http.TrailerPrefix+"X-Cost", "7")
			return true
		})
		go func() { next <- true }()
		resp, err = http.DefaultTransport.RoundTrip(g.request(t, "GET", "/", nil, "X-Api-Key: "+key, header))
		if err != nil {
			t.Fatal(err)
		}
		reply{resp, ""}.bypass(t, true, "elevenlabs").coherent(t)
		close(next)
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "data: sk_\n\n" {
			t.Errorf("%q, %v", body, err)
		}
		resp.Body.Close()
		absent(t, resp.Trailer, "X-Cost")
		g.ended(2)
		if yes, no := g.bypassed(); yes != 2 || no != 0 || g.used("acme") != 0 {
			t.Errorf("%d bypassed, %d not, used %s", yes, no, g.used("acme"))
		}
	}
}

// With usage headers off nothing is told, and nothing is taken all the same.
func TestOwnKeysWithoutUsageHeaders(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok elevenlabs\n usage_headers off"))
	_, key := g.key("acme", hourly(1000))
	r := g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key, elevenHeader+": "+elevenKey), want{200, 0})
	r.bypass(t, false, "elevenlabs")
	g = newGateway(t, twoProviders, "keytoll {\n byok elevenlabs\n}\nreverse_proxy {upstream}")
	_, key = g.key("acme", hourly(1000)) // nothing is charged here at all
	g.keep("acme", "elevenlabs", elevenKey)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
	g.upstream.last(t).has(t, elevenHeader, elevenKey)
}
