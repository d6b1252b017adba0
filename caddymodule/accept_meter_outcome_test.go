package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// A46: which answers are charged.
func TestA46ChargeStatus(t *testing.T) {
	for _, tt := range []struct {
		line string
		want map[int]access.Credits
	}{
		{"", map[int]access.Credits{200: credits, 201: credits, 302: credits, 400: credits, 404: credits, 429: credits, 500: 0, 502: 0, 503: 0}},
		{"charge_status 2xx", map[int]access.Credits{200: credits, 302: 0, 404: 0, 500: 0}},
		{"charge_status 5xx 4xx", map[int]access.Credits{200: 0, 404: credits, 500: credits, 503: credits}},
	} {
		g := newGateway(t, roomyOptions, strings.Replace(meterSite, "keytoll {", "keytoll {\n "+tt.line+"\n", 1))
		_, key := g.key("acme", hourly(1000))
		status := 0
		g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(status)
			return true
		})
		for s, price := range tt.want {
			status = s
			g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{s, price})
		}
	}
}

// An upstream that is down costs nothing, whoever writes the answer.
func TestUpstreamDownIsRefunded(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	g.upstream.server.Close()
	g.charged(t, g.request(t, "GET", "/big", nil, "X-Api-Key: "+key), want{502, 0})
	g.charged(t, g.request(t, "POST", "/big", strings.NewReader("hello"), "X-Api-Key: "+key), want{502, 0})
}

// A client that goes before the first byte pays nothing; one that goes in the
// middle pays all.
func TestAbortOfTheClient(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	s := newGated(t, g.upstream)
	ctx, cancel := context.WithCancel(t.Context())
	req := g.request(t, "GET", "/slow", nil, "X-Api-Key: "+key).WithContext(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := http.DefaultTransport.RoundTrip(req)
		done <- err
	}()
	s.await(t)
	if got := g.used("acme"); got != credits {
		t.Errorf("%s reserved", got)
	}
	cancel()
	if err := <-done; err == nil {
		t.Fatal("not cancelled")
	}
	g.ended(1)
	if got := g.used("acme"); got != 0 {
		t.Errorf("aborted before the first byte: %s used", got)
	}

	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
				break
			}
			w.(http.Flusher).Flush()
		}
		return true
	})
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	resp, err := http.DefaultTransport.RoundTrip(g.request(t, "GET", "/", nil, "X-Api-Key: "+key).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	resp.Body.Close()
	g.ended(2)
	if got := g.used("acme"); got != credits {
		t.Errorf("aborted in the middle: %s used", got)
	}
}

// An API that breaks off in the middle of its answer is paid, and one that
// panics without an answer is not.
func TestAbortOfTheUpstream(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/part" {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{502, 0})
	resp, err := http.DefaultTransport.RoundTrip(g.request(t, "GET", "/part", nil, "X-Api-Key: "+key))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.ReadAll(resp.Body)
	resp.Body.Close()
	if err == nil {
		t.Error("the answer looks whole")
	}
	g.ended(2)
	if got := g.used("acme"); got != credits/4 {
		t.Errorf("used %s", got)
	}
}

// A stream of events is one request, whose headers come with the first event
// and whose cost with the last.
func TestStreamIsCharged(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	next := make(chan bool)
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		for range next {
			_, _ = io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
		}
		w.Header().Set(http.TrailerPrefix+"X-Cost", "7")
		return true
	})
	go func() { next <- true }()
	resp, err := http.DefaultTransport.RoundTrip(g.request(t, "GET", "/", nil, "X-Api-Key: "+key))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	reply{resp, ""}.coherent(t)
	if got := g.used("acme"); got != credits || g.counted() != 0 {
		t.Errorf("%s used, %d requests ended", got, g.counted())
	}
	close(next)
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	absent(t, resp.Trailer, "X-Cost")
	g.ended(1)
	if got := g.used("acme"); got != 7*credits {
		t.Errorf("%s used", got)
	}
	if p := g.points(rollup.ByClass); len(p) != 1 || p[0].BytesOut != 9 || p[0].Credits != int64(7*credits) {
		t.Errorf("usage %+v", p)
	}
}

