package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
)

const meterOptions = `
		plan free {
			credits 10/month
			quota 100/day
			concurrent 2
		}
		default_plan free
`

// roomyOptions is a plan that no test of prices comes to the end of.
const roomyOptions = `
		plan free {
			credits 1000000/month
		}
		default_plan free
`

const meterSite = `
	@big path /big
	@nothing path /nothing
	@part path /part
	keytoll {
		charge @big 5
		charge @nothing 0
		charge @part 0.25
		charge 1
		charge_header X-Cost
		route @big big
	}
	reverse_proxy {upstream}
`

const credits = access.Credit

// A42: what the headers say is what the ledger has, on answers and on refusals.
func TestA42CreditsAreCharged(t *testing.T) {
	g := newGateway(t, meterOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	cost := ""
	status := 200
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if cost != "" {
			w.Header().Set("X-Cost", cost)
		}
		w.WriteHeader(status)
		return true
	})
	check := func(path, used, left string, want int) {
		t.Helper()
		r := g.do("GET", path, "X-Api-Key: "+key)
		r.coherent(t)
		if r.StatusCode != want || r.Header.Get("X-Usage-Current") != used || r.Header.Get("X-Usage-Remaining") != left || r.Header.Get("X-Usage-Limit") != "10" || r.Header.Get("X-Cost") != "" {
			t.Errorf("%s: %d %v %s", path, r.StatusCode, r.Header, r.body)
		}
	}
	check("/", "1", "9", 200)
	check("/big", "6", "4", 200)
	check("/big", "6", "4", 402)
	status = 500
	check("/", "6", "4", 500)
	status, cost = 200, "3"
	check("/", "9", "1", 200)
	cost = "-1"
	check("/", "10", "0", 200)
	cost = ""
	check("/", "10", "0", 402)
	check("/nothing", "10", "0", 200)
	if got := g.used("acme"); got != 10*credits {
		t.Errorf("used %s", got)
	}
}

// The first charge that matches decides.
func TestFirstChargeDecides(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	for path, price := range map[string]access.Credits{"/big": 5 * credits, "/nothing": 0, "/part": credits / 4, "/else": credits} {
		g.charged(t, g.request(t, "GET", path, nil, "X-Api-Key: "+key), want{200, price})
	}
	g = newGateway(t, roomyOptions, "@big path /big\nkeytoll {\n charge @big 5\n}\nreverse_proxy {upstream}")
	_, key = g.key("acme", hourly(1000))
	g.charged(t, g.request(t, "GET", "/else", nil, "X-Api-Key: "+key), want{200, 0})
	g.charged(t, g.request(t, "GET", "/big", nil, "X-Api-Key: "+key), want{200, 5 * credits})
}

// A43: an empty purse is 402, says what is missing, and the API sees nothing.
func TestA43NoCredits(t *testing.T) {
	g := newGateway(t, strings.Replace(meterOptions, "10/month", "4.5/month", 1), strings.Replace(meterSite, "@big 5", "@big 4.2", 1))
	_, key := g.key("acme", hourly(1000))
	g.do("GET", "/part", "X-Api-Key: "+key).expect(t, 200) // 4.25 left
	g.do("GET", "/part", "X-Api-Key: "+key).expect(t, 200) // 4 left
	n := g.upstream.count()
	for _, method := range []string{"GET", "POST", "HEAD"} {
		r := g.do(method, "/big", "X-Api-Key: "+key).expect(t, 402)
		if r.coherent(t); r.Header.Get("X-Usage-Remaining") != "4" {
			t.Errorf("headers %v", r.Header)
		}
		absent(t, r.Header, "Retry-After")
		if method == "HEAD" {
			continue
		}
		details, _ := r.object(t)["error"].(map[string]any)["details"].(map[string]any)
		if r.code() != "insufficient_credits" || details["credits_needed"] != 5.0 || details["credits_available"] != 4.0 {
			t.Errorf("body %s", r.body)
		}
	}
	if g.upstream.count() != n {
		t.Error("the API saw a request that was not paid for")
	}
	if got := g.used("acme"); got != credits/2 {
		t.Errorf("used %s", got)
	}
}

// X-Request-Id is one for the request, its answer and nothing else; what the
// client and the API send under our names is gone.
func TestUsageHeadersAreOurs(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header()["X-Request-Id"] = []string{"from-api", "twice"}
		for _, name := range usageNames[:3] {
			w.Header()[name] = []string{"7777", "8888"}
		}
		return false
	})
	ids := map[string]bool{}
	for range 3 {
		r := g.do("GET", "/", "X-Api-Key: "+key, "X-Request-Id: client-1", "X-Request-Id: client-2", "x-request-id: client-3", "X_request_id: client-4",
			"X-Usage-Remaining: 99").expect(t, 200)
		r.coherent(t)
		id := r.Header.Get("X-Request-Id")
		saw := g.upstream.last(t).Header
		if v := saw["X-Request-Id"]; len(v) != 1 || v[0] != id || ids[id] || strings.Contains(id, "client") || strings.Contains(id, "api") {
			t.Errorf("answered %q, the API saw %q", id, v)
		}
		for name, v := range saw {
			if strings.Contains(strings.Join(v, " "), "client-") {
				t.Errorf("the API saw the client's %s: %q", name, v)
			}
		}
		ids[id] = true
	}
	for _, r := range []reply{
		g.do("GET", "/", "X-Api-Key: "+key[:len(key)-1]+"x"), g.do("GET", "/"),
	} {
		absent(t, r.expect(t, 401).Header, usageNames...)
	}
}

