package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

const reportSite = `
	keytoll_api charges {
		base /charges
	}
	@free path /free
	keytoll {
		charge @free 0
		charge 1
		charge_header X-Cost
		charge_report X-Charge-Report
		public /open
	}
	reverse_proxy {upstream}
`

// narrator is an API that hands out the capability of each request to /say and
// does as it is told from then on: "say" is an event, a number a final cost.
type narrator struct {
	capability chan string
	tell       chan string
}

func newNarrator(u *upstream) *narrator {
	n := &narrator{make(chan string, 10), make(chan string)}
	u.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/ws" {
			n.capability <- r.Header.Get("X-Charge-Report")
			return wsEcho(w, r)
		}
		if r.URL.Path != "/say" && r.URL.Path != "/free" {
			return false
		}
		n.capability <- r.Header.Get("X-Charge-Report")
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			select {
			case word, more := <-n.tell:
				if !more || word == "end" {
					return true
				}
				if word != "say" {
					w.Header().Set(http.TrailerPrefix+"X-Cost", word)
					return true
				}
				_, _ = io.WriteString(w, "data: x\n\n")
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return true
			}
		}
	})
	return n
}

// report posts to the capability of a request and returns the answer.
func (g *gateway) report(t testing.TB, c protoClient, capability, body string) reply {
	t.Helper()
	return c.send(t, g.request(t, "POST", "/charges", strings.NewReader(body), "Authorization: Bearer "+capability))
}

var plainClient = protoClient{"HTTP/1.1", 1, http.DefaultTransport}

// A stream whose API reports what it costs so far is charged so, and at its end
// for what the trailer says, or else for what was reported.
func TestRunningCostOfAStream(t *testing.T) {
	g := newTLSGateway(t, roomyOptions, reportSite)
	_, key := g.key("acme", hourly(1000))
	n := newNarrator(g.upstream)
	requests := int64(0)
	g.eachProto(t, func(t *testing.T, c protoClient) {
		for end, want := range map[string]access.Credits{"end": 7*credits + credits/2, "4": 4 * credits, "20": 20 * credits} {
			before := g.used("acme")
			used := func(want access.Credits) {
				t.Helper()
				if got := g.used("acme") - before; got != want {
					t.Errorf("%s used, want %s", got, want)
				}
			}
			go func() { n.tell <- "say" }()
			resp := c.open(t, g.request(t, "GET", "/say", nil, "X-Api-Key: "+key))
			capability := <-n.capability
			used(credits)
			for _, step := range []struct {
				total string
				used  access.Credits
			}{{"0", credits}, {"0.5", credits}, {"3", 3 * credits}, {"2", 3 * credits}, {"3", 3 * credits}, {"7.5", 7*credits + credits/2}} {
				r := g.report(t, c, capability, `{"credits": `+step.total+`}`).expect(t, 204)
				if r.body != "" {
					t.Errorf("body %q", r.body)
				}
				used(step.used)
			}
			n.tell <- end
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Fatal(err)
			}
			absent(t, resp.Header, "X-Charge-Report")
			absent(t, resp.Trailer, "X-Cost", "X-Charge-Report")
			requests++
			g.ended(requests)
			used(want)
			g.report(t, c, capability, `{"credits": 9}`).expect(t, 404)
			used(want)
		}
	})
	if b := g.points(rollup.ByClass); len(b) != 1 || b[0].Credits != int64(g.used("acme")) {
		t.Errorf("usage %+v", b)
	}
}

// What is reported and not there ends the request, and is charged.
func TestRunningCostBeyondTheCredits(t *testing.T) {
	for _, said := range []bool{true, false} {
		g := newTLSGateway(t, strings.Replace(roomyOptions, "1000000", "10", 1), reportSite)
		n := newNarrator(g.upstream)
		requests := int64(0)
		g.eachProto(t, func(t *testing.T, c protoClient) {
			tenant := "acme" + c.name[5:6]
			_, key := g.key(tenant, hourly(1000))
			done := make(chan error, 1)
			if said {
				go func() { n.tell <- "say" }()
				resp := c.open(t, g.request(t, "GET", "/say", nil, "X-Api-Key: "+key))
				go func() {
					_, err := io.ReadAll(resp.Body)
					done <- err
				}()
			} else { // before the first byte of the answer
				req := g.request(t, "GET", "/say", nil, "X-Api-Key: "+key)
				go func() {
					resp, err := c.RoundTrip(req)
					if err == nil {
						resp.Body.Close()
					}
					done <- err
				}()
			}
			capability := <-n.capability
			g.report(t, c, capability, `{"credits":9}`).expect(t, 204)
			r := g.report(t, c, capability, `{"credits":12.5}`).expect(t, 402)
			if r.body != `{"error":"insufficient_credits","credits_needed":12.5,"credits_available":10}` {
				t.Errorf("body %s", r.body)
			}
			if err := <-done; err == nil {
				t.Error("the answer looks whole")
			}
			requests++
			g.ended(requests)
			if got := g.used(tenant); got != 12*credits+credits/2 {
				t.Errorf("used %s", got)
			}
			c.send(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key)).expect(t, 402)
			requests++
			g.ended(requests)
		})
	}
}

