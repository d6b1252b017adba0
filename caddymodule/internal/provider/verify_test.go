package provider_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/provider"
)

func TestVerifyStatuses(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(r.URL.Path[1:])
		if status >= 300 && status < 400 {
			w.Header().Set("Location", "/200")
		}
		w.WriteHeader(status)
	}))
	defer s.Close()
	v := provider.NewVerifier(provider.VerifierOptions{})
	for status, reason := range map[int]string{
		200: "", 201: "", 204: "", 299: "",
		401: provider.ReasonUnauthorized, 403: provider.ReasonForbidden,
		400: provider.ReasonRejected, 402: provider.ReasonRejected, 404: provider.ReasonRejected,
		405: provider.ReasonRejected, 422: provider.ReasonRejected, 499: provider.ReasonRejected,
	} {
		got, err := v.Verify(t.Context(), local(t, "GET", fmt.Sprint(s.URL, "/", status)), key)
		if want := (provider.Result{Valid: reason == "", Reason: reason}); err != nil || got != want {
			t.Errorf("%d: %+v, %v; want %+v", status, got, err, want)
		}
	}
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308, 408, 425, 429, 500, 502, 503, 504, 599, 999} {
		unreachable(t, v, local(t, "GET", fmt.Sprint(s.URL, "/", status)), fmt.Sprint("it answered ", status))
	}
}

func TestVerifySendsTheRequest(t *testing.T) {
	var got *http.Request
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}))
	defer s.Close()
	v := provider.NewVerifier(provider.VerifierOptions{})
	for method, want := range map[string]string{"": "GET", "GET": "GET", "HEAD": "HEAD", "POST": "POST"} {
		if r, err := v.Verify(t.Context(), local(t, method, s.URL+"/v1/models?limit=1"), key); err != nil || !r.Valid {
			t.Fatalf("%s: %+v, %v", method, r, err)
		}
		if got.Method != want || got.RequestURI != "/v1/models?limit=1" || len(body) != 0 || !got.Close {
			t.Errorf("%s %s, body %q, close %v", got.Method, got.RequestURI, body, got.Close)
		}
		if strings.Contains(got.RequestURI+got.Host, key) {
			t.Error("the key is in the URL")
		}
		for name, value := range map[string]string{
			"Authorization": "Bearer " + key, "Acme-Version": "2025-01-01", "User-Agent": "keytoll",
			"Accept": "application/json", "Cookie": "", "Referer": "", "Accept-Encoding": "",
		} {
			if got.Header.Get(name) != value {
				t.Errorf("%s %s: %q, want %q", method, name, got.Header.Get(name), value)
			}
		}
	}
}

func TestVerifyRefusesToAsk(t *testing.T) {
	v := provider.NewVerifier(provider.VerifierOptions{})
	if _, err := v.Verify(t.Context(), compile(t, provider.Definition{}), key); err == nil || errors.Is(err, provider.ErrUnreachable) {
		t.Errorf("a provider without a check: %v", err)
	}
	var asked atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }))
	defer s.Close()
	bad := key + "\r\nX-Other: y"
	if _, err := v.Verify(t.Context(), local(t, "", s.URL), bad); err == nil || strings.Contains(err.Error(), key) || asked.Load() {
		t.Errorf("a key with a line end: %v, asked %v", err, asked.Load())
	}
}

func TestVerifyFollowsNoRedirect(t *testing.T) {
	var reached atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer other.Close()
	s := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer s.Close()
	unreachable(t, provider.NewVerifier(provider.VerifierOptions{}), local(t, "", s.URL), "it answered 307")
	if n := reached.Load(); n != 0 {
		t.Errorf("the redirect was followed %d times", n)
	}
}