// The usage headers stand on every answer to a request with a good key.
func TestUsageHeadersOnRefusals(t *testing.T) {
	options := strings.Replace(meterOptions, "quota 100/day", "quota 3/day", 1)
	g := newGateway(t, options, "@closed path /closed\n"+strings.Replace(meterSite, "keytoll {", "keytoll {\n errors inline\n", 1))
	_, key := g.key("acme", hourly(1000))
	_, slow := g.key("acme", hourly(1))
	g.do("GET", "/", "X-Api-Key: "+slow).expect(t, 200).coherent(t)
	g.do("GET", "/", "X-Api-Key: "+slow).expect(t, 429).coherent(t)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).coherent(t)
	g.upstream.server.Close()
	r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 502)
	if r.coherent(t) != 2 {
		t.Errorf("a failed request shows as charged: %v", r.Header)
	}
	r = g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
	if r.coherent(t); r.code() != "quota_exceeded" {
		t.Errorf("%s", r.body)
	}
}

// With errors caddy, the site's own pages carry the headers too.
func TestUsageHeadersOnErrorPages(t *testing.T) {
	g := newGateway(t, meterOptions, strings.Replace(meterSite, "keytoll {", "keytoll {\n errors caddy\n", 1)+
		"\nhandle_errors {\n respond \"sorry {err.status_code}\"\n}\n")
	_, key := g.key("acme", hourly(1000))
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 200)
	r := g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 402)
	if r.coherent(t) != 6 || r.body != "sorry 402" {
		t.Errorf("%v %s", r.Header, r.body)
	}
	g.upstream.server.Close()
	r = g.do("GET", "/", "X-Api-Key: "+key).expect(t, 502)
	if r.coherent(t) != 6 {
		t.Errorf("%v %s", r.Header, r.body)
	}
	g.ended(4)
	if got := g.used("acme"); got != 6*credits {
		t.Errorf("used %s", got)
	}
}

func TestUsageHeadersOnAndOff(t *testing.T) {
	for word, there := range map[string]bool{"on": true, "off": false} {
		g := newGateway(t, meterOptions, strings.Replace(meterSite, "keytoll {", "keytoll {\n usage_headers "+word+"\n", 1))
		_, key := g.key("acme", hourly(1000))
		r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		if there {
			r.coherent(t)
		} else {
			absent(t, r.Header, usageNames...)
		}
	}
	g := newGateway(t, "plan free {\n quota 10/day\n}\ndefault_plan free\n", "keytoll\nreverse_proxy {upstream}")
	_, key := g.key("acme", hourly(1000))
	absent(t, g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).Header, usageNames...)
}

// costs are what an API may tell, and what the request then costs with a price
// of 1.
var costs = []struct {
	name   string
	told   []string
	charge access.Credits
}{
	{"none", nil, credits},
	{"more", []string{"3"}, 3 * credits},
	{"less", []string{"0.25"}, credits / 4},
	{"a millionth", []string{"0.000001"}, 1},
	{"nothing", []string{"0"}, 0},
	{"negative", []string{"-1"}, credits},
	{"negative nothing", []string{"-0"}, credits},
	{"too fine", []string{"0.0000001"}, credits},
	{"huge", []string{"1000000000001"}, credits},
	{"beyond integers", []string{"99999999999999999999999999"}, credits},
	{"exponent", []string{"1e3"}, credits},
	{"word", []string{"free"}, credits},
	{"not a number", []string{"NaN"}, credits},
	{"empty", []string{""}, credits},
	{"list", []string{"1, 2"}, credits},
	{"hexadecimal", []string{"0x10"}, credits},
	{"several", []string{"0", "2"}, credits},
	{"the same twice", []string{"2", "2"}, credits},
}

