package caddymodule

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// withTunnels runs a test in a process that offers WebSockets over HTTP/2 (RFC
// 8441), as net/http does only if it was started for it, and reports whether
// this is that process.
func withTunnels(t *testing.T) bool {
	t.Helper()
	if strings.Contains(os.Getenv("GODEBUG"), "http2xconnect=1") {
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), hangGuard)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "GODEBUG=http2xconnect=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// tunnel asks for a WebSocket over HTTP/2. What is written goes to the API.
func (g *gateway) tunnel(t *testing.T, key string) (*http.Response, io.WriteCloser) {
	t.Helper()
	tr := &http2.Transport{TLSClientConfig: clientTLS("h2")}
	t.Cleanup(tr.CloseIdleConnections)
	send, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	req := g.request(t, "CONNECT", "/ws", send, "X-Api-Key: "+key, "Sec-Websocket-Version: 13")
	req.Header[":protocol"] = []string{"websocket"}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp, w
}

// An extended CONNECT that the API refuses costs nothing, and one that it
// answers is charged, whatever was reported.
func TestRefusedTunnelIsRefunded(t *testing.T) {
	if !withTunnels(t) {
		return
	}
	g := newTLSGateway(t, roomyOptions, reportSite)
	_, key := g.key("acme", hourly(1000))
	n := int64(0)
	for _, status := range []int{400, 401, 403, 404, 426, 429, 500, 503} {
		for _, told := range []string{"", "3"} {
			g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Upgrade") != "websocket" {
					t.Errorf("the API saw %v", r.Header)
				}
				if told != "" {
					w.Header().Set("X-Cost", told)
				}
				w.WriteHeader(status)
				return true
			})
			resp, w := g.tunnel(t, key)
			if resp.StatusCode != status {
				t.Fatalf("status %d, want %d", resp.StatusCode, status)
			}
			absent(t, resp.Header, "X-Cost", "X-Charge-Report")
			(reply{resp, ""}).coherent(t)
			w.Close()
			n++
			g.ended(n)
			if got := g.used("acme"); got != 0 {
				t.Errorf("%d, told %q: used %s", status, told, got)
			}
		}
	}
	g.upstream.respond(wsEcho)
	resp, w := g.tunnel(t, key)
	if resp.StatusCode != 200 {
		t.Fatal(resp)
	}
	_, _ = w.Write(wsFrame("hi", true))
	if got, err := readFrame(resp.Body); err != nil || got != "echo hi" {
		t.Fatalf("%q, %v", got, err)
	}
	w.Close()
	_, _ = io.ReadAll(resp.Body)
	g.ended(n + 1)
	if got := g.used("acme"); got != credits {
		t.Errorf("a tunnel: used %s", got)
	}
}

// A tunnel's running cost is charged, and ends it where credits do.
func TestRunningCostOfATunnel(t *testing.T) {
	if !withTunnels(t) {
		return
	}
	g := newTLSGateway(t, strings.Replace(roomyOptions, "1000000", "10", 1), reportSite)
	_, key := g.key("acme", hourly(1000))
	n := newNarrator(g.upstream)
	resp, w := g.tunnel(t, key)
	if resp.StatusCode != 200 {
		t.Fatal(resp)
	}
	absent(t, resp.Header, "X-Charge-Report")
	capability := <-n.capability
	h2 := protoClient{"HTTP/2.0", 2, &http2.Transport{TLSClientConfig: clientTLS("h2")}}
	g.report(t, h2, capability, `{"credits":9}`).expect(t, 204)
	_, _ = w.Write(wsFrame("hi", true))
	if got, err := readFrame(resp.Body); err != nil || got != "echo hi" {
		t.Fatalf("%q, %v", got, err)
	}
	g.report(t, h2, capability, `{"credits":11}`).expect(t, 402)
	if _, err := io.ReadAll(resp.Body); err == context.DeadlineExceeded {
		t.Error("the tunnel goes on")
	}
	g.ended(1)
	if got := g.used("acme"); got != 11*credits {
		t.Errorf("used %s", got)
	}
}
