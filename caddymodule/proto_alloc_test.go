package caddymodule

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// withBareSite adds a site without a gate in front of the same upstream to the
// configuration and returns its address.
func (g *gateway) withBareSite(site string) string {
	g.t.Helper()
	addr := freeAddr(g.t)
	bare := strings.Replace(strings.ReplaceAll(site, "{upstream}", g.upstream.addr), "keytoll\n", "", 1)
	if err := g.tryLoad(g.config + "http://" + addr + " {\n" + bare + "\n}\n"); err != nil {
		g.t.Fatal(err)
	}
	return addr
}

// cannedUpstream answers every request with the same bytes and allocates
// nothing, so that what is measured is the proxy.
func cannedUpstream(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serveCanned(conn)
		}
	}()
	return l.Addr().String()
}

func serveCanned(conn net.Conn) {
	defer conn.Close()
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello")
	for br := bufio.NewReader(conn); ; {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return
		}
		if len(line) == 2 { // the empty line: no request has a body
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	}
}

// cannedClient sends the same request again and again on one connection.
type cannedClient struct {
	conn    net.Conn
	br      *bufio.Reader
	request []byte
}

func newCannedClient(t testing.TB, addr string, headers string) *cannedClient {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	request := fmt.Sprintf("GET /v1/things HTTP/1.1\r\nHost: %s\r\nUser-Agent: test\r\nAccept: */*\r\n%s\r\n", addr, headers)
	return &cannedClient{conn, bufio.NewReader(conn), []byte(request)}
}

// once sends a request and reads the response, of which all have the body
// hello.
func (c *cannedClient) once(t testing.TB) {
	if _, err := c.conn.Write(c.request); err != nil {
		t.Fatal(err)
	}
	first := true
	for {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			t.Fatal(err)
		}
		if first && !bytes.Contains(line, []byte(" 200 ")) {
			t.Fatalf("answered %s", line)
		}
		first = false
		if len(line) == 2 {
			break
		}
	}
	if _, err := io.CopyN(io.Discard, c.br, 5); err != nil {
		t.Fatal(err)
	}
}

// mallocs returns the allocations per request of the whole process.
func (c *cannedClient) mallocs(t testing.TB, n int) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		c.once(t)
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / float64(n)
}

// TestAllocationsOverBareCaddy guards the price of the gate: a proxied request
// with its identity and rate headers costs at most ten allocations more than
// through a Caddy that has no keytoll at all. The log filter has a ceiling of
// its own: reverse_proxy encodes every request for its logger, whatever the
// level, and the filter looks at each header there.
func TestAllocationsOverBareCaddy(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const rounds, requests = 4, 1500
	g := &gateway{t: t, dir: t.TempDir(), addr: freeAddr(t), upstream: newUpstream(t)}
	t.Cleanup(stopCaddy(t))
	g.url, g.upstream.addr = "http://"+g.addr, cannedUpstream(t)
	gated := strings.Replace(g.text("", plainGate), "level DEBUG", "level INFO", 1)
	bare := fmt.Sprintf("{\n admin off\n persist_config off\n log {\n output file %s/caddy.log\n level INFO\n }\n}\n%s {\n reverse_proxy %s\n}\n",
		g.dir, g.url, g.upstream.addr)
	filter := "format filter {\n\t\t\trequest keytoll\n\t\t}"
	if !strings.Contains(gated, filter) {
		t.Fatal("the configuration has another log filter")
	}
	g.mustLoad(gated)
	_, unlimited := g.key("acme", registrar.CreateKeyRequest{})
	_, limited := g.key("acme", hourly(1_000_000))
	measure := func(config, key string) float64 {
		g.mustLoad(config)
		c := newCannedClient(t, g.addr, "X-Api-Key: "+key+"\r\n")
		defer c.conn.Close()
		c.mallocs(t, 200) // pools and connections
		return c.mallocs(t, requests)
	}
	plain := strings.Replace(gated, filter, "", 1)
	variants := []struct {
		name, config, key string
		most              float64 // allocations over the first
	}{
		{"bare Caddy", bare, unlimited, 0},
		{"identity headers", plain, unlimited, 10},
		{"identity and rate headers", plain, limited, 10},
		{"with the log filter", gated, limited, 20},
	}
	least := make([]float64, len(variants))
	for round := range rounds {
		for i, v := range variants {
			if n := measure(v.config, v.key); round == 0 || n < least[i] {
				least[i] = n
			}
		}
	}
	for i, v := range variants[1:] {
		over := least[i+1] - least[0]
		t.Logf("%s: %.2f allocations over the %.2f of bare Caddy", v.name, over, least[0])
		if over > v.most {
			t.Errorf("%s: %.2f allocations over bare Caddy, want at most %.0f", v.name, over, v.most)
		}
	}
}

func (g *gateway) mustLoad(text string) {
	g.t.Helper()
	if err := g.tryLoad(text); err != nil {
		g.t.Fatal(err)
	}
}
