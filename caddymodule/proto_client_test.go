package caddymodule

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
)

// hangGuard ends a test that would otherwise wait for ever. It is no
// measurement: nothing here comes near it.
const hangGuard = 50 * time.Second

// protoClient speaks one version of HTTP.
type protoClient struct {
	name  string
	major int
	http.RoundTripper
}

// newTLSGateway is newGateway over TLS, so that HTTP/2 and HTTP/3 are there as
// well. The certificate is a file: Caddy 2.11.9 obtaining its own races with its
// own start.
func newTLSGateway(t testing.TB, options, site string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), addr: freeAddr(t), upstream: newUpstream(t)}
	_, port, _ := net.SplitHostPort(g.addr)
	g.url = "https://localhost:" + port
	t.Cleanup(stopCaddy(t))
	text := strings.Replace(g.text(options, "bind 127.0.0.1\ntls "+selfSigned(t, g.dir)+"\n"+site), "admin off",
		"admin off\n\tauto_https off\n\tocsp_stapling off\n\tstorage file_system "+g.dir+"/pki", 1)
	if err := g.tryLoad(text); err != nil {
		t.Fatal(err)
	}
	return g
}

// selfSigned writes a certificate for localhost and returns the paths of it and
// of its key.
func selfSigned(t testing.TB, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile + " " + keyFile
}

func clientTLS(protos ...string) *tls.Config {
	return &tls.Config{ServerName: "localhost", InsecureSkipVerify: true, NextProtos: protos}
}

// clients returns one for each version of HTTP.
func (g *gateway) clients() []protoClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", g.addr)
	}
	tcp := func(set func(*http.Protocols, bool)) *http.Transport {
		tr := &http.Transport{DialContext: dial, TLSClientConfig: clientTLS(), DisableCompression: true, Protocols: new(http.Protocols)}
		set(tr.Protocols, true)
		g.t.Cleanup(tr.CloseIdleConnections)
		return tr
	}
	h3 := &http3.Transport{
		TLSClientConfig: clientTLS(), DisableCompression: true,
		Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, g.addr, tc, qc)
		},
	}
	g.t.Cleanup(func() { _ = h3.Close() })
	return []protoClient{
		{"HTTP/1.1", 1, tcp((*http.Protocols).SetHTTP1)},
		{"HTTP/2", 2, tcp((*http.Protocols).SetHTTP2)},
		{"HTTP/3", 3, h3},
	}
}

// eachProto runs a test over every version of HTTP.
func (g *gateway) eachProto(t *testing.T, f func(*testing.T, protoClient)) {
	for _, c := range g.clients() {
		t.Run(c.name, func(t *testing.T) { f(t, c) })
	}
}

// request makes a request with headers given as "Name: value".
func (g *gateway) request(t testing.TB, method, path string, body io.Reader, headers ...string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hangGuard)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, g.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	return req
}

// open sends a request and returns with the head of the response.
func (c protoClient) open(t testing.TB, req *http.Request) *http.Response {
	t.Helper()
	resp, err := c.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.ProtoMajor != c.major {
		t.Fatalf("answered in %s, want %s", resp.Proto, c.name)
	}
	return resp
}

// send sends a request and reads the whole response.
func (c protoClient) send(t testing.TB, req *http.Request) reply {
	t.Helper()
	resp := c.open(t, req)
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp, string(b)}
}

// once fails unless the response has these headers with one value each.
func once(t testing.TB, h http.Header, names ...string) {
	t.Helper()
	for _, name := range names {
		if v := h[name]; len(v) != 1 || v[0] == "" {
			t.Errorf("%s: %q, want one value", name, v)
		}
	}
}

// absent fails if one of these headers is there.
func absent(t testing.TB, h http.Header, names ...string) {
	t.Helper()
	for _, name := range names {
		if v, ok := h[name]; ok {
			t.Errorf("%s: %q, want none", name, v)
		}
	}
}

// openEngine returns the state of the running configuration.
func openEngine(t testing.TB) *engine.Engine {
	t.Helper()
	app, err := activeApp()
	if err != nil {
		t.Fatal(err)
	}
	return app.engine.Load()
}

// stopCaddy returns what ends the running configuration.
func stopCaddy(t testing.TB) func() {
	return func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	}
}
