package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// limitRate reads a rate, for keys.
func limitRate(t testing.TB, text string) *access.Rate {
	t.Helper()
	r, err := access.ParseRate(text)
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

// limitNumbers are the X-RateLimit headers of a reply.
func limitNumbers(h http.Header) string {
	return h.Get("X-RateLimit-Limit") + "/" + h.Get("X-RateLimit-Remaining")
}

// limitFrom hands a request to the running server as if it came from remote.
// change may be nil.
func limitFrom(g *gateway, remote, path, key string, change func(*http.Request)) *httptest.ResponseRecorder {
	g.t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		g.t.Fatal(err)
	}
	r := httptest.NewRequest("GET", g.url+path, nil)
	r.RemoteAddr = remote
	if key != "" {
		r.Header["X-Api-Key"] = []string{key}
	}
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	for _, s := range app.(*caddyhttp.App).Servers {
		s.ServeHTTP(w, r)
	}
	return w
}

func TestA18RateHeaders(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "100/1m")})
	before := time.Now()
	r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if got := limitNumbers(r.Header); got != "100/99" {
		t.Errorf("limit and remaining %s", got)
	}
	reset, err := strconv.ParseInt(r.Header.Get("X-RateLimit-Reset"), 10, 64)
	if err != nil || reset < before.Unix() || reset > time.Now().Unix()+2 {
		t.Errorf("reset %d, %v: want the second in which one request is regained", reset, err)
	}
	for _, name := range []string{"Retry-After", "RateLimit", "RateLimit-Policy"} {
		if v := r.Header.Values(name); v != nil {
			t.Errorf("%s: %q", name, v)
		}
	}
	// The bucket is full after the window, not at some fixed point.
	for range 49 {
		r = g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	last, _ := strconv.ParseInt(r.Header.Get("X-RateLimit-Reset"), 10, 64)
	if d := last - before.Unix(); d < 29 || d > 32+int64(time.Since(before).Seconds()) {
		t.Errorf("after 50 of 100 in a minute the bucket is full in %d seconds", d)
	}
}

func TestA19RequestPastTheLimit(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "100/1d")})
	for i := range 100 {
		r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		if got, want := limitNumbers(r.Header), fmt.Sprintf("100/%d", 99-i); got != want {
			t.Fatalf("request %d: %s, want %s", i+1, got, want)
		}
	}
	r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
	if got := limitNumbers(r.Header); got != "100/0" {
		t.Errorf("limit and remaining %s", got)
	}
	if n, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || n < 1 || n > 864 {
		t.Errorf("Retry-After %q, %v", r.Header.Get("Retry-After"), err)
	}
	if r.code() != "rate_limit_exceeded" || r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("code %q, headers %v", r.code(), r.Header)
	}
	if n := g.upstream.count(); n != 100 {
		t.Errorf("the upstream saw %d requests", n)
	}
}

func TestA19NeverOverAdmitsConcurrently(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "100/1d")})
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := make(map[int]int)
	for range 8 {
		wg.Go(func() {
			for range 25 {
				w := limitFrom(g, "127.0.0.1:9", "/", key, nil)
				mu.Lock()
				got[w.Code]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got[200] != 100 || got[429] != 100 || g.upstream.count() != 100 {
		t.Errorf("answers %v, the upstream saw %d", got, g.upstream.count())
	}
}

func TestA20AllowedAgainAfterRetryAfter(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "1/2s")})
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	r := g.do("GET", "/", "X-Api-Key: "+key)
	if r.StatusCode == 200 {
		t.Skip("two seconds passed between two requests")
	}
	n, err := strconv.Atoi(r.expect(t, 429).Header.Get("Retry-After"))
	if err != nil || n < 1 || n > 2 {
		t.Fatalf("Retry-After %q", r.Header.Get("Retry-After"))
	}
	time.Sleep(time.Duration(n) * time.Second)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
}

const limitPlans = `
plan free {
	rate 100/1m
}
plan pro {
	rate 1000/1m
}
default_plan free
`

