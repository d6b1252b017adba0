package caddymodule

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// hourly is a limit that shows in the headers and does not refill in a test.
func hourly(n uint32) registrar.CreateKeyRequest {
	return registrar.CreateKeyRequest{Rate: &access.Rate{Requests: n, Burst: n, Window: 3600e9}}
}

var rateNames = []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}

// A15: server-sent events go out one by one. The API sends an event only when
// the client has the one before, so a gateway that buffered would stand still.
func TestA15EventsArriveOneByOne(t *testing.T) {
	g := newTLSGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(1000))
	got := make(chan int)
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush() // the head alone, without a byte of body
		for i := range 5 {
			select {
			case n := <-got:
				fmt.Fprintf(w, "data: %d after %d\n\n", i, n)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return true
			}
		}
		return true
	})
	g.eachProto(t, func(t *testing.T, c protoClient) {
		resp := c.open(t, g.request(t, "GET", "/events", nil, "X-Api-Key: "+key))
		once(t, resp.Header, rateNames...)
		body := bufio.NewReader(resp.Body)
		for i := range 5 {
			got <- i - 1
			line, err := body.ReadString('\n')
			if want := fmt.Sprintf("data: %d after %d\n", i, i-1); err != nil || line != want {
				t.Fatalf("%q (%v), want %q", line, err, want)
			}
			if _, err := body.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// 103 is not the final status: what the gate adds belongs on the 200 after it.
func TestEarlyHintsCarryNoGateHeaders(t *testing.T) {
	g := newTLSGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(1000))
	const link = "</style.css>; rel=preload; as=style"
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Link", link)
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Set("X-Final", "1")
		_, _ = w.Write([]byte("final"))
		return true
	})
	g.eachProto(t, func(t *testing.T, c protoClient) {
		req := g.request(t, "GET", "/", nil, "X-Api-Key: "+key)
		var hints []http.Header
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				if code == http.StatusEarlyHints {
					hints = append(hints, http.Header(h))
				}
				return nil
			},
		}))
		r := c.send(t, req).expect(t, 200)
		if len(hints) != 1 {
			t.Fatalf("%d early hints, want 1", len(hints))
		}
		if hints[0].Get("Link") != link {
			t.Errorf("hints %v", hints[0])
		}
		absent(t, hints[0], rateNames...)
		once(t, r.Header, append(rateNames, "X-Final")...)
		if r.body != "final" {
			t.Errorf("body %q", r.body)
		}
	})
}

// A HEAD has the headers of the GET and no body, in every version.
func TestHeadPassesWithHeadersAlone(t *testing.T) {
	g := newTLSGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(1000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "5")
		w.Header().Set("Etag", `"v1"`)
		if r.Method == "GET" {
			_, _ = w.Write([]byte("hello"))
		}
		return true
	})
	g.eachProto(t, func(t *testing.T, c protoClient) {
		r := c.send(t, g.request(t, "HEAD", "/", nil, "X-Api-Key: "+key)).expect(t, 200)
		if r.body != "" || r.ContentLength != 5 || r.Header.Get("Etag") != `"v1"` {
			t.Errorf("length %d, body %q, headers %v", r.ContentLength, r.body, r.Header)
		}
		once(t, r.Header, rateNames...)
		refused := c.send(t, g.request(t, "HEAD", "/", nil)).expect(t, 401)
		if refused.body != "" || refused.ContentLength <= 0 {
			t.Errorf("a refused HEAD: length %d, body %q", refused.ContentLength, refused.body)
		}
	})
}