// handshake asks for a WebSocket.
func (g *gateway) handshake(key string) string {
	return fmt.Sprintf("GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: %s\r\nX-API-Key: %s\r\n\r\n", g.addr, wsKey, key)
}

// A WebSocket is one request, charged once; its headers are on the 101.
func TestWebSocketIsCharged(t *testing.T) {
	g := newGateway(t, meterOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	g.upstream.respond(wsEcho)
	conn, br := g.dial(g.handshake(key))
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	if used := (reply{resp, ""}).coherent(t); used != 1 {
		t.Errorf("headers of the 101: %v", resp.Header)
	}
	for i := range 5 {
		_, _ = conn.Write(wsFrame(fmt.Sprint(i), true))
		if got, err := readFrame(br); err != nil || got != fmt.Sprint("echo ", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if g.counted() != 0 {
		t.Error("an open WebSocket has ended")
	}
	conn.Close()
	g.ended(1)
	if got := g.used("acme"); got != credits {
		t.Errorf("used %s", got)
	}
	if p := g.points(rollup.ByClass); len(p) != 1 || p[0].Class != rollup.Class1xx {
		t.Errorf("usage %+v", p)
	}
}

// A refused upgrade costs nothing, whatever charge_status says of its class. An
// API that ignores the wish and answers has been used, and is paid: else the
// header would make every request free.
func TestUpgradeRefusedOrIgnored(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	status := 0
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(status)
		return true
	})
	n := int64(0)
	try := func(status int, headers string) access.Credits {
		before := g.used("acme")
		conn, br := g.dial("GET /ws HTTP/1.1\r\nHost: " + g.addr + "\r\nX-Api-Key: " + key + "\r\n" + headers + "\r\n")
		defer conn.Close()
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != status {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
		n++
		g.ended(n)
		return g.used("acme") - before
	}
	wish := "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + wsKey + "\r\n"
	for _, tt := range []struct {
		name    string
		status  int
		headers string
		want    access.Credits
	}{
		{"refused", 426, wish, 0},
		{"forbidden", 403, wish, 0},
		{"failed", 500, wish, 0},
		{"ignored", 200, wish, credits},
		{"not asked of the API", 200, "Upgrade: websocket\r\n", credits},
		{"no protocol that may be", 200, "Connection: Upgrade\r\nUpgrade: h2c\r\n", credits},
		{"no protocol that may be, not found", 404, "Connection: Upgrade\r\nUpgrade: h2c\r\n", credits},
		{"not an upgrade, not found", 404, "Upgrade: websocket\r\n", credits},
	} {
		status = tt.status
		if got := try(tt.status, tt.headers); got != tt.want {
			t.Errorf("%s: charged %s, want %s", tt.name, got, tt.want)
		}
	}
}

// Two gates and two keys take from one purse, and not from another's.
func TestTwoGatesTwoKeysOneTenant(t *testing.T) {
	g := newGateway(t, roomyOptions, "handle /a* {\n keytoll {\n charge 2\n }\n reverse_proxy {upstream}\n}\nhandle {\n keytoll {\n charge 3\n usage_headers off\n }\n reverse_proxy {upstream}\n}\n")
	_, one := g.key("acme", hourly(1000))
	_, two := g.key("acme", hourly(1000))
	_, other := g.key("other", hourly(1000))
	for _, key := range []string{one, two} {
		g.charged(t, g.request(t, "GET", "/a", nil, "X-Api-Key: "+key), want{200, 2 * credits})
		g.charged(t, g.request(t, "GET", "/b", nil, "X-Api-Key: "+key), want{200, 3 * credits})
		g.charged(t, g.request(t, "GET", "/b", nil, "X-Api-Key: "+other), want{200, 0})
	}
	if got := g.used("other"); got != 6*credits {
		t.Errorf("the other tenant used %s", got)
	}
}
