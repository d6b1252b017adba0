package provider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// ErrUnreachable reports that a provider gave no answer that says anything
// about a key. What it wraps is meant for the operator's log: it may name
// addresses, and never holds the key.
var ErrUnreachable = errors.New("the provider cannot be reached")

// The reasons for which a key is not valid.
const (
	ReasonUnauthorized = "unauthorized" // the provider answered 401
	ReasonForbidden    = "forbidden"    // 403
	ReasonRejected     = "rejected"     // another 4xx
)

// Result is what a provider says of a key.
type Result struct {
	Valid  bool
	Reason string // one of the above; "" if it is valid
}

// maxHead bounds the head of an answer, in bytes. The body is not read.
const maxHead = 64 << 10

// VerifierOptions say how providers are asked.
type VerifierOptions struct {
	// The time for one question, from the look-up of the name to the head of
	// the answer. Default: 10 seconds.
	Timeout time.Duration
	// Who looks up names. Default: net.DefaultResolver.
	Resolver *net.Resolver
	// Whose certificates are trusted. Default: those of the system.
	RootCAs *x509.CertPool
}

// Verifier asks providers whether a key is good. It sends a key to the fixed
// URL of its provider and nowhere else: it follows no redirect, uses no proxy,
// and checks each address when it connects to it, whatever the name resolved to
// before. It is safe for concurrent use.
type Verifier struct{ options VerifierOptions }

// NewVerifier returns a Verifier.
func NewVerifier(o VerifierOptions) *Verifier {
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	return &Verifier{o}
}

// Verify asks the provider whether the key is good. It returns ErrUnreachable
// if there was no answer that tells: no connection, a bad certificate, no time
// left, a redirect, 408, 425, 429 or a 5xx. p.CanVerify must be true, and the
// key one that CheckKey takes.
func (v *Verifier) Verify(ctx context.Context, p *Provider, key string) (Result, error) {
	if !p.CanVerify() {
		return Result{}, fmt.Errorf("keys of the provider %s cannot be verified: it has no verify request", p.name)
	}
	if err := CheckKey(key); err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, v.options.Timeout)
	defer cancel()
	status, err := v.ask(ctx, p.check, key)
	if err != nil {
		return Result{}, fmt.Errorf("%w: %s", ErrUnreachable, v.explain(ctx, err))
	}
	switch {
	case status >= 200 && status < 300:
		return Result{Valid: true}, nil
	case status == http.StatusUnauthorized:
		return Result{Reason: ReasonUnauthorized}, nil
	case status == http.StatusForbidden:
		return Result{Reason: ReasonForbidden}, nil
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests,
		status < 400, status >= 500:
		return Result{}, fmt.Errorf("%w: it answered %d", ErrUnreachable, status)
	}
	return Result{Reason: ReasonRejected}, nil
}

// ask sends the request of a check and returns the status of the answer.
func (v *Verifier) ask(ctx context.Context, c *check, key string) (int, error) {
	r := (&http.Request{
		Method: c.method, URL: c.url, Host: c.url.Host, Body: http.NoBody,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {"keytoll"}, "Accept": {"application/json"}},
	}).WithContext(ctx)
	for i := range c.headers {
		r.Header[c.headers[i].Name] = []string{c.headers[i].Value(key)}
	}
	// A transport for one request: no connection outlives it, and none is used
	// for the keys of two tenants. The transport alone follows no redirect.
	resp, err := v.transport(ctx, c).RoundTrip(r)
	if err != nil {
		return 0, err
	}
	// The status is all there is to know: what follows is not read.
	_ = resp.Body.Close()
	return resp.StatusCode, nil
}

// transport returns a transport for the request of a check. It connects under
// ctx: on its own, a transport goes on connecting when the request is given up.
func (v *Verifier) transport(ctx context.Context, c *check) *http.Transport {
	dialer := &net.Dialer{
		Resolver: v.options.Resolver,
		// Called with the very address that is connected to.
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err == nil {
				err = permit(to.Addr(), c.url.Scheme == "https", c.allowPrivate)
			}
			if err != nil {
				return &refusedError{err}
			}
			return nil
		},
	}
	return &http.Transport{
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		DialTLSContext: func(_ context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return v.secure(ctx, conn, address)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHead,
	}
}

// secure speaks TLS over a connection to an address.
func (v *Verifier) secure(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err == nil {
		config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12, RootCAs: v.options.RootCAs}
		client := tls.Client(conn, config)
		if err = client.HandshakeContext(ctx); err == nil {
			return client, nil
		}
	}
	_ = conn.Close()
	return nil, &handshakeError{err}
}

type (
	// refusedError is what permit said of an address.
	refusedError struct{ error }
	// handshakeError is why there is no TLS connection.
	handshakeError struct{ error }
)

func (e *handshakeError) Unwrap() error { return e.error }

// explain says in our own words why there was no answer. Texts of errors that
// may quote what the provider sent are left out: it knows the key.
func (v *Verifier) explain(ctx context.Context, err error) string {
	var (
		refused     *refusedError
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
		handshake   *handshakeError
		op          *net.OpError
	)
	switch {
	case errors.As(err, &refused):
		return refused.Error()
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %v", v.options.Timeout)
	case ctx.Err() != nil:
		return "the question was given up"
	case errors.As(err, &name):
		return "its name cannot be looked up"
	case errors.As(err, &certificate):
		return "its certificate is not good for its name, or nobody trusted has signed it"
	case errors.As(err, &handshake):
		return "it does not speak TLS 1.2 or later"
	case errors.As(err, &op) && op.Op == "dial":
		return "no connection: " + op.Err.Error()
	}
	return "its answer is not one of HTTP, or too long, or broke off"
}