func TestA21PlanNumbers(t *testing.T) {
	g := newGateway(t, limitPlans, plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	if r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200); limitNumbers(r.Header) != "100/99" {
		t.Errorf("free: %s", limitNumbers(r.Header))
	}
	if _, err := g.registrar().SetTenantPlan(context.Background(), "acme", "pro"); err != nil {
		t.Fatal(err)
	}
	r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if r.Header.Get("X-RateLimit-Limit") != "1000" {
		t.Errorf("pro: %s", limitNumbers(r.Header))
	}
}

func TestA22KeyOverridesPlan(t *testing.T) {
	g := newGateway(t, limitPlans, plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "10/1d")})
	for range 10 {
		if r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200); r.Header.Get("X-RateLimit-Limit") != "10" {
			t.Fatalf("limit %s", limitNumbers(r.Header))
		}
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
}

func TestA23KeysOfOneTenantAreApart(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, one := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "1/1d")})
	_, two := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "1/1d")})
	g.do("GET", "/", "X-Api-Key: "+one).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+one).expect(t, 429)
	g.do("GET", "/", "X-Api-Key: "+two).expect(t, 200)
}

func TestA24TenantLimit(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n limit 3/1d per tenant\n }\n reverse_proxy {upstream}")
	_, one := g.key("acme", registrar.CreateKeyRequest{})
	_, two := g.key("acme", registrar.CreateKeyRequest{})
	_, other := g.key("other", registrar.CreateKeyRequest{})
	for i, key := range []string{one, two, one} {
		r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		if got, want := limitNumbers(r.Header), fmt.Sprintf("3/%d", 2-i); got != want {
			t.Errorf("request %d: %s, want %s", i+1, got, want)
		}
	}
	g.do("GET", "/", "X-Api-Key: "+one).expect(t, 429)
	g.do("GET", "/", "X-Api-Key: "+two).expect(t, 429)
	g.do("GET", "/", "X-Api-Key: "+other).expect(t, 200)
}

func TestLimitPerAddress(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n allow_http\n public /open\n limit 2/1d per address\n }\n reverse_proxy {upstream}")
	_, one := g.key("acme", registrar.CreateKeyRequest{})
	_, two := g.key("other", registrar.CreateKeyRequest{})
	for _, c := range []struct {
		remote, path, key string
		want              int
	}{
		{"203.0.113.9:1", "/", one, 200}, {"203.0.113.9:2", "/", two, 200}, {"203.0.113.9:3", "/", one, 429},
		{"203.0.113.9:4", "/open", "", 429}, {"203.0.113.10:1", "/", one, 200},
		{"203.0.113.10:1", "/open", "", 200}, {"203.0.113.10:1", "/open", "", 429},
		{"[2001:db8::1]:1", "/open", "", 200}, {"[2001:db8::2]:1", "/open", "", 200}, {"[2001:db8::3]:1", "/open", "", 429},
		{"[2001:db8:0:1::1]:1", "/open", "", 200}, {"[::ffff:203.0.113.9]:1", "/open", "", 429},
	} {
		if w := limitFrom(g, c.remote, c.path, c.key, nil); w.Code != c.want {
			t.Errorf("%s %s: %d, want %d", c.remote, c.path, w.Code, c.want)
		}
	}
}

func TestLimitByRoute(t *testing.T) {
	g := newGateway(t, "", `
	@writes method POST
	keytoll {
		limit /search* 1/1d
		limit @writes 2/1d
	}
	reverse_proxy {upstream}`)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	h := "X-Api-Key: " + key
	if r := g.do("GET", "/other", h).expect(t, 200); limitNumbers(r.Header) != "/" {
		t.Errorf("no limit is about this request, but %s", limitNumbers(r.Header))
	}
	if r := g.do("GET", "/search/x", h).expect(t, 200); limitNumbers(r.Header) != "1/0" {
		t.Errorf("search %s", limitNumbers(r.Header))
	}
	g.do("GET", "/search", h).expect(t, 429)
	g.do("GET", "/other", h).expect(t, 200)
	g.do("POST", "/other", h).expect(t, 200)
	g.do("POST", "/other", h).expect(t, 200)
	g.do("POST", "/other", h).expect(t, 429)
}

