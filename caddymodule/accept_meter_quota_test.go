package caddymodule

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

const creditOptions = "plan free {\n credits 10/month\n}\ndefault_plan free\n"

// quotaOptions has one quota of everything there is.
func quotaOptions(quota string) string {
	return "plan free {\n quota " + quota + "\n}\ndefault_plan free\n"
}

// over fails unless a request is refused for a quota, until the day ends.
func (g *gateway) over(t testing.TB, key string) {
	t.Helper()
	n := g.upstream.count()
	r := g.do("POST", "/", "X-Api-Key: "+key).expect(t, 429)
	wait, err := strconv.ParseInt(r.Header.Get("Retry-After"), 10, 64)
	if r.code() != "quota_exceeded" || err != nil || wait < 1 || wait > 24*3600 {
		t.Errorf("%s, Retry-After %q", r.body, r.Header.Get("Retry-After"))
	}
	if g.upstream.count() != n {
		t.Error("the API saw the request")
	}
}

func TestQuotaOfRequests(t *testing.T) {
	g := newGateway(t, quotaOptions("3/day"), plainGate)
	_, one := g.key("acme", hourly(1000))
	_, two := g.key("acme", hourly(1000))
	_, other := g.key("other", hourly(1000))
	for _, key := range []string{one, two, one} {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	g.over(t, one)
	g.over(t, two)
	g.do("GET", "/", "X-Api-Key: "+other).expect(t, 200)
}

// Bytes of a body of known length are bounded before it is sent, of an unknown
// one when it was.
func TestQuotaOfBytesIn(t *testing.T) {
	g := newGateway(t, quotaOptions("100/day bytes_in"), plainGate)
	_, key := g.key("acme", hourly(1000))
	post := func(n int, length bool) reply {
		body := io.Reader(strings.NewReader(strings.Repeat("x", n)))
		if !length {
			body = io.NopCloser(body)
		}
		return g.send(g.request(t, "POST", "/", body, "X-Api-Key: "+key))
	}
	post(60, true).expect(t, 200)
	post(41, true).expect(t, 429)
	post(30, false).expect(t, 200) // 90
	g.ended(3)
	post(11, true).expect(t, 429)
	post(50, false).expect(t, 200) // 140: known too late
	g.ended(5)
	g.over(t, key)
	if saw := g.upstream.last(t); saw.Length != 50 {
		t.Errorf("the API saw %d bytes", saw.Length)
	}
	var in int64
	for _, p := range g.points(rollup.ByClass) {
		if p.Class == rollup.Class2xx {
			in += p.BytesIn
		}
	}
	if in != 140 {
		t.Errorf("%d bytes in usage, want 140", in)
	}
}

// A chunked body that the API does not wait for ends with the request.
func TestBytesInOfABodyThatIsNotRead(t *testing.T) {
	g := newGateway(t, quotaOptions("1GiB/day bytes_in"), plainGate)
	_, key := g.key("acme", hourly(1000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(200)
		return true
	})
	for range 20 {
		body := io.NopCloser(io.LimitReader(zeros{}, 1<<20))
		resp, err := http.DefaultTransport.RoundTrip(g.request(t, "POST", "/", body, "X-Api-Key: "+key))
		if err == nil { // else the connection was closed under the body
			resp.Body.Close()
		}
	}
	eventually(t, "all end", func() bool { return g.counted() >= 1 })
}

func TestQuotaOfBytesOut(t *testing.T) {
	g := newGateway(t, quotaOptions("40/day bytes_out"), plainGate)
	_, key := g.key("acme", hourly(1000))
	for n := range 3 { // of 19 bytes each: the third passes 40
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		g.ended(int64(n + 1))
	}
	g.over(t, key)
}

// Seconds are rounded up: a request takes one at least.
func TestQuotaOfSeconds(t *testing.T) {
	g := newGateway(t, quotaOptions("2/day seconds"), plainGate)
	_, key := g.key("acme", hourly(1000))
	n := int64(0)
	for {
		n++
		if r := g.do("GET", "/", "X-Api-Key: "+key); r.StatusCode == 429 {
			break
		} else if r.expect(t, 200); n > 2 {
			t.Fatal("three requests took two seconds")
		}
		g.ended(n)
	}
	if n == 1 {
		t.Error("the first was refused")
	}
	g.over(t, key)
}

// A request refused for credits takes nothing from the quota, and the other way
// round.
func TestQuotaAndCreditsAreOne(t *testing.T) {
	g := newGateway(t, "plan free {\n credits 10/month\n quota 3/day\n}\ndefault_plan free\n", meterSite)
	_, key := g.key("acme", hourly(1000))
	for range 5 {
		g.do("GET", "/big", "X-Api-Key: "+key)
	}
	g.ended(5)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 402)
	g.do("GET", "/nothing", "X-Api-Key: "+key).expect(t, 200)
	r := g.do("GET", "/nothing", "X-Api-Key: "+key).expect(t, 429)
	if r.code() != "quota_exceeded" || g.used("acme") != 10*credits {
		t.Errorf("%s, used %s", r.body, g.used("acme"))
	}
}

