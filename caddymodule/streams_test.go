package caddymodule

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// streaming is an API whose /events says one thing and then waits, and whose
// /download never ends.
func streaming(w http.ResponseWriter, r *http.Request) bool {
	switch r.URL.Path {
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: hello\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case "/download":
		block := make([]byte, 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(block); err != nil {
				break
			}
		}
	default:
		return false
	}
	return true
}

// A revoked key's open streams end, whether anything is sent on them or not,
// and the API's own request ends with them.
func TestRevokedKeyEndsItsStreams(t *testing.T) {
	g := newTLSGateway(t, "", plainGate)
	g.upstream.respond(streaming)
	for _, path := range []string{"/events", "/download"} {
		g.eachProto(t, func(t *testing.T, c protoClient) {
			id, key := g.key("acme", hourly(1000))
			other, spare := g.key("acme", hourly(1000))
			resp := c.open(t, g.request(t, "GET", path, nil, "X-Api-Key: "+key))
			kept := c.open(t, g.request(t, "GET", "/events", nil, "X-Api-Key: "+spare))
			if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			if _, err := g.registrar().RevokeKey(context.Background(), id); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, resp.Body)
				ended <- err
			}()
			select {
			case <-ended:
			case <-time.After(hangGuard):
				t.Fatal("the stream goes on")
			}
			if line, err := bufio.NewReader(kept.Body).ReadString('\n'); line != "data: hello\n" {
				t.Errorf("another key's stream: %q, %v", line, err)
			}
			if e := openEngine(t); e.Index.ByID(other).Status() != access.StatusActive {
				t.Error("the other key")
			}
			c.send(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key)).expect(t, 401)
			c.send(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+spare)).expect(t, 200)
			kept.Body.Close()
		})
	}
}

// A WebSocket ends with the key's tenant.
func TestSuspendedTenantEndsItsWebSockets(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(10))
	g.upstream.respond(wsEcho)
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(hangGuard))
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nX-API-Key: %s\r\n\r\n", g.addr, wsKey, key)
	br := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	if _, err := g.registrar().UpdateTenant(context.Background(), "acme", registrar.TenantUpdate{Status: new(access.StatusSuspended)}); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write(wsFrame("still there?", true))
	for {
		if _, err := readFrame(br); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Fatal("the connection goes on")
			}
			return
		}
	}
}

// A stream ends with its key's expiry, and one that came with a secret that
// was rotated away with the grace.
func TestStreamsEndInTime(t *testing.T) {
	g := newGateway(t, "", plainGate)
	g.upstream.respond(streaming)
	for _, name := range []string{"expiry", "grace"} {
		t.Run(name, func(t *testing.T) {
			req, end := hourly(10), time.Now().Add(2*time.Second).Truncate(time.Second)
			if name == "expiry" {
				req.Expires = &end
			}
			id, key := g.key("acme", req)
			if name == "grace" {
				_, err := g.registrar().RotateKey(t.Context(), id, registrar.RotateRequest{Grace: new(2 * time.Second)})
				if err != nil {
					t.Fatal(err)
				}
			}
			resp, err := http.DefaultClient.Do(g.streamRequest(t, "/events", key))
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			if time.Now().Before(end) {
				t.Error("the stream ended too early")
			}
		})
	}
}

func (g *gateway) streamRequest(t *testing.T, path, key string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hangGuard)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", g.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", key)
	return req
}