// A WebSocket is charged as it goes on and ends where credits do.
func TestRunningCostOfAWebSocket(t *testing.T) {
	g := newGateway(t, strings.Replace(roomyOptions, "1000000", "10", 1), reportSite)
	_, key := g.key("acme", hourly(1000))
	n := newNarrator(g.upstream)
	conn, br := g.dial(g.handshake(key))
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	absent(t, resp.Header, "X-Charge-Report")
	capability := <-n.capability
	g.report(t, plainClient, capability, `{"credits":10}`).expect(t, 204)
	_, _ = conn.Write(wsFrame("hi", true))
	if got, err := readFrame(br); err != nil || got != "echo hi" {
		t.Fatalf("%q, %v", got, err)
	}
	g.report(t, plainClient, capability, `{"credits":10.000001}`).expect(t, 402)
	if _, err := io.ReadAll(br); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("the connection goes on")
	}
	g.ended(1)
	if got := g.used("acme"); got != 10*credits+1 {
		t.Errorf("used %s", got)
	}
}

// What is refunded stays so, whatever was reported.
func TestRunningCostIsRefunded(t *testing.T) {
	g := newGateway(t, roomyOptions, reportSite)
	_, key := g.key("acme", hourly(1000))
	status, total := 0, ""
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if total != "" {
			g.report(t, plainClient, r.Header.Get("X-Charge-Report"), `{"credits":`+total+`}`).expect(t, 204)
		}
		w.WriteHeader(status)
		return true
	})
	for _, tt := range []struct {
		status int
		total  string
		want   access.Credits
	}{{200, "", credits}, {200, "0", 0}, {200, "8", 8 * credits}, {404, "8", 8 * credits}, {500, "8", 0}, {503, "0", 0}} {
		status, total = tt.status, tt.total
		g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{tt.status, tt.want}).coherent(t)
	}
	status, total = 426, "8"
	before := g.used("acme")
	conn, br := g.dial(g.handshake(key))
	defer conn.Close()
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 426 {
		t.Fatal(resp, err)
	}
	g.ended(7)
	if got := g.used("acme") - before; got != 0 {
		t.Errorf("a refused upgrade cost %s", got)
	}
}

// Headers that come after reports agree with what will be charged.
func TestUsageHeadersWithARunningCost(t *testing.T) {
	g := newGateway(t, strings.Replace(roomyOptions, "1000000", "100", 1), reportSite)
	_, key := g.key("acme", hourly(1000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		g.report(t, plainClient, r.Header.Get("X-Charge-Report"), `{"credits":30}`).expect(t, 204)
		if cost := r.URL.Query().Get("cost"); cost != "" {
			w.Header().Set("X-Cost", cost)
		}
		return true
	})
	for _, tt := range []struct {
		query string
		used  int64
	}{{"", 30}, {"?cost=5", 35}, {"?cost=40", 75}} {
		if used := g.do("GET", "/"+tt.query, "X-Api-Key: "+key).expect(t, 200).coherent(t); used != tt.used {
			t.Errorf("%q: headers say %d, want %d", tt.query, used, tt.used)
		}
	}
}