// A request that one limit refuses takes nothing from the others, and the
// tightest of those that let it in is the one in the headers.
func TestLimitsAllOrNothing(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n limit /x 1/1d\n limit 50/1d per tenant\n limit 40/1d per address\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "5/1d")})
	h := "X-Api-Key: " + key
	if r := g.do("GET", "/x", h).expect(t, 200); limitNumbers(r.Header) != "1/0" {
		t.Errorf("tightest: %s", limitNumbers(r.Header))
	}
	for range 10 {
		if r := g.do("GET", "/x", h).expect(t, 429); limitNumbers(r.Header) != "1/0" {
			t.Errorf("refused by %s", limitNumbers(r.Header))
		}
	}
	for i := range 4 {
		if r := g.do("GET", "/y", h).expect(t, 200); limitNumbers(r.Header) != fmt.Sprintf("5/%d", 3-i) {
			t.Errorf("other route: %s", limitNumbers(r.Header))
		}
	}
	g.do("GET", "/y", h).expect(t, 429)
	// Neither did they take from tenant and address.
	_, second := g.key("acme", registrar.CreateKeyRequest{})
	if r := g.do("GET", "/y", "X-Api-Key: "+second).expect(t, 200); limitNumbers(r.Header) != "40/34" {
		t.Errorf("address: %s, want what 6 requests leave of 40", limitNumbers(r.Header))
	}
}

func TestRateHeaderForms(t *testing.T) {
	site := "keytoll {\n rate_headers %s\n limit /s* 10/1s burst 30 per tenant name search\n}\nreverse_proxy {upstream}"
	g := newGateway(t, "", fmt.Sprintf(site, "x"))
	for _, form := range []string{"x", "draft", "both", "off"} {
		g.load("", fmt.Sprintf(site, form))
		_, key := g.key("t-"+form, registrar.CreateKeyRequest{Rate: limitRate(t, "2/1d")})
		g.upstream.respond(func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("X-RateLimit-Limit", "7")
			w.Header()["Ratelimit"] = []string{`"upstream";r=1`, "x"}
			return false
		})
		ok := g.do("GET", "/s", "X-Api-Key: "+key).expect(t, 200)
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		refused := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
		x, draft := form == "x" || form == "both", form == "draft" || form == "both"
		if got := limitNumbers(ok.Header); x && got != "2/1" || !x && got != "7/" {
			t.Errorf("%s: %s", form, got)
		}
		if got := limitNumbers(refused.Header); x && got != "2/0" || !x && got != "/" {
			t.Errorf("%s: refused with %s", form, got)
		}
		limitDraft(t, ok.Header, draft, `"key";q=2;w=86400, "search";q=30;w=3`, `"key";r=1;t=43200, "search";r=29;t=1`)
		if draft {
			limitDraft(t, refused.Header, true, `"key";q=2;w=86400`, `"key";r=0;t=43200`)
			if n := refused.Header.Get("Retry-After"); n != "43200" && n != "43199" {
				t.Errorf("Retry-After %q", refused.Header.Get("Retry-After"))
			}
		}
	}
}

// limitDraft compares the fields of draft-ietf-httpapi-ratelimit-headers-11.
// A bucket may have regained something by the time it is read.
func limitDraft(t *testing.T, h http.Header, want bool, policy, state string) {
	t.Helper()
	if !want {
		if v := h.Values("RateLimit-Policy"); v != nil {
			t.Errorf("RateLimit-Policy %q", v)
		}
		return
	}
	if got := h.Values("RateLimit-Policy"); !slices.Equal(got, []string{policy}) {
		t.Errorf("RateLimit-Policy %q, want %q", got, policy)
	}
	got := strings.NewReplacer("t=43199", "t=43200", `"search";r=30`, `"search";r=29;t=1`).Replace(strings.Join(h.Values("RateLimit"), " | "))
	if got != state {
		t.Errorf("RateLimit %q, want %q", got, state)
	}
}