// TestVerifyQuotesNothing: what the provider sends does not get into an error,
// for it knows the key and may send it back.
func TestVerifyQuotesNothing(t *testing.T) {
	v := provider.NewVerifier(provider.VerifierOptions{})
	for name, answer := range map[string]string{
		"status line": "HTTP/1.1 " + key + "\r\n\r\n",
		"no HTTP":     key + "\r\n\r\n",
		"header line": "HTTP/1.1 200 OK\r\n" + key + "\r\n\r\n",
		"length":      "HTTP/1.1 200 OK\r\nContent-Length: " + key + "\r\n\r\n",
		"encoding":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + key + "\r\n\r\n",
		"cut off":     "HTTP/1.1 200 OK\r\nX: " + key,
		"nothing":     "",
	} {
		t.Run(name, func(t *testing.T) {
			addr := raw(t, func(c net.Conn, _ string) { _, _ = io.WriteString(c, answer) })
			unreachable(t, v, local(t, "", "http://"+addr), "its answer is not one of HTTP")
		})
	}
	addr := raw(t, func(c net.Conn, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 403 "+key+"\r\nX-Key: "+key+"\r\nContent-Length: 0\r\n\r\n")
	})
	if got, err := v.Verify(t.Context(), local(t, "", "http://"+addr), key); err != nil || got.Reason != provider.ReasonForbidden {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestVerifyHugeAndEndlessAnswers(t *testing.T) {
	v := provider.NewVerifier(provider.VerifierOptions{})
	// endless writes until the connection is closed at the other end.
	endless := func(c net.Conn, start, more string) {
		_, err := io.WriteString(c, start)
		for err == nil {
			_, err = io.WriteString(c, more)
		}
	}
	lines := strings.Repeat("X-Filler: "+strings.Repeat("x", 1000)+"\r\n", 8)
	addr := raw(t, func(c net.Conn, _ string) { endless(c, "HTTP/1.1 200 OK\r\n", lines) })
	unreachable(t, v, local(t, "", "http://"+addr), "too long")
	addr = raw(t, func(c net.Conn, _ string) { endless(c, "HTTP/1.1 ", lines[2:900]) })
	unreachable(t, v, local(t, "", "http://"+addr), "too long")
	addr = raw(t, func(c net.Conn, _ string) { endless(c, "", "HTTP/1.1 103 Early Hints\r\n\r\n") })
	unreachable(t, v, local(t, "", "http://"+addr), "too long")

	// The status is known long before a body ends. That raw's cleanup returns
	// shows that the connection was closed.
	for status, valid := range map[string]bool{"200 OK": true, "401 No": false} {
		addr = raw(t, func(c net.Conn, _ string) { endless(c, "HTTP/1.1 "+status+"\r\n\r\n", lines) })
		if got, err := v.Verify(t.Context(), local(t, "", "http://"+addr), key); err != nil || got.Valid != valid {
			t.Errorf("%s: %+v, %v", status, got, err)
		}
	}
	addr = raw(t, func(c net.Conn, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
	})
	unreachable(t, v, local(t, "", "http://"+addr), "it answered 101")
}

// TestVerifySlowServers: one that accepts and says nothing, over plain TCP and
// where TLS should begin, and one that stops in the middle of its answer. That
// raw's cleanup returns shows that no connection is left open.
func TestVerifySlowServers(t *testing.T) {
	v := provider.NewVerifier(provider.VerifierOptions{Timeout: 50 * time.Millisecond})
	wait := func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) } // until the other end gives up
	silent := raw(t, func(c net.Conn, _ string) { wait(c) })
	unreachable(t, v, local(t, "", "http://"+silent), "no answer within 50ms")
	unreachable(t, v, local(t, "", "https://"+silent), "no answer within 50ms")
	half := raw(t, func(c net.Conn, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX:")
		wait(c)
	})
	unreachable(t, v, local(t, "", "http://"+half), "no answer within 50ms")

	mute := provider.NewVerifier(provider.VerifierOptions{Timeout: 50 * time.Millisecond, Resolver: &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}})
	for _, url := range []string{"https://api.provider.test", "http://api.provider.test"} {
		unreachable(t, mute, local(t, "", url), "no answer within 50ms")
	}

	asked := make(chan struct{}, 1)
	addr := raw(t, func(c net.Conn, _ string) {
		asked <- struct{}{}
		wait(c)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := provider.NewVerifier(provider.VerifierOptions{}).Verify(ctx, local(t, "", "http://"+addr), key)
	if !errors.Is(err, provider.ErrUnreachable) || !strings.Contains(err.Error(), "given up") {
		t.Errorf("given up: %v", err)
	}
}

func TestVerifyNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	v := provider.NewVerifier(provider.VerifierOptions{})
	unreachable(t, v, local(t, "", "http://"+l.Addr().String()), "no connection")
	v = provider.NewVerifier(provider.VerifierOptions{Resolver: &net.Resolver{
		PreferGo: true,
		Dial:     func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no DNS") },
	}})
	unreachable(t, v, local(t, "", "https://api.provider.test"), "cannot be looked up")
}

