package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// An API that sends a secret back in what is no HTTP must not bring it into the
// log of its failure.
func TestUpstreamTroubleQuotesNothing(t *testing.T) {
	const secret = "sk_provider_0123456789"
	for _, answer := range []string{secret + "\r\n\r\n", "HTTP/1.1 200 OK\r\n" + secret + "\r\n\r\n", "HTTP/1.1 " + secret + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: " + secret + "\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + secret + "\r\n\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = c.Write([]byte(answer))
		}()
		resp, err := new(http.Transport).RoundTrip(&http.Request{Method: "GET", URL: &url.URL{Scheme: "http", Host: l.Addr().String()}})
		if err == nil {
			resp.Body.Close()
			t.Errorf("%q was taken for an answer", answer)
		}
		l.Close()
		if got := upstreamTrouble(fmt.Errorf("proxying: %w", err)); got == "" || strings.Contains(got, "sk_") {
			t.Errorf("%q: %q of %v", answer, got, err)
		}
	}
	for want, err := range map[string]error{
		"connection refused":     &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connect: connection refused")},
		"no upstreams available": caddyhttp.Error(503, errors.New("no upstreams available")),
		"in time":                &net.DNSError{IsTimeout: true, Err: "lookup in time"},
	} {
		if got := upstreamTrouble(err); !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}