func TestReportsThatAreNone(t *testing.T) {
	g := newGateway(t, roomyOptions, reportSite)
	_, key := g.key("acme", hourly(1000))
	n := newNarrator(g.upstream)
	g.background("GET", "/say", "X-Api-Key: "+key)
	capability := <-n.capability
	for _, body := range []string{
		``, `{}`, `[]`, `null`, `5`, `{"credits":}`, `{"credits":null}`, `{"credits":"5"}`, `{"credits":-1}`, `{"credits":-0}`, `{"credits":1e3}`,
		`{"credits":0.0000001}`, `{"credits":1.0000000}`, `{"credits":1000000000000.1}`, `{"credits":99999999999999999999}`, `{"credits":NaN}`,
		`{"credits":01}`, `{"credits":1,"credits":2}`, `{"credits":1,"more":2}`, `{"more":2,"credits":1}`, `{"Credits":1}`, `{"credits":[1]}`,
		`{"credits":1} {"credits":2}`, `{"credits":1}x`, `{"credits":1`, `{"credits" 1}`, "{\"credits\":1}\x00",
	} {
		if r := g.report(t, plainClient, capability, body).expect(t, 400); !strings.Contains(r.body, `"invalid_request"`) {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	g.report(t, plainClient, capability, `{"credits":`+strings.Repeat(" ", maxReport)+`1}`).expect(t, 413)
	unknown := g.report(t, plainClient, "rc_0000000000000000000000000000000000000000", `{"credits":1}`).expect(t, 404)
	for _, from := range []string{
		"|Bearer", "|Bearer ", "|" + capability, "|Basic " + capability, "|Bearer " + capability[:len(capability)-1], "|Bearer " + capability + "x",
		"|Bearer  " + capability, "/x|Bearer " + capability, "//|Bearer " + capability, "/" + capability + "|Bearer", "/" + capability + "|",
	} {
		path, authorization, _ := strings.Cut(from, "|")
		r := g.send(g.request(t, "POST", "/charges"+path, strings.NewReader(`{"credits":1}`), "Authorization: "+authorization)).expect(t, 404)
		if r.body != unknown.body {
			t.Errorf("%s: %s, and %s", from, r.body, unknown.body)
		}
	}
	g.send(g.request(t, "POST", "/charges", strings.NewReader(`{"credits":1}`))).expect(t, 404)
	g.send(g.request(t, "POST", "/charges", strings.NewReader(`{"credits":1}`), "Authorization: Bearer "+capability, "Authorization: Bearer x")).expect(t, 404)
	g.send(g.request(t, "POST", "/Charges/", strings.NewReader(`{"credits":1}`), "Authorization: bearer "+capability)).expect(t, 204)
	for _, method := range []string{"GET", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		if r := g.do(method, "/charges", "Authorization: Bearer "+capability).expect(t, 405); r.Header.Get("Allow") != "POST" {
			t.Errorf("%s: %v", method, r.Header)
		}
	}
	if got := g.used("acme"); got != credits {
		t.Errorf("used %s", got)
	}
	g.report(t, plainClient, capability, " {\"credits\" :\n1000000000000 } ").expect(t, 402)
	g.ended(1)
}

// Reports at one time, and while the request ends: what was taken counts, once.
func TestReportsAtOneTime(t *testing.T) {
	g := newGateway(t, roomyOptions, reportSite)
	_, key := g.key("acme", hourly(1000))
	n := newNarrator(g.upstream)
	var want access.Credits
	for round := range 20 {
		done := g.background("GET", "/say", "X-Api-Key: "+key)
		capability := <-n.capability
		var mu sync.Mutex
		highest := access.Credits(0)
		var all sync.WaitGroup
		for worker := range 4 {
			all.Go(func() {
				for i := range 10 {
					total := access.Credits(worker + 4*i + 1)
					req, _ := http.NewRequestWithContext(context.Background(), "POST", g.url+"/charges", strings.NewReader(fmt.Sprintf(`{"credits":%d}`, total)))
					req.Header.Set("Authorization", "Bearer "+capability)
					resp, err := http.DefaultTransport.RoundTrip(req)
					if err != nil {
						t.Error(err)
						return
					}
					resp.Body.Close()
					if resp.StatusCode == 204 {
						mu.Lock()
						highest = max(highest, total*credits)
						mu.Unlock()
					} else if resp.StatusCode != 404 {
						t.Errorf("status %d", resp.StatusCode)
					}
					if worker == 0 && i == round/2 {
						n.tell <- "end"
					}
				}
			})
		}
		all.Wait()
		<-done
		g.ended(int64(round + 1))
		if want += highest; g.used("acme") != want {
			t.Fatalf("round %d: used %s, want %s", round, g.used("acme"), want)
		}
	}
	if m := openEngine(t); reportsOpen(t, m) != 0 {
		t.Errorf("%d capabilities are left", reportsOpen(t, m))
	}
}

func reportsOpen(t *testing.T, e *engine.Engine) int {
	t.Helper()
	m, err := e.Metering(t.Context(), engine.MeteringOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m.Reports.Count()
}

// A capability goes to the API and nowhere else; no client can make or learn
// one, and only requests that may be charged have one.
func TestCapabilitiesAreNotShown(t *testing.T) {
	g := newGateway(t, roomyOptions, reportSite)
	_, key := g.key("acme", hourly(1000))
	var given []string
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if capability := r.Header.Get("X-Charge-Report"); capability != "" {
			given = append(given, capability)
			g.report(t, plainClient, capability, `{"credits":2}`).expect(t, 204)
		}
		return false
	})
	for path, want := range map[string]int{"/": 1, "/free": 1, "/open": 0} {
		r := g.do("GET", path, "X-Api-Key: "+key, "X-Charge-Report: mine", "x-charge-report: mine", "X_charge_report: mine", "X.Charge.Report: mine").expect(t, 200)
		absent(t, r.Header, "X-Charge-Report")
		saw := g.upstream.last(t).Header
		if text := fmt.Sprint(saw); strings.Contains(text, "mine") {
			t.Errorf("%s: the API saw %s", path, text)
		}
		if len(saw["X-Charge-Report"]) != want {
			t.Errorf("%s: %d capabilities", path, len(saw["X-Charge-Report"]))
		}
	}
	if len(given) != 2 || given[0] == given[1] {
		t.Fatalf("capabilities %q", given)
	}
	g.do("GET", "/charges", "Authorization: Bearer "+given[0]).expect(t, 405)
	log := g.log()
	for _, c := range given {
		if len(c) < 40 || !strings.HasPrefix(c, engine.ReportPrefix) || strings.Contains(log, c[12:]) {
			t.Errorf("capability %q is too short, or in the log", c)
		}
	}
	if !strings.Contains(log, "upstream roundtrip") {
		t.Error("the log does not show what it must not")
	}
}

// An API that sends a capability back does not show it to the client.
func TestCapabilitiesAreNotSentBack(t *testing.T) {
	g := newGateway(t, roomyOptions, reportSite)
	_, key := g.key("acme", hourly(1000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		capability := r.Header.Get("X-Charge-Report")
		w.Header().Set("Trailer", "X-Charge-Report, X-Other")
		w.Header().Set(http.TrailerPrefix+"X-Charge-Report", capability)
		w.Header().Set("X-Charge-Report", capability)
		w.WriteHeader(http.StatusEarlyHints)
		w.Header()["X-Charge-Report"] = []string{capability, capability}
		_, _ = io.WriteString(w, "hello")
		w.Header().Set("X-Charge-Report", capability)
		w.Header().Set("X-Other", "1")
		return true
	})
	conn, br := g.dial("GET / HTTP/1.1\r\nHost: " + g.addr + "\r\nConnection: close\r\nTE: trailers\r\nX-Api-Key: " + key + "\r\n\r\n")
	defer conn.Close()
	answer, err := io.ReadAll(br)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(answer); strings.Contains(text, engine.ReportPrefix) || strings.Contains(strings.ToLower(text), "x-charge-report") || !strings.Contains(text, "103 ") || !strings.Contains(text, "X-Other: 1") {
		t.Errorf("the client got %s", text)
	}
}

// A stream that began under one configuration reports under the next.
func TestReportsSurviveAReload(t *testing.T) {
	g := newGateway(t, roomyOptions, reportSite)
	_, key := g.key("acme", hourly(1000))
	n := newNarrator(g.upstream)
	go func() { n.tell <- "say" }()
	resp := plainClient.open(t, g.request(t, "GET", "/say", nil, "X-Api-Key: "+key))
	capability := <-n.capability
	g.load(roomyOptions, reportSite+"\nheader X-Next 1\n")
	g.do("GET", "/free", "X-Api-Key: wrong").expect(t, 401)
	g.report(t, plainClient, capability, `{"credits":6}`).expect(t, 204)
	if got := g.used("acme"); got != 6*credits {
		t.Errorf("used %s", got)
	}
	resp.Body.Close()
	g.ended(1)
	if got := g.used("acme"); got != 6*credits {
		t.Errorf("at the end: used %s", got)
	}
}

// A header that nobody reads, and an endpoint that nobody writes to, are
// mistakes.
func TestReportsNeedBothSides(t *testing.T) {
	g := newGateway(t, roomyOptions, reportSite)
	for site, want := range map[string]string{
		"keytoll {\n charge 1\n charge_report X-R\n}\nreverse_proxy {upstream}":                       "add `keytoll_api charges",
		"keytoll_api charges {\n base /charges\n}\nkeytoll {\n charge 1\n}\nreverse_proxy {upstream}": "no gate has a charge_report",
	} {
		if err := g.tryLoad(g.text(roomyOptions, site)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
