package caddymodule

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// F4: a refusal does not wait for a body that never comes, in any version, and
// over HTTP/2 and HTTP/3 the connection goes on.
func TestF4RefusalDoesNotWaitForTheBody(t *testing.T) {
	g := newTLSGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(1000))
	g.eachProto(t, func(t *testing.T, c protoClient) {
		for _, length := range []int64{-1, 100_000, 10} {
			body, w := io.Pipe()
			req := g.request(t, "POST", "/", body)
			req.ContentLength = length
			go func() { _, _ = w.Write([]byte("part")) }()
			start := time.Now()
			resp := c.open(t, req)
			if resp.StatusCode != 401 || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("length %d: %d %v", length, resp.StatusCode, resp.Header)
			}
			if b, err := io.ReadAll(resp.Body); len(b) == 0 || err != nil && c.major == 1 {
				t.Errorf("length %d: body %q, %v", length, b, err)
			}
			if d := time.Since(start); d > 30*time.Second { // unmended it takes 60 s
				t.Errorf("length %d: answered after %s", length, d)
			}
			if c.major == 1 != resp.Close {
				t.Errorf("length %d: close is %t", length, resp.Close)
			}
			w.CloseWithError(errors.New("never to come"))
			c.send(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key)).expect(t, 200)
		}
	})
}

// smuggling is what a proxy and the server behind it could read differently. A
// request within a request is for /smuggled and has no key.
var smuggling = map[string]string{
	"two lengths":           "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 5\r\nContent-Length: 50\r\n\r\nhelloIN",
	"two equal lengths":     "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhelloIN",
	"a list of lengths":     "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 5, 50\r\n\r\nhelloIN",
	"a signed length":       "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: +5\r\n\r\nhelloIN",
	"length and chunks":     "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nIN",
	"chunks in disguise":    "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nIN",
	"chunks twice":          "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nIN",
	"another coding":        "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nIN",
	"identity":              "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhelloIN",
	"chunks in 1.0":         "POST / HTTP/1.0\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nIN",
	"bare line feeds":       "GET / HTTP/1.1\nHost: a\nKEY\n\nIN",
	"bare feed in a header": "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\nTransfer-Encoding: chunked\r\nKEY\r\n\r\nIN",
	"bare return":           "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rX-Tenant-Id: evil\r\nKEY\r\n\r\n",
	"bare feed in chunks":   "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\nIN",
	"chunk extension":       "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\nb\r\nhello\r\n0\r\n\r\nIN",
	"a huge chunk":          "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\nIN",
	"a folded header":       "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n X-Tenant-Id: evil\r\nKEY\r\n\r\n",
	"space before a colon":  "GET / HTTP/1.1\r\nHost: a\r\nX-Tenant-Id : evil\r\nKEY\r\n\r\n",
	"space before a name":   "GET / HTTP/1.1\r\n X-Tenant-Id: evil\r\nHost: a\r\nKEY\r\n\r\n",
	"zero in a name":        "GET / HTTP/1.1\r\nHost: a\r\nX-Tenant-Id\x00: evil\r\nKEY\r\n\r\n",
	"zero in a value":       "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\x00\r\nKEY\r\n\r\n",
	"two hosts":             "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nKEY\r\n\r\n",
	"a body of a GET":       "GET / HTTP/1.1\r\nHost: a\r\nKEY\r\nContent-Length: 5\r\n\r\nhelloIN",
	"feed in the target":    "GET /\r\nX-Tenant-Id: evil HTTP/1.1\r\nHost: a\r\nKEY\r\n\r\n",
	"spaces in the target":  "GET /a b HTTP/1.1\r\nHost: a\r\nKEY\r\n\r\n",
	"expectation":           "POST / HTTP/1.1\r\nHost: a\r\nKEY\r\nExpect: 100-continue, IN\r\nContent-Length: 5\r\n\r\nhelloIN",
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

// statuses sends bytes and returns the final statuses that come back until the
// server closes or is done.
func statuses(t *testing.T, addr, text string) (out []int) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(hangGuard))
	_, _ = io.WriteString(conn, text)
	_ = conn.(*net.TCPConn).CloseWrite()
	for br := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return out
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode >= 200 {
			out = append(out, resp.StatusCode)
		}
	}
}

// Ambiguous requests are refused as bare Caddy refuses them, or harmless: what
// is hidden in one never reaches the API without a key of its own, nor does a
// forged tenant.
func TestSmuggling(t *testing.T) {
	g := newGateway(t, "", plainGate)
	bare := g.withBareSite(plainGate)
	_, key := g.key("acme", hourly(100_000))
	for name, text := range smuggling {
		t.Run(name, func(t *testing.T) {
			text := strings.NewReplacer("KEY", "X-Api-Key: "+key, "IN", smuggled).Replace(text)
			plain := statuses(t, bare, text)
			before := g.upstream.count()
			got := statuses(t, g.addr, text)
			if len(got) == 0 || len(plain) == 0 || plain[0] >= 400 && got[0] != plain[0] || plain[0] < 400 && got[0] != plain[0] && got[0] != 401 {
				t.Errorf("answered %v, bare Caddy %v", got, plain)
			}
			g.upstream.mu.Lock()
			defer g.upstream.mu.Unlock()
			for _, saw := range g.upstream.all[before:] {
				if saw.URI == "/smuggled" || len(saw.Header["X-Tenant-Id"]) != 1 || saw.Header.Get("X-Tenant-Id") != "acme" {
					t.Errorf("upstream saw %s with %v", saw.URI, saw.Header)
				}
				for name, v := range saw.Header {
					if s := strings.Join(v, " "); strings.Contains(s, key) {
						t.Errorf("upstream saw the key in %s", name)
					}
				}
			}
		})
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
}
