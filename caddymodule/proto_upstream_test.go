package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// A17: what the API answers passes unchanged, with the gate's headers added.
func TestA17AnswersPassUnchanged(t *testing.T) {
	g := newTLSGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(1000))
	for _, want := range []struct {
		status int
		body   string
		header string
	}{
		{204, "", "X-Own: 1"}, {304, "", `Etag: "v1"`}, {301, "moved", "Location: /there"}, {307, "", "Location: https://a.example/x"},
		{400, `{"their":"error"}`, "Content-Type: application/json"}, {401, "theirs", "Www-Authenticate: Bearer realm=\"theirs\""},
		{404, "not here", "Cache-Control: max-age=60"}, {429, "theirs", "Retry-After: 77"}, {500, "broken", "X-Own: 1"},
		{502, "theirs", "X-Own: 1"}, {503, "theirs", "Retry-After: 9"}, {504, "theirs", "X-Own: 1"},
	} {
		name, value, _ := strings.Cut(want.header, ": ")
		g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set(name, value)
			w.WriteHeader(want.status)
			_, _ = io.WriteString(w, want.body)
			return true
		})
		for _, c := range g.clients() {
			r := c.send(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key)).expect(t, want.status)
			if r.body != want.body || r.Header.Get(name) != value {
				t.Errorf("%s: %d became %q %v", c.name, want.status, r.body, r.Header)
			}
			once(t, r.Header, rateNames...)
		}
	}
}

// An API with rate-limit headers of its own does not contradict the gate's.
func TestOwnRateHeadersWin(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n rate_headers both\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", hourly(5))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		for _, name := range append(rateNames, "Ratelimit", "Ratelimit-Policy", "x-ratelimit-limit") {
			w.Header()[name] = []string{"7777", "8888"}
		}
		return false
	})
	r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	once(t, r.Header, append(rateNames, "Ratelimit", "Ratelimit-Policy")...)
	if r.Header.Get("X-Ratelimit-Limit") != "5" || r.Header.Get("X-Ratelimit-Remaining") != "4" {
		t.Errorf("limit %v", r.Header)
	}
	for name, v := range r.Header {
		if s := strings.Join(v, " "); strings.Contains(s, "7777") || strings.Contains(s, "8888") {
			t.Errorf("%s: %q is the API's", name, v)
		}
	}
}

// Failures of the upstream, by how they come about. Each is made by a site
// that has it for its first request.
var upstreamFailures = []struct {
	name, proxy string
	status      int
	code        string
	prepare     func(*testing.T, *gateway, string)
}{
	{"refused", "reverse_proxy {upstream}", 502, "bad_gateway", func(t *testing.T, g *gateway, _ string) { g.upstream.server.Close() }},
	{"garbage", "reverse_proxy {upstream}", 502, "bad_gateway", func(t *testing.T, g *gateway, _ string) {
		g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH\r\n\r\n")
				conn.Close()
			}
			return true
		})
	}},
	{"nobody", "reverse_proxy {upstream} {\n fail_duration 1h\n max_fails 1\n }", 503, "unavailable", func(t *testing.T, g *gateway, key string) {
		g.upstream.server.Close()
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 502)
	}},
	{"silent", "reverse_proxy {upstream} {\n transport http {\n response_header_timeout 100ms\n }\n }", 504, "gateway_timeout", silent},
}

// silent has the API answer nothing until its request is taken back.
func silent(_ *testing.T, g *gateway, _ string) {
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
}

// A55: 502, 503 and 504 have the gate's envelope and its headers, say nothing
// of the inside, and leave no header in the log.
func TestA55UpstreamFailures(t *testing.T) {
	for _, f := range upstreamFailures {
		t.Run(f.name, func(t *testing.T) {
			g := newGateway(t, "", "keytoll\n"+f.proxy)
			_, key := g.key("acme", hourly(50))
			f.prepare(t, g, key)
			r := g.do("GET", "/", "X-Api-Key: "+key, "X-Private: sentinel-value").expect(t, f.status)
			if r.code() != f.code || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%q %v", r.body, r.Header)
			}
			if s := r.body + fmt.Sprint(r.Header); strings.Contains(s, g.upstream.addr) {
				t.Errorf("the answer shows the upstream: %s", s)
			}
			once(t, r.Header, rateNames...)
			checkErrorLog(t, g.log(), key)
		})
	}
}

