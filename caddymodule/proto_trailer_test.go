package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// trailing is a body that sets the trailers of its request when it ends.
type trailing struct {
	io.Reader
	atEnd func()
}

func (b *trailing) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && b.atEnd != nil {
		b.atEnd()
		b.atEnd = nil
	}
	return n, err
}

// trailerRequest announces some trailers and sends all.
func (g *gateway) trailerRequest(t testing.TB, announce []string, send http.Header, headers ...string) *http.Request {
	body := &trailing{Reader: strings.NewReader("hello")}
	req := g.request(t, "POST", "/pkg.Service/Method", io.NopCloser(body), headers...)
	req.ContentLength = -1
	req.Trailer = http.Header{}
	for _, name := range announce {
		req.Trailer[name] = nil
	}
	body.atEnd = func() {
		for name, values := range send {
			req.Trailer[name] = values
		}
	}
	return req
}

// trailerUpstream answers like a gRPC server: trailers announced and not.
func trailerUpstream(w http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Trailer", "Grpc-Status")
	w.Header().Set("Content-Type", "application/grpc")
	_, _ = w.Write([]byte("reply"))
	w.(http.Flusher).Flush()
	w.Header().Set("Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"Grpc-Message", "fine")
	return true
}

// F2: trailers pass in both directions, but for those that would forge the
// identity or leak the key, whether they were announced or not.
func TestF2TrailersInEveryVersion(t *testing.T) {
	g := newTLSGateway(t, "", plainGate)
	g.upstream.respond(trailerUpstream)
	testTrailers(t, g)
}

// The same with an API that speaks HTTP/2 without TLS, as gRPC servers do.
func TestF2TrailersToAnHTTP2Upstream(t *testing.T) {
	up := newUpstream(t)
	up.respond(trailerUpstream)
	s := httptest.NewUnstartedServer(up)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	g := newTLSGateway(t, "", "keytoll\nreverse_proxy h2c://"+s.Listener.Addr().String())
	g.upstream = up
	testTrailers(t, g)
}

func testTrailers(t *testing.T, g *gateway) {
	id, key := g.key("acme", hourly(1000))
	sent := http.Header{
		"X-Sum": {"abc"}, "X-Tenant-Id": {"evil"}, "X-Key-Id": {"evil"}, "X_tenant_id": {"evil"},
		"X-Api-Key": {key}, "X-Other": {"has " + key},
	}
	all := make([]string, 0, len(sent))
	for name := range sent {
		all = append(all, name)
	}
	g.eachProto(t, func(t *testing.T, c protoClient) {
		for _, announce := range [][]string{{"X-Sum"}, {"X-Sum", "X-Tenant-Id"}, all} {
			r := c.send(t, g.trailerRequest(t, announce, sent, "X-Api-Key: "+key, "Te: trailers", "Content-Type: application/grpc")).expect(t, 200)
			saw := g.upstream.last(t)
			for name, v := range saw.Trailer {
				// Of X-Other only the name can get through: its value was not known.
				if name != "X-Sum" && (name != "X-Other" || len(v) > 0) {
					t.Errorf("announced %q: upstream saw the trailer %s: %q", announce, name, v)
				}
			}
			if saw.Trailer.Get("X-Sum") != "abc" && c.major != 3 { // quic-go's server drops request trailers
				t.Errorf("announced %q: the honest trailer is gone: %v", announce, saw.Trailer)
			}
			if saw.Header.Get("X-Tenant-Id") != "acme" || saw.Header.Get("X-Key-Id") != id.String() {
				t.Errorf("announced %q: upstream saw the identity %v", announce, saw.Header)
			}
			if saw.Header.Get("Te") != "trailers" {
				t.Errorf("Te: %q", saw.Header.Get("Te"))
			}
			if r.body != "reply" || r.Trailer.Get("Grpc-Status") != "0" || r.Trailer.Get("Grpc-Message") != "fine" {
				t.Errorf("body %q, trailers %v", r.body, r.Trailer)
			}
			once(t, r.Header, rateNames...)
		}
		// Without an announcement nothing may ride along either.
		c.send(t, g.trailerRequest(t, nil, sent, "X-Api-Key: "+key)).expect(t, 200)
		for name, v := range g.upstream.last(t).Trailer {
			if name != "X-Sum" {
				t.Errorf("nothing announced: upstream saw the trailer %s: %q", name, v)
			}
		}
	})
}
