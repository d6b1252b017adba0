package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// listenUpstream serves the upstream in this process.
func listenUpstream(t *testing.T) string {
	t.Helper()
	stdin, end := io.Pipe()
	line, stdout := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- serveUpstream(stdin, stdout) }()
	addr, err := bufio.NewReader(line).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end.Close() // it must end with its stdin
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return strings.TrimSpace(addr)
}

func twoKeys() *keyring { return &keyring{texts: []byte("kt_aaaakt_bbbb"), width: 7} }

func TestUpstreamAnswer(t *testing.T) {
	status, text, err := ask(t.Context(), listenUpstream(t), "/", []byte("k"))
	head, body, _ := strings.Cut(text, "\r\n\r\n")
	if err != nil || status != 200 || strings.Count(head, "\r\n") != 8 || len(body) != bodySize {
		t.Errorf("status %d, %d headers, body of %d bytes, %v", status, strings.Count(head, "\r\n"), len(body), err)
	}
}

func TestUpstreamEcho(t *testing.T) {
	_, text, err := ask(t.Context(), listenUpstream(t), echoPath, []byte("secret"))
	if err != nil || !strings.Contains(text, "\r\nAuthorization: Bearer secret\r\n") {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestRunStopsAtTheCount(t *testing.T) {
	c, err := dialAll(t.Context(), listenUpstream(t), 3, twoKeys(), 200, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for range 2 { // the connections are kept
		n, times, err := c.run(t.Context(), time.Hour, 5)
		if err != nil || n != 15 || len(times) != 15 {
			t.Fatalf("%d requests, %d times, %v, want 15", n, len(times), err)
		}
	}
}

func TestRunStopsAtTheTime(t *testing.T) {
	c, err := dialAll(t.Context(), listenUpstream(t), 2, twoKeys(), 200, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if n, _, err := c.run(t.Context(), 0, 1<<30); n != 0 || err != nil {
		t.Errorf("%d requests, %v, in no time", n, err)
	}
}

func TestRunRefusesAnotherStatus(t *testing.T) {
	c, err := dialAll(t.Context(), listenUpstream(t), 1, twoKeys(), 401, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, _, err := c.run(t.Context(), time.Hour, 1); err == nil || !strings.Contains(err.Error(), "answered 200, want 401") {
		t.Errorf("got %v", err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // answers nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := dialAll(t.Context(), ln.Addr().String(), 1, twoKeys(), 200, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := c.run(ctx, time.Hour, 1); err == nil {
		t.Error("want an error")
	}
}

// Keys change in place: the request around them must stay whole, and every key
// must have its turn.
func TestRequestsCarryTheKeys(t *testing.T) {
	here, there := net.Pipe()
	x := newConn(here, "host", twoKeys(), 7, 0)
	c := &client{keys: twoKeys(), status: 200, conns: []*conn{x}}
	seen := make(map[string]int)
	go func() {
		r := bufio.NewReader(there)
		for range 40 {
			var head bytes.Buffer
			for {
				line, err := r.ReadString('\n')
				if err != nil || line == "\r\n" {
					break
				}
				head.WriteString(line)
			}
			seen[head.String()]++
			io.WriteString(there, answerText)
		}
	}()
	if n, _, err := c.run(t.Context(), time.Hour, 40); n != 40 || err != nil {
		t.Fatalf("%d requests, %v", n, err)
	}
	there.Close()
	if len(seen) != 2 {
		t.Fatalf("%d different requests, want one for each of 2 keys: %v", len(seen), seen)
	}
	for head := range seen {
		if !strings.HasSuffix(head, "Bearer kt_aaaa\r\n") && !strings.HasSuffix(head, "Bearer kt_bbbb\r\n") || strings.Count(head, "\r\n") != 7 {
			t.Errorf("request %q", head)
		}
	}
}

func TestReadAnswer(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("HTTP/1.1 401 Unauthorized\r\ncontent-LENGTH: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	for _, want := range []int{401, 200} {
		if got, err := readAnswer(r, nil); got != want || err != nil {
			t.Errorf("got %d, %v, want %d", got, err, want)
		}
	}
	for _, bad := range []string{
		"", "HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n",
	} {
		if got, err := readAnswer(bufio.NewReader(strings.NewReader(bad)), nil); err == nil {
			t.Errorf("%q: got %d, want an error", bad, got)
		}
	}
}
