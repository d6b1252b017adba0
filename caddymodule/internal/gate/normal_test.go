package gate

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
)

func targetOf(t testing.TB, target string) *http.Request {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil
	}
	return &http.Request{Method: "GET", URL: u, RequestURI: target}
}

func TestNormalForm(t *testing.T) {
	for target, want := range map[string]bool{
		"/": true, "/v1/things": true, "/v1/things/": true, "/v1/.well-known": true, "/v1/a..b": true, "/v1/...": true,
		"/v1/a%20b": true, "/v1/caf%C3%A9": true, "/v1/x?y=/../%2f;z//": true, "/v1/a:b@c,d=e+f": true, "/v1/%3Fq": true, "/v1/%23": true,
		"http://host/v1/things": true,

		"//v1": false, "/v1//admin": false, "/v1/things//": false,
		"/./v1": false, "/v1/.": false, "/v1/..": false, "/v1/../admin": false, "/v1/open/../admin": false,
		"/v1/%2e%2e/admin": false, "/v1/%2E/admin": false, "/v1/.%2e/admin": false, "/v1/a%2eb": false,
		"/v1%2fadmin": false, "/v1%2Fadmin": false, "/v1/%2f..%2fadmin": false,
		"/v1%5cadmin": false, "/v1%5Cadmin": false, `/v1\admin`: false,
		"/v1/%252e": false, "/v1/%25": false, "/v1/a%00": false, "/v1/a%0a": false, "/v1/a%7f": false,
		"/v1/x;y=1": false, "/v1;/admin": false, "/v1/x%3by": false, "/v1/x%3By": false,
		"/v1/%c0%af": false, "/v1/%ff": false, "/v1/a#b": false, "*": false,
		"http://host": false, "http://host//v1": false, "http://host/v1/%2e%2e": false,
	} {
		r := targetOf(t, target)
		if r == nil {
			t.Errorf("%s: is no request target", target)
			continue
		}
		if got := normal(r); got != want {
			t.Errorf("%s: normal = %v", target, got)
		}
	}
}

// The target as it came is looked at too, whoever changed the URL since.
func TestNormalFormOfARewrittenRequest(t *testing.T) {
	r := targetOf(t, "/v1/a")
	r.URL.Path = "/v1/../a"
	if normal(r) {
		t.Error("a rewritten path with dots is normal")
	}
	r = targetOf(t, "/v1/%2e%2e/a")
	r.URL.Path, r.URL.RawPath = "/a", ""
	if normal(r) {
		t.Error("a target that was cleaned halfway is normal")
	}
}

func TestNormalFormDoesNotAllocate(t *testing.T) {
	r := targetOf(t, "/v1/caf%C3%A9/a%20b?x=y")
	if n := testing.AllocsPerRun(100, func() { normal(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// It is before the key, public or not, preflight or not; and off unless asked for.
func TestNormalFormIsScreened(t *testing.T) {
	g := &Gate{NormalForm: true, AllowHTTP: true, Public: []Match{nil}}
	for _, method := range []string{"GET", "OPTIONS"} {
		r := httptest.NewRequest(method, "/v1//x", nil)
		r.Header["Origin"], r.Header["Access-Control-Request-Method"] = []string{"x"}, []string{"GET"}
		c := new(Call)
		if g.Decide(new(State), r, c, new(Asks)); c.Reason != access.NotNormal {
			t.Errorf("%s: %s", method, c.Reason)
		}
		g.NormalForm = false
		if g.Decide(new(State), r, c, new(Asks)); c.Reason != access.Anonymous {
			t.Errorf("%s, off: %s", method, c.Reason)
		}
		g.NormalForm = true
	}
}

// What passes has one reading: cleaning it or decoding it again changes nothing.
func FuzzNormal(f *testing.F) {
	for _, s := range []string{"/v1/a", "/v1/../a", "/v1/%2e%2e/a", "//a", "/a;b", `/a\b`, "/a%2fb", "/%252e", "/a/", "http://h/a", "/caf%C3%A9", "/\xc3\xa9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r := targetOf(t, target)
		if r == nil || !normal(r) {
			return
		}
		p := r.URL.Path
		if clean := path.Clean(p); clean != p && clean+"/" != p {
			t.Fatalf("%q decodes to %q, which cleans to %q", target, p, clean)
		}
		if again, err := url.PathUnescape(p); err != nil || again != p {
			t.Fatalf("%q decodes to %q, which decodes to %q", target, p, again)
		}
		up := r.URL.EscapedPath()
		if strings.Count(up, "/") != strings.Count(p, "/") || strings.Count(up, ".") != strings.Count(p, ".") {
			t.Fatalf("%q goes up as %q and is read as %q", target, up, p)
		}
		if strings.ContainsAny(p, "\\;%\x00") {
			t.Fatalf("%q decodes to %q", target, p)
		}
	})
}
