package gate

import (
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/token"
)

func testSet(t testing.TB) (token.Set, string) {
	t.Helper()
	set, err := token.NewSet("ak_live_", "kt_")
	if err != nil {
		t.Fatal(err)
	}
	s, err := token.Mint("ak_live_", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return set, s.Reveal()
}

var testProtected = []string{"X-Tenant-Id", "X-Key-Id", "X-Plan"}

func sources(t testing.TB, words ...string) []Source {
	t.Helper()
	var out []Source
	for _, w := range words {
		s, err := ParseSource(w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func TestParseSource(t *testing.T) {
	for in, want := range map[string]string{
		"bearer": "bearer", "basic": "basic", "header:x-api-key": "header:X-Api-Key", "query:api_key": "query:api_key",
	} {
		if s, err := ParseSource(in); err != nil || s.String() != want {
			t.Errorf("%s: %v, %v", in, s, err)
		}
	}
	for _, in := range []string{"", "Bearer", "bearer:x", "basic:y", "header", "header:", "header:a b", "header:Authorization",
		"header:cookie", "header:Host", "query", "query:", "query:a&b", "query:a=b", "cookie:x", "header:x\r\ny"} {
		if s, err := ParseSource(in); err == nil {
			t.Errorf("%q was read as %v", in, s)
		}
	}
}

func TestConnectionKeepsOnlyHarmlessOptions(t *testing.T) {
	set, _ := testSet(t)
	c := NewCleaner(nil, set, testProtected, []string{"websocket"}, false)
	for _, tt := range []struct{ connection, upgrade, want, wantUpgrade string }{
		{"close", "", "close", ""},
		{"keep-alive", "", "keep-alive", ""},
		{"Close, X-Tenant-Id", "", "Close", ""},
		{"x-tenant-id", "", "", ""},
		{"Upgrade", "websocket", "Upgrade", "websocket"},
		{"keep-alive, Upgrade", "WebSocket", "keep-alive, Upgrade", "WebSocket"},
		{"Upgrade, HTTP2-Settings", "h2c", "", ""},
		{"Upgrade", "", "", ""},
		{"Upgrade", "websocket, h2c", "", ""},
		{"upgrade,\tX-Key-Id ,", "websocket", "upgrade", "websocket"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Connection"] = []string{tt.connection}
		if tt.upgrade != "" {
			r.Header["Upgrade"] = []string{tt.upgrade}
		}
		c.Cleanse(r)
		if got := r.Header.Get("Connection"); got != tt.want || r.Header.Get("Upgrade") != tt.wantUpgrade {
			t.Errorf("%q %q: %q %q", tt.connection, tt.upgrade, got, r.Header.Get("Upgrade"))
		}
	}
}

func TestKeepCredential(t *testing.T) {
	set, key := testSet(t)
	c := NewCleaner(sources(t, "bearer", "header:X-API-Key"), set, testProtected, nil, true)
	r := httptest.NewRequest("GET", "/?k="+key, nil)
	r.Header = http.Header{"Authorization": {"Bearer " + key}, "X-Api-Key": {key}, "X-Tenant-Id": {"evil"}}
	c.Cleanse(r)
	if r.Header.Get("Authorization") != "Bearer "+key || r.Header.Get("X-Api-Key") != key || r.URL.RawQuery != "k="+key {
		t.Error("a credential is gone")
	}
	if _, ok := r.Header["X-Tenant-Id"]; ok {
		t.Error("a forged header stays")
	}
}

// No header that folds to a protected one survives, and no key of ours does,
// wherever it stands.
func FuzzCleanse(f *testing.F) {
	set, key := testSet(f)
	f.Add("X_Tenant.Id", "v", "a=1&b=KEY")
	f.Add("Authorization", "Basic KEY", "KEY=1;x=KEY")
	f.Add("Cookie", "a=b; c=KEY", "%6b=KEY&&")
	f.Add("connection", "x-tenant-id", "")
	c := NewCleaner(sources(f, "bearer", "query:api_key"), set, testProtected, []string{"websocket"}, false)
	f.Fuzz(func(t *testing.T, name, value, query string) {
		value, query = strings.ReplaceAll(value, "KEY", key), strings.ReplaceAll(query, "KEY", key)
		r := httptest.NewRequest("POST", "/", strings.NewReader("x"))
		r.URL.RawQuery = query
		r.Header = http.Header{name: {value, value}, http.CanonicalHeaderKey(name): {value}}
		r.Trailer = http.Header{name: {value}}
		c.Cleanse(r)
		for _, h := range []http.Header{r.Header, r.Trailer} {
			for n, values := range h {
				for _, p := range testProtected {
					if fold(n) == fold(p) {
						t.Errorf("%q survives", n)
					}
				}
				for _, v := range values {
					if strings.Contains(v, key) {
						t.Errorf("the key survives in %q: %q", n, v)
					}
				}
			}
		}
		if strings.Contains(r.URL.RawQuery, key) {
			t.Errorf("the key survives in %q", r.URL.RawQuery)
		}
		if u, err := url.QueryUnescape(r.URL.RawQuery); err == nil && strings.Contains(u, "&api_key=") {
			t.Logf("escaped: %q", r.URL.RawQuery)
		}
		for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
			if k, _, _ := strings.Cut(pair, "="); unescape(k) == "api_key" {
				t.Errorf("a source survives in %q", r.URL.RawQuery)
			}
		}
	})
}

// What is found in a request never depends on more than its credentials, and
// finding never panics.
func FuzzFind(f *testing.F) {
	f.Add("Bearer x", "x", "api_key=x")
	f.Add("basic dXNlcjpwYXNz", "", "api_key=%zz&api_key")
	all := sources(f, "bearer", "basic", "header:X-API-Key", "query:api_key")
	f.Fuzz(func(t *testing.T, authorization, apiKey, query string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = query
		r.Header = http.Header{"Authorization": {authorization}, "X-Api-Key": {apiKey}}
		c := find(all, r)
		if !c.found || c.first == "" && c.two && authorization == "" && apiKey == "" && query == "" {
			t.Errorf("%+v", c)
		}
		if !c.two && c.first != apiKey {
			t.Errorf("one credential %q, but the header holds %q", c.first, apiKey)
		}
	})
}

func TestQueryKeepsTheBytesOfTheOthers(t *testing.T) {
	set, key := testSet(t)
	c := NewCleaner(sources(t, "query:api_key"), set, nil, nil, false)
	for in, want := range map[string]string{
		"a=%2f&api_key=x&b=+%20":          "a=%2f&b=+%20",
		"api_key=x":                       "",
		"api_key":                         "",
		"&&api_key=&a":                    "&&a",
		"api%5Fkey=x&A=1":                 "A=1",
		"a=1;api_key=x&b=2":               "b=2",
		"z=" + key:                        "",
		key + "=1&q":                      "q",
		"z=%61k_live_" + key[8:] + "&q=%": "q=%",
		"q=ak_live_short":                 "q=ak_live_short",
	} {
		if got := c.CleanQuery(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func BenchmarkCleanse(b *testing.B) {
	set, key := testSet(b)
	c := NewCleaner(sources(b, "bearer", "header:X-API-Key"), set, testProtected, nil, false)
	r := httptest.NewRequest("GET", "/v1/things?page=2", nil)
	for _, name := range []string{"User-Agent", "Accept", "Accept-Encoding", "Content-Type"} {
		r.Header.Set(name, "application/json")
	}
	values := []string{"Bearer " + key}
	b.ReportAllocs()
	for b.Loop() {
		r.Header["Authorization"] = values
		c.Cleanse(r)
	}
}