// What is only observed refuses nothing and shows in usage.
func TestObserve(t *testing.T) {
	plan := func(line string) string { return "plan free {\n " + line + "\n}\ndefault_plan free\n" }
	for name, tt := range map[string]struct{ options, site string }{
		"quota":   {plan("quota 2/day observe"), plainGate},
		"credits": {plan("credits 2/month observe"), "keytoll {\n charge 1\n}\nreverse_proxy {upstream}"},
		"limit":   {plan("quota 1000/day"), "keytoll {\n limit 2/1h observe\n}\nreverse_proxy {upstream}"},
		"permit":  {"permission read\n" + plan("quota 1000/day"), "keytoll {\n permit observe * read\n}\nreverse_proxy {upstream}"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, tt.options, tt.site)
			_, key := g.key("acme", hourly(1000))
			first := key
			if name == "permit" {
				reader := hourly(1000)
				reader.Permissions = []string{"read"}
				_, first = g.key("acme", reader)
			}
			for i := range 5 {
				if i == 2 {
					first = key
				}
				g.do("GET", "/", "X-Api-Key: "+first).expect(t, 200)
				g.ended(int64(i + 1))
			}
			got := map[rollup.Flags]int64{}
			for _, p := range g.points(rollup.ByFlags) {
				got[p.Flags] += p.Requests
			}
			if got[0] != 2 || got[rollup.Observed] != 3 {
				t.Errorf("usage %v, want 2 and 3 that would have been refused", got)
			}
		})
	}
}

// Free requests are let in with an empty purse, so observing says nothing of
// them.
func TestObserveOfFreeRequests(t *testing.T) {
	g := newGateway(t, "plan free {\n credits 1/month observe\n}\ndefault_plan free\n", meterSite)
	_, key := g.key("acme", hourly(1000))
	for i, path := range []string{"/", "/", "/nothing"} {
		g.do("GET", path, "X-Api-Key: "+key).expect(t, 200)
		g.ended(int64(i + 1))
	}
	for _, p := range g.points(rollup.ByFlags) {
		if p.Flags == rollup.Observed && p.Requests != 1 {
			t.Errorf("%d requests would have been refused, want 1", p.Requests)
		}
	}
}

func (g *gateway) override(tenant string, o *access.Override) {
	g.t.Helper()
	if _, err := g.registrar().SetTenantOverride(context.Background(), tenant, o); err != nil {
		g.t.Fatal(err)
	}
}

// An override holds from the next request until it ends.
func TestOverrides(t *testing.T) {
	g := newGateway(t, creditOptions, meterSite)
	id, key := g.key("acme", hourly(1000))
	remaining := func(want string) {
		t.Helper()
		eventually(t, want+" remain", func() bool {
			r := g.do("GET", "/nothing", "X-Api-Key: "+key)
			return r.Header.Get("X-Usage-Remaining") == want
		})
	}
	g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 200)
	g.override("acme", &access.Override{Credits: 50 * credits})
	remaining("45")
	g.override("acme", nil)
	remaining("5")
	until := time.Now().Unix() + 2
	g.override("acme", &access.Override{Credits: 7 * credits, Until: until})
	remaining("2")
	remaining("5") // once it is over
	// A key's own, with the tenant's at once.
	if _, err := g.registrar().SetKeyOverride(t.Context(), id, &access.Override{Credits: 2 * credits}); err != nil {
		t.Fatal(err)
	}
	_, second := g.key("acme", hourly(1000))
	eventually(t, "the key's credits are known", func() bool { return g.do("GET", "/big", "X-Api-Key: "+key).StatusCode == 402 })
	before := g.used("acme")
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 402)
	for range 3 {
		g.do("GET", "/", "X-Api-Key: "+second).expect(t, 200)
	}
	g.do("GET", "/", "X-Api-Key: "+second).expect(t, 402)
	if got := g.used("acme") - before; got != 5*credits {
		t.Errorf("used %s", got)
	}
}