// checkErrorLog fails unless there is an error entry, none has a header, and
// nothing shows the key.
func checkErrorLog(t *testing.T, log, key string) {
	t.Helper()
	if strings.Contains(log, key) {
		t.Error("the log shows the key")
	}
	found := 0
	for line := range strings.Lines(log) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Level != "error" {
			continue
		}
		if entry.Msg == "upstream failed" {
			found++
		}
		if strings.Contains(line, `"headers"`) || strings.Contains(line, "sentinel-value") {
			t.Errorf("an error entry has headers: %s", line)
		}
	}
	if found == 0 {
		t.Errorf("the failure is not logged: %s", log)
	}
}

// `errors caddy` has the site's error route write refusals and failures; it
// knows the reason, and the headers of the refusal stay.
func TestErrorsCaddyHandsOver(t *testing.T) {
	g := newGateway(t, "", "keytoll {\n errors caddy\n }\n reverse_proxy {upstream}\n"+
		"handle_errors {\n header X-Page 1\n respond \"{err.status_code} {http.keytoll.reason} {http.keytoll.tenant.id}\"\n }")
	_, key := g.key("acme", hourly(2))
	page := func(status int, body string, headers ...string) reply {
		t.Helper()
		r := g.do("GET", "/", headers...).expect(t, status)
		if r.body != body || r.Header.Get("X-Page") != "1" {
			t.Errorf("%q, want %q; headers %v", r.body, body, r.Header)
		}
		return r
	}
	if r := page(401, "401 missing "); r.Header.Get("Www-Authenticate") == "" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", r.Header)
	}
	page(401, "401 unknown ", "X-Api-Key: wrong")
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.upstream.server.Close()
	page(502, "502 upstream_failed acme", "X-Api-Key: "+key)
	r := page(429, "429 rate_limited acme", "X-Api-Key: "+key)
	once(t, r.Header, append(rateNames, "Retry-After")...)
}

// The status 200 that nobody wrote still carries the gate's headers: with a
// first Write, a first Flush, a first ReadFrom, and with nothing at all.
func TestImplicitStatusCarriesHeaders(t *testing.T) {
	file := t.TempDir()
	if err := os.WriteFile(file+"/f.txt", []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, "", "keytoll\nhandle /file/* {\n uri strip_prefix /file\n root "+file+"\n file_server\n}\n"+
		"handle /static {\n respond text\n}\nhandle /empty {\n header X-Own 1\n respond \"\"\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", hourly(100))
	for path, body := range map[string]string{"/file/f.txt": "from a file", "/static": "text", "/empty": "", "/api": "hello from the api\n"} {
		r := g.do("GET", path, "X-Api-Key: "+key).expect(t, 200)
		if r.body != body {
			t.Errorf("%s: %q", path, r.body)
		}
		once(t, r.Header, rateNames...)
	}
}

// A dial that times out is a 504 as well.
func TestA55DialTimeout(t *testing.T) {
	addr := deafAddr(t)
	g := newGateway(t, "", "keytoll\nreverse_proxy "+addr+" {\n transport http {\n dial_timeout 100ms\n }\n }")
	_, key := g.key("acme", hourly(50))
	r := g.do("GET", "/", "X-Api-Key: "+key)
	if r.StatusCode != 504 && r.StatusCode != 502 || r.code() == "" {
		t.Errorf("status %d, body %q", r.StatusCode, r.body)
	}
	once(t, r.Header, rateNames...)
	checkErrorLog(t, g.log(), key)
}

// deafAddr is a port whose queue of connections is full: nobody accepts there
// and nobody refuses.
func deafAddr(t *testing.T) string {
	l, err := listenBacklog0()
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { l.Close() })
	for range 4 {
		conn, err := net.DialTimeout("tcp", l.Addr().String(), 200e6)
		if err != nil {
			return l.Addr().String()
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("this system queues connections all the same")
	return ""
}

// listenBacklog0 listens with the shortest queue there is.
func listenBacklog0() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = shortenQueue(fd) })
	if err == nil {
		err = failed
	}
	return l, err
}
