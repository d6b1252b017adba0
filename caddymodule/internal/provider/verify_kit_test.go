package provider_test

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/keytoll/keytoll/caddymodule/internal/provider"
)

// TestMain sets a proxy at which nobody is: what uses it fails. It is read from
// the environment once, so that a test cannot set it.
func TestMain(m *testing.M) {
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		if err := os.Setenv(name, "http://127.0.0.1:1"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// local compiles a provider whose check goes to a URL on the loopback, with
// leave.
func local(t testing.TB, method, url string) *provider.Provider {
	t.Helper()
	return compile(t, provider.Definition{Verify: &provider.Check{
		Method: method, URL: url, AllowPrivate: true,
		Headers: []provider.Header{
			{Name: "Authorization", Value: "Bearer " + provider.Placeholder},
			{Name: "Acme-Version", Value: "2025-01-01"},
		},
	}})
}

// unreachable asks and wants no answer, for a reason that says something. The
// key must not be in the error.
func unreachable(t *testing.T, v *provider.Verifier, p *provider.Provider, say string) {
	t.Helper()
	got, err := v.Verify(t.Context(), p, key)
	if !errors.Is(err, provider.ErrUnreachable) || got != (provider.Result{}) {
		t.Errorf("%+v, %v; want ErrUnreachable: %s", got, err, say)
		return
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		if strings.Contains(e.Error(), key[3:]) {
			t.Errorf("the error holds the key: %v", e)
		}
	}
	if !strings.Contains(err.Error(), say) {
		t.Errorf("%v; want: %s", err, say)
	}
}

// raw serves each connection with what serve does after the head of a request
// was read, which it is given. It closes the connection then.
func raw(t *testing.T, serve func(c net.Conn, head string)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				var head []byte
				for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, b[0]) {
					if _, err := c.Read(b); err != nil {
						return
					}
				}
				serve(c, string(head))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// names is a DNS server in memory: each look-up of any name takes the next list
// of addresses, the last one again and again.
type names struct {
	mu      sync.Mutex
	answers [][]netip.Addr
	asked   int // for A records
}

func resolve(lists ...string) *names {
	n := new(names)
	for _, list := range lists {
		var addrs []netip.Addr
		for s := range strings.FieldsSeq(list) {
			addrs = append(addrs, netip.MustParseAddr(s))
		}
		n.answers = append(n.answers, addrs)
	}
	return n
}

// resolver returns a resolver that asks n. It speaks to it as over TCP.
func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go n.serve(server)
		return client, nil
	}}
}

func (n *names) serve(c net.Conn) {
	defer c.Close()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return
	}
	var m dnsmessage.Message
	if m.Unpack(query) != nil {
		return
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	q := m.Questions[0]
	for _, addr := range n.next(q.Type) {
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}}
		switch {
		case addr.Is4() && q.Type == dnsmessage.TypeA:
			r.Body = &dnsmessage.AResource{A: addr.As4()}
		case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
			r.Body = &dnsmessage.AAAAResource{AAAA: addr.As16()}
		default:
			continue
		}
		m.Answers = append(m.Answers, r)
	}
	answer, err := m.Pack()
	if err == nil {
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	}
}

// next returns the addresses for a question. A look-up asks for A and AAAA at
// the same time: the answers are of one family, so that the other question need
// not know which look-up it belongs to.
func (n *names) next(typ dnsmessage.Type) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := n.asked
	if typ == dnsmessage.TypeA {
		n.asked++
	} else if i > 0 && !n.answers[0][0].Is6() {
		i--
	}
	return n.answers[min(i, len(n.answers)-1)]
}

// trusting returns a Verifier that trusts the certificate of a server, which is
// for example.com and the loopback.
func trusting(s *httptest.Server, r *net.Resolver) *provider.Verifier {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return provider.NewVerifier(provider.VerifierOptions{RootCAs: roots, Resolver: r})
}

// under returns the URL of a server with another host name.
func under(t *testing.T, s *httptest.Server, host string) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = net.JoinHostPort(host, u.Port())
	return u.String()
}

// speaksIPv6 reports whether this machine has IPv6 at all.
func speaksIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return false
	}
	return l.Close() == nil
}