// The cost in a header, and in a trailer that was announced or was not. Clients
// see none of it.
func TestCostsTold(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(100000))
	var told []string
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/header":
			w.Header()["X-Cost"] = told
		case "/announced":
			w.Header()["Trailer"] = []string{"X-Sum, x-cost", "X-Other"}
			_, _ = io.WriteString(w, "body")
			w.Header()["X-Cost"] = told
			w.Header().Set("X-Sum", "abc")
		case "/alone":
			w.Header()["Trailer"] = []string{"X-Cost"}
			_, _ = io.WriteString(w, "body")
			w.Header()["X-Cost"] = told
		case "/unannounced":
			_, _ = io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			w.Header()[http.TrailerPrefix+"X-Cost"] = told
			w.Header()[http.TrailerPrefix+"X-Sum"] = []string{"abc"}
		}
		return true
	})
	for _, c := range costs {
		for _, path := range []string{"/header", "/announced", "/alone", "/unannounced"} {
			told = c.told
			t.Run(c.name+path, func(t *testing.T) {
				r := g.charged(t, g.request(t, "GET", path, nil, "X-Api-Key: "+key, "Te: trailers"), want{200, c.charge})
				for _, h := range []http.Header{r.Header, r.Trailer} {
					absent(t, h, "X-Cost")
					if strings.Contains(strings.ToLower(h.Get("Trailer")), "cost") {
						t.Errorf("announced: %v", h)
					}
				}
				if (path == "/announced" || path == "/unannounced") && r.Trailer.Get("X-Sum") != "abc" {
					t.Errorf("the other trailer is gone: %v", r.Trailer)
				}
			})
		}
	}
}

// A trailer is newer than a header: its cost holds. If it is none, that of the
// header does.
func TestCostInHeaderAndTrailer(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(100000))
	for _, tt := range []struct {
		header, trailer string
		want            access.Credits
	}{{"2", "3", 3 * credits}, {"3", "0", 0}, {"2", "-3", 2 * credits}, {"x", "3", 3 * credits}, {"x", "y", credits}} {
		g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X-Cost", tt.header)
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			w.Header().Set(http.TrailerPrefix+"X-Cost", tt.trailer)
			return true
		})
		g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{200, tt.want})
	}
}

// The cost in every version of HTTP.
func TestCostInEveryVersion(t *testing.T) {
	g := newTLSGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(100000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header()["Trailer"] = []string{"X-Cost, X-Sum"}
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Cost", "3")
		w.Header().Set("X-Sum", "abc")
		return true
	})
	n := int64(0)
	g.eachProto(t, func(t *testing.T, c protoClient) {
		r := c.send(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key)).expect(t, 200)
		absent(t, r.Header, "X-Cost")
		absent(t, r.Trailer, "X-Cost")
		if r.Trailer.Get("X-Sum") != "abc" {
			t.Errorf("trailers %v", r.Trailer)
		}
		n++
		g.ended(n)
		if got := g.used("acme"); got != access.Credits(n)*3*credits {
			t.Errorf("used %s", got)
		}
	})
}

// The cost on answers without a body.
func TestCostWithoutABody(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(100000))
	status := 200
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Cost", "3")
		w.WriteHeader(status)
		return true
	})
	for _, tt := range []struct {
		method string
		status int
		want   access.Credits
	}{
		{"HEAD", 200, 3 * credits}, {"GET", 304, 3 * credits}, {"GET", 204, 3 * credits}, {"HEAD", 304, 3 * credits},
		{"GET", 404, 3 * credits}, {"GET", 500, 0}, {"GET", 503, 0}, {"HEAD", 500, 0}, {"GET", 599, 0},
	} {
		status = tt.status
		r := g.charged(t, g.request(t, tt.method, "/", nil, "X-Api-Key: "+key), want{tt.status, tt.want})
		absent(t, r.Header, "X-Cost")
		r.coherent(t)
	}
}

// An informational answer shows the cost no more than a final one.
func TestCostInInformationalAnswer(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(100000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Cost", "9")
		w.Header().Set("Link", "</a>; rel=preload")
		w.WriteHeader(103)
		w.Header().Set("X-Cost", "2")
		w.WriteHeader(200)
		return true
	})
	_, br := g.dial("GET / HTTP/1.1\r\nHost: " + g.addr + "\r\nX-Api-Key: " + key + "\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(br)
	if err != nil || !strings.Contains(string(all), " 103 ") || !strings.Contains(string(all), " 200 ") {
		t.Fatalf("%s, %v", all, err)
	}
	if strings.Contains(strings.ToLower(string(all)), "x-cost") {
		t.Errorf("the client sees the cost: %s", all)
	}
	g.ended(1)
	if got := g.used("acme"); got != 2*credits {
		t.Errorf("used %s", got)
	}
}

// A final cost above what there is is charged in full; the rest shows as none,
// and what is given back then is not shown as more than there is.
func TestCostAboveThePurse(t *testing.T) {
	g := newGateway(t, strings.Replace(meterOptions, "10/month", "10/month overage 10", 1), meterSite)
	_, key := g.key("acme", hourly(1000))
	status, cost := 200, "15"
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Cost", cost)
		w.WriteHeader(status)
		return true
	})
	r := g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{200, 15 * credits})
	if r.coherent(t) != 10 {
		t.Errorf("%v", r.Header)
	}
	status = 500
	r = g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{500, 0})
	if r.coherent(t) != 10 {
		t.Errorf("of an overdrawn purse something is left: %v", r.Header)
	}
	status, cost = 200, "100"
	g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{200, 100 * credits})
	r = g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{402, 0})
	if r.coherent(t) != 10 {
		t.Errorf("%v", r.Header)
	}
}