// Grants are spent after the plan's credits, and not once they have expired.
func TestGrants(t *testing.T) {
	g := newGateway(t, creditOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	show := func(limit, remaining string) {
		t.Helper()
		eventually(t, limit+" with "+remaining+" left", func() bool {
			r := g.do("GET", "/nothing", "X-Api-Key: "+key)
			return r.Header.Get("X-Usage-Remaining") == remaining && r.Header.Get("X-Usage-Limit") == limit
		})
	}
	ctx := t.Context()
	first, err := g.registrar().GrantCredits(ctx, "acme", registrar.GrantRequest{Amount: 5 * credits})
	if err != nil {
		t.Fatal(err)
	}
	show("15", "15")
	for range 3 {
		g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 200)
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 402)
	soon := time.Now().Add(2 * time.Second).Truncate(time.Second)
	if _, err := g.registrar().GrantCredits(ctx, "acme", registrar.GrantRequest{Amount: 8 * credits, Expires: &soon}); err != nil {
		t.Fatal(err)
	}
	show("23", "8")
	show("15", "0") // once it has expired
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	if _, err := g.registrar().GrantCredits(ctx, "acme", registrar.GrantRequest{Amount: 8 * credits, Expires: &past}); err == nil {
		show("15", "0")
	}
	if err := g.registrar().RevokeGrant(ctx, "acme", first.ID); err != nil {
		t.Fatal(err)
	}
	show("10", "0")
}

// A plan that changes by a reload holds from the next request; what was used
// stays.
func TestPlanChangesByReload(t *testing.T) {
	g := newGateway(t, meterOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 200)
	for _, tt := range []struct {
		credits, remaining string
		status             int
	}{{"6", "0", 200}, {"3", "0", 402}, {"100", "93", 200}} {
		g.load(strings.Replace(meterOptions, "10/month", tt.credits+"/month", 1), meterSite)
		r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, tt.status)
		if r.coherent(t); r.Header.Get("X-Usage-Remaining") != tt.remaining || r.Header.Get("X-Usage-Limit") != tt.credits {
			t.Errorf("with %s: %v", tt.credits, r.Header)
		}
	}
}

// Early data may be sent again by anybody: what costs something is put off, what
// is free is not.
func TestEarlyDataIsNotCharged(t *testing.T) {
	b := &bill{terms: noTerms, x: &exchange{h: new(Handler)}}
	b.x.h.meter = &meter{charges: []chargeRule{{nil, credits}}}
	r := httptest.NewRequest("GET", "/", nil)
	for _, tt := range []struct {
		early bool
		price access.Credits
		want  access.Reason
	}{{true, credits, access.TooEarly}, {true, 0, access.Allowed}, {false, credits, access.Allowed}} {
		r.TLS = &tls.ConnectionState{HandshakeComplete: !tt.early}
		b.price, b.x.h.meter.charges[0].price = 0, tt.price
		if got := b.x.h.name(r, b); got != tt.want {
			t.Errorf("early %v, price %s: %s, want %s", tt.early, tt.price, got, tt.want)
		}
	}
}

// What is refused for want of credits, for a quota or as one too many at a time
// has counted for the rates of its key, and says so.
func TestRefusalsOfMeteringTellTheRate(t *testing.T) {
	g := newGateway(t, "plan free {\n rate 50/1h\n credits 2/month\n quota 3/day\n}\nplan one {\n rate 50/1h\n credits 9/month\n concurrent 1\n}\ndefault_plan free\n",
		"keytoll {\n charge /free 0\n charge 1\n}\nreverse_proxy {upstream}")
	tells := func(r reply, left string) {
		t.Helper()
		once(t, r.Header, "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset")
		if got := r.Header.Get("X-Ratelimit-Remaining"); got != left {
			t.Errorf("%s left, want %s", got, left)
		}
	}
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for _, left := range []string{"49", "48"} {
		tells(g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200), left)
	}
	tells(g.do("GET", "/", "X-Api-Key: "+key).expect(t, 402), "47")
	tells(g.do("GET", "/free", "X-Api-Key: "+key).expect(t, 200), "46")
	tells(g.do("GET", "/free", "X-Api-Key: "+key).expect(t, 429), "45")
}

// The doors of keytoll_api are no part of the API that is sold: they take
// nothing from quotas and bounds, and are open to who has used up all.
func TestQuotaLeavesDoorsOpen(t *testing.T) {
	g := newGateway(t, "plan free {\n credits 1/month\n quota 1/day\n quota 100/day bytes_in observe\n concurrent 1 per tenant\n}\ndefault_plan free\n", `
keytoll_api usage {
	base /v1/usage
}
keytoll_api keys {
	base /v1/keys
}
keytoll {
	charge 1
}
reverse_proxy {upstream}`)
	api := newGated(t, g.upstream)
	id, key := g.key("acme", hourly(1000))
	doors := func() {
		t.Helper()
		for _, path := range []string{"/v1/usage", "/v1/usage/credits", "/v1/keys"} {
			g.do("GET", path, "X-Api-Key: "+key).expect(t, 200).coherent(t)
		}
	}
	doors()
	slow := g.background("GET", "/slow", "X-Api-Key: "+key)
	api.await(t)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
	doors()
	api.release()
	if got := <-slow; got != 200 {
		t.Fatal(got)
	}
	g.over(t, key)
	doors()
	g.do("DELETE", "/v1/keys/"+id.String(), "X-Api-Key: "+key).expect(t, 204)
	if n := g.used("acme"); n != access.Credit {
		t.Errorf("used %s", n)
	}
}
