package caddymodule

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/keytoll/keytoll/caddymodule/access"
)

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

// wsAccept is the answer to a handshake (RFC 6455, section 4.2.2).
func wsAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// wsFrame is a text frame of less than 126 bytes; a client's is masked.
func wsFrame(text string, masked bool) []byte {
	if !masked {
		return append([]byte{0x81, byte(len(text))}, text...)
	}
	mask := [4]byte{1, 2, 3, 4}
	frame := append([]byte{0x81, 0x80 | byte(len(text))}, mask[:]...)
	for i := range len(text) {
		frame = append(frame, text[i]^mask[i&3])
	}
	return frame
}

// readFrame reads what wsFrame makes.
func readFrame(r io.Reader) (string, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return "", err
		}
	}
	text := make([]byte, head[1]&0x7f)
	_, err := io.ReadFull(r, text)
	for i := range text {
		text[i] ^= mask[i&3]
	}
	return string(text), err
}

// wsEcho is an API that sends every message back. Its own rate-limit header
// must not reach the client.
func wsEcho(w http.ResponseWriter, r *http.Request) bool {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return false
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	go func() {
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: %s\r\nX-RateLimit-Limit: 7\r\n\r\n", wsAccept(r.Header.Get("Sec-Websocket-Key")))
		for rw.Flush() == nil {
			text, err := readFrame(rw)
			if err != nil {
				return
			}
			_, _ = rw.Write(wsFrame("echo "+text, false))
		}
	}()
	return true
}

// checkUpgrade checks what the API saw of a handshake.
func checkUpgrade(t *testing.T, saw seen, key string) {
	t.Helper()
	if saw.Header.Get("X-Tenant-Id") != "acme" || saw.Header.Get("Connection") != "Upgrade" {
		t.Errorf("upstream saw %v", saw.Header)
	}
	if s := fmt.Sprint(saw.Header, saw.URI); strings.Contains(s, key) {
		t.Error("upstream saw the key")
	}
}

// A16: the 101 carries the gate's headers, the key goes no further, messages
// pass both ways at once, and the whole conversation is one request.
func TestA16WebSocket(t *testing.T) {
	g := newGateway(t, "", plainGate)
	id, key := g.key("acme", hourly(10))
	g.upstream.respond(wsEcho)
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(hangGuard))
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade, X-Tenant-Id\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nX-API-Key: %s\r\nX-Tenant-Id: evil\r\n\r\n", g.addr, wsKey, key)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != wsAccept(wsKey) {
		t.Fatal(resp, err)
	}
	once(t, resp.Header, rateNames...)
	if resp.Header.Get("X-Ratelimit-Limit") != "10" || resp.Header.Get("X-Ratelimit-Remaining") != "9" {
		t.Errorf("headers of the 101: %v", resp.Header)
	}
	for i := range 20 {
		_, _ = conn.Write(wsFrame(fmt.Sprint(i), true))
		if got, err := readFrame(br); err != nil || got != fmt.Sprint("echo ", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	saw := g.upstream.last(t)
	checkUpgrade(t, saw, key)
	if saw.Header.Get("X-Key-Id") != id.String() {
		t.Errorf("upstream saw %v", saw.Header)
	}
	if r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200); r.Header.Get("X-Ratelimit-Remaining") != "8" {
		t.Errorf("after 20 messages and one request %s remain, want 8", r.Header.Get("X-Ratelimit-Remaining"))
	}
	if n := openEngine(t).Counts.Requests[access.Allowed].Load(); n != 2 {
		t.Errorf("%d requests counted, want 2", n)
	}
}

// A WebSocket handshake without a key is refused like any other request.
func TestWebSocketNeedsAKey(t *testing.T) {
	g := newGateway(t, "", plainGate)
	g.upstream.respond(wsEcho)
	g.do("GET", "/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-Websocket-Version: 13", "Sec-Websocket-Key: "+wsKey).expect(t, 401)
	if n := g.upstream.count(); n != 0 {
		t.Errorf("upstream saw %d requests", n)
	}
}

// RFC 8441: a WebSocket over HTTP/2. net/http offers it only to a process that
// was started for it, so the test runs itself once more.
func TestA16WebSocketOverHTTP2(t *testing.T) {
	if !strings.Contains(os.Getenv("GODEBUG"), "http2xconnect=1") {
		ctx, cancel := context.WithTimeout(t.Context(), hangGuard)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "GODEBUG=http2xconnect=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	g := newTLSGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(10))
	g.upstream.respond(wsEcho)
	tr := &http2.Transport{TLSClientConfig: clientTLS("h2")}
	defer tr.CloseIdleConnections()
	send, w := io.Pipe()
	req := g.request(t, "CONNECT", "/ws", send, "X-Api-Key: "+key, "Sec-Websocket-Version: 13")
	req.Header[":protocol"] = []string{"websocket"}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatal(resp)
	}
	once(t, resp.Header, rateNames...)
	for i := range 20 {
		_, _ = w.Write(wsFrame(fmt.Sprint(i), true))
		if got, err := readFrame(resp.Body); err != nil || got != fmt.Sprint("echo ", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	checkUpgrade(t, g.upstream.last(t), key)
	// The tunnel is gone before Caddy stops: 2.11.9 itself writes the last frame
	// of an open one in a race with the copying goroutine.
	w.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Error(err)
	}

	send, w = io.Pipe()
	defer w.Close()
	req = g.request(t, "CONNECT", "/ws", send)
	req.Header[":protocol"] = []string{"websocket"}
	if resp, err := tr.RoundTrip(req); err != nil || resp.StatusCode != 401 {
		t.Errorf("without a key: %v, %v", resp, err)
	}
}

// F6: no other CONNECT opens a tunnel, with a good key either.
func TestF6ConnectIsRefusedInEveryVersion(t *testing.T) {
	g := newTLSGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(10))
	g.eachProto(t, func(t *testing.T, c protoClient) {
		r := c.send(t, g.request(t, "CONNECT", "", nil, "X-Api-Key: "+key)).expect(t, 405)
		if r.code() != "method_not_allowed" || r.Header.Get("Allow") == "" {
			t.Errorf("%q %v", r.body, r.Header)
		}
	})
	if n := g.upstream.count(); n != 0 {
		t.Errorf("upstream saw %d requests", n)
	}
}