func TestVerifyTLS(t *testing.T) {
	var asked atomic.Int32
	start := func(c *tls.Config) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
		s.TLS, s.Config.ErrorLog = c, log.New(io.Discard, "", 0)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	good := start(nil)
	ask := func(v *provider.Verifier, url string) {
		t.Helper()
		if got, err := v.Verify(t.Context(), local(t, "", url), key); err != nil || !got.Valid {
			t.Errorf("%s: %+v, %v", url, got, err)
		}
	}
	ask(trusting(good, nil), good.URL)
	ask(trusting(good, resolve("127.0.0.1").resolver()), under(t, good, "example.com"))
	if asked.Load() != 2 {
		t.Fatalf("asked %d times", asked.Load())
	}
	unreachable(t, provider.NewVerifier(provider.VerifierOptions{}), local(t, "", good.URL), "certificate")
	unreachable(t, trusting(good, resolve("127.0.0.1").resolver()), local(t, "", under(t, good, "api.provider.test")), "certificate")
	old := start(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	unreachable(t, trusting(old, nil), local(t, "", old.URL), "TLS 1.2")
	plain := httptest.NewServer(good.Config.Handler)
	defer plain.Close()
	unreachable(t, trusting(good, nil), local(t, "", strings.Replace(plain.URL, "http:", "https:", 1)), "TLS 1.2")
	if asked.Load() != 2 {
		t.Error("a key was sent to a server that could not show who it is")
	}
}

// TestVerifyChecksTheAddressItConnectsTo: a name that leads to an address of
// this machine or of the network around it, at once or at the second look-up.
func TestVerifyChecksTheAddressItConnectsTo(t *testing.T) {
	var reached atomic.Int32
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	secure, plain := httptest.NewTLSServer(handler), httptest.NewServer(handler)
	defer secure.Close()
	defer plain.Close()
	url := under(t, secure, "example.com")
	for _, addr := range []string{
		"127.0.0.1", "127.0.0.1 127.0.0.2", "::1", "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "169.254.169.254",
		"0.0.0.0", "::", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00::1", "fe80::1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255",
	} {
		say := "the address "
		if strings.Contains(addr, ":") && !speaksIPv6() {
			say = "" // there is no socket to check an address of
		}
		unreachable(t, trusting(secure, resolve(addr).resolver()), compile(t, provider.Definition{Verify: verify(url)}), say)
	}
	// With leave, only for networks of one's own; and http nowhere else.
	for _, addr := range []string{"169.254.169.254", "0.0.0.0", "224.0.0.1"} {
		unreachable(t, trusting(secure, resolve(addr).resolver()), local(t, "", url), "no provider can be there")
	}
	if n := reached.Load(); n != 0 {
		t.Fatalf("reached %d times", n)
	}

	n := resolve("127.0.0.1", "8.8.8.8", "169.254.169.254", "127.0.0.1")
	v := provider.NewVerifier(provider.VerifierOptions{Resolver: n.resolver()})
	p := local(t, "", under(t, plain, "api.provider.test"))
	if got, err := v.Verify(t.Context(), p, key); err != nil || !got.Valid {
		t.Errorf("first look-up: %+v, %v", got, err)
	}
	unreachable(t, v, p, "http would send the key in the clear")
	unreachable(t, v, p, "no provider can be there")
	if got, err := v.Verify(t.Context(), p, key); err != nil || !got.Valid || reached.Load() != 2 {
		t.Errorf("fourth look-up: %+v, %v, reached %d times", got, err, reached.Load())
	}
}

func TestVerifyUsesNoProxy(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	if u, err := http.ProxyFromEnvironment(httptest.NewRequest("GET", "http://api.provider.test/", nil)); err != nil || u == nil {
		t.Fatalf("TestMain sets a proxy: %v, %v", u, err)
	}
	v := provider.NewVerifier(provider.VerifierOptions{Resolver: resolve("127.0.0.1").resolver()})
	got, err := v.Verify(t.Context(), local(t, "", under(t, s, "api.provider.test")), key)
	if err != nil || got.Reason != provider.ReasonRejected {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestVerifyConcurrently: each caller gets the answer to its own key.
func TestVerifyConcurrently(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer s.Close()
	v, p := provider.NewVerifier(provider.VerifierOptions{}), local(t, "", s.URL)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			k := []string{"good", "bad"}[i%2]
			if got, err := v.Verify(t.Context(), p, k); err != nil || got.Valid != (k == "good") {
				t.Errorf("%s: %+v, %v", k, got, err)
			}
		})
	}
	wg.Wait()
}
