package provider_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
)

const key = "sk-A1b2C3d4E5f6G7h8"

func compile(t testing.TB, d provider.Definition) *provider.Provider {
	t.Helper()
	p, err := provider.Compile("acme", d)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// headers returns what the upstream gets with the key.
func headers(p *provider.Provider) map[string]string {
	got := make(map[string]string)
	for _, h := range p.Inject() {
		got[h.Name] = h.Value(key)
	}
	return got
}

func TestCompileDefaults(t *testing.T) {
	p := compile(t, provider.Definition{})
	if p.Name() != "acme" || p.Header() != "X-Provider-Key-Acme" || p.CanVerify() {
		t.Errorf("%q in %q, verify %v", p.Name(), p.Header(), p.CanVerify())
	}
	if got := headers(p); len(got) != 1 || got["X-Provider-Key-Acme"] != key {
		t.Errorf("injects %q", got)
	}
	if got := headers(compile(t, provider.Definition{Header: "x-my-KEY"})); got["X-My-Key"] != key {
		t.Errorf("injects %q", got)
	}
}

func TestCompileInject(t *testing.T) {
	p := compile(t, provider.Definition{
		Header: "X-Acme",
		Inject: []provider.Header{
			{Name: "authorization", Value: "Bearer " + provider.Placeholder},
			{Name: "X-Signed", Value: `key="` + provider.Placeholder + `", v=1`},
			{Name: "X-Bare", Value: provider.Placeholder},
			{Name: "acme-version", Value: "2025-01-01"},
		},
	})
	want := map[string]string{
		"Authorization": "Bearer " + key, "X-Signed": `key="` + key + `", v=1`,
		"X-Bare": key, "Acme-Version": "2025-01-01",
	}
	got := headers(p)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s: %q, want %q", name, got[name], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("injects %q", got)
	}
	for _, i := range []int{2, 3} {
		if n := testing.AllocsPerRun(100, func() { _ = p.Inject()[i].Value(key) }); n != 0 {
			t.Errorf("%s: %v allocations", p.Inject()[i].Name, n)
		}
	}
}

func verify(url string) *provider.Check {
	return &provider.Check{URL: url, Headers: []provider.Header{{Name: "X-Key", Value: provider.Placeholder}}}
}

func TestCompileRefuses(t *testing.T) {
	inject := func(name, value string) provider.Definition {
		return provider.Definition{Inject: []provider.Header{{Name: name, Value: value}}}
	}
	check := func(change func(*provider.Check)) provider.Definition {
		c := verify("https://api.example.com/v1/models")
		change(c)
		return provider.Definition{Verify: c}
	}
	url := func(s string) provider.Definition { return check(func(c *provider.Check) { c.URL = s }) }
	many := make([]provider.Header, provider.MaxHeaders+1)
	for i := range many {
		many[i] = provider.Header{Name: "X-" + string(rune('a'+i)), Value: provider.Placeholder}
	}
	for _, c := range []struct {
		what string
		d    provider.Definition
		say  string
	}{
		{"header with a space", provider.Definition{Header: "X Key"}, "want a header name"},
		{"header with a line end", provider.Definition{Header: "X-Key\r\nHost"}, "want a header name"},
		{"header not ASCII", provider.Definition{Header: "X-Schlüssel"}, "want a header name"},
		{"long header", provider.Definition{Header: strings.Repeat("x", 129)}, "want a header name"},
		{"header of HTTP", provider.Definition{Header: "transfer-encoding"}, "HTTP itself"},
		{"header of callers", provider.Definition{Header: "Authorization"}, "X-Provider-Key-acme"},
		{"cookie", provider.Definition{Header: "cookie"}, "something else"},
		{"inject host", inject("Host", provider.Placeholder), "HTTP itself"},
		{"inject a bad name", inject("a:b", provider.Placeholder), "want a header name"},
		{"no key", inject("X-Key", "Bearer"), provider.Placeholder},
		{"key twice", inject("X-Key", provider.Placeholder+provider.Placeholder), "twice"},
		{"no value", inject("X-Key", ""), "want a value"},
		{"long value", inject("X-Key", provider.Placeholder+strings.Repeat("x", provider.MaxValue)), "want a value"},
		{"line end", inject("X-Key", provider.Placeholder+"\r\nX: y"), "control"},
		{"NUL", inject("X-Key", provider.Placeholder+"\x00"), "control"},
		{"space at the end", inject("X-Key", provider.Placeholder+" "), "space"},
		{"another placeholder", inject("X-Key", "{env.SECRET} "+provider.Placeholder), "only placeholder"},
		{"half a placeholder", inject("X-Key", "{"+provider.Placeholder), "only placeholder"},
		{"same header twice", provider.Definition{Inject: []provider.Header{
			{Name: "X-Key", Value: provider.Placeholder}, {Name: "x-key", Value: "a"}}}, "twice"},
		{"many headers", provider.Definition{Inject: many}, "at most 16"},
		{"method", check(func(c *provider.Check) { c.Method = "DELETE" }), "want GET, HEAD or POST"},
		{"method's case", check(func(c *provider.Check) { c.Method = "get" }), "want GET, HEAD or POST"},
		{"check without headers", check(func(c *provider.Check) { c.Headers = nil }), provider.Placeholder},
		{"no URL", url(""), "want a URL"},
		{"relative URL", url("/v1/models"), "want a URL"},
		{"no host", url("https:///v1"), "want a URL"},
		{"opaque", url("https:api.example.com"), "want a URL"},
		{"line end in the URL", url("https://api.example.com/\n"), "want a URL"},
		{"long URL", url("https://api.example.com/" + strings.Repeat("x", provider.MaxURL)), "want a URL"},
		{"key in the query", url("https://api.example.com/?key=" + provider.Placeholder), "logged"},
		{"key in the host", url("https://" + provider.Placeholder + ".example.com/"), "logged"},
		{"placeholder in the URL", url("https://{env.HOST}/"), "no placeholder"},
		{"user", url("https://me:hunter2@api.example.com/"), "holds a user"},
		{"fragment", url("https://api.example.com/#a"), "fragment"},
		{"http", url("http://api.example.com/"), "write https"},
		{"scheme", url("ftp://api.example.com/"), "want https"},
		{"empty port", url("https://api.example.com:/"), "port"},
		{"port 0", url("https://api.example.com:0/"), "port"},
		{"port too large", url("https://api.example.com:65536/"), "port"},
	} {
		p, err := provider.Compile("acme", c.d)
		if err == nil || p != nil || !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), "acme") {
			t.Errorf("%s: %v, want %q", c.what, err, c.say)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error holds the password", c.what)
		}
	}
	if _, err := provider.Compile("Acme", provider.Definition{}); err == nil {
		t.Error("a name that CheckProvider refuses")
	}
}

// TestPresets compiles all presets: the names are those of the document they
// come from, and each can be verified over https.
func TestPresets(t *testing.T) {
	suffixes := []string{
		"ElevenLabs", "OpenAI", "Anthropic", "Cartesia", "Deepgram", "FishAudio", "Inworld", "ResembleAI", "Groq", "HuggingFace",
	}
	if names := provider.Presets(); len(names) != len(suffixes) || !slices.IsSorted(names) {
		t.Errorf("presets %q", names)
	}
	for _, suffix := range suffixes {
		name := strings.ToLower(suffix)
		d, ok := provider.Preset(name)
		if !ok || d.Header != "X-Provider-Key-"+suffix || d.Verify == nil || !strings.HasPrefix(d.Verify.URL, "https://") || d.Verify.AllowPrivate {
			t.Fatalf("%s: %+v", name, d)
		}
		p, err := provider.Compile(name, d)
		if err != nil {
			t.Fatal(err)
		}
		if got := headers(p); !p.CanVerify() || len(got) != 1 || got[p.Header()] != key {
			t.Errorf("%s injects %q", name, got)
		}
		d.Verify.Headers[0].Value = "changed"
		if again, _ := provider.Preset(name); again.Verify.Headers[0].Value == "changed" {
			t.Errorf("%s: a caller changed the preset", name)
		}
	}
	if _, ok := provider.Preset("acme"); ok {
		t.Error("a preset for acme")
	}
}

func TestDefinitionJSON(t *testing.T) {
	const text = `{"header":"X-K","inject":[{"name":"A","value":"b"}],"verify":{"method":"HEAD","url":"https://x.example/","headers":[{"name":"C","value":"d"}],"allow_private":true}}`
	var d provider.Definition
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(d); err != nil || string(got) != text {
		t.Errorf("%s, %v", got, err)
	}
}

func TestCheckKey(t *testing.T) {
	for _, good := range []string{"a", key, "!\"#~", strings.Repeat("x", access.MaxProviderKey)} {
		if err := provider.CheckKey(good); err != nil {
			t.Errorf("%.20q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", " ", key + " ", " " + key, key + "\n", key + "\r\nX: y", "a\x00b", "a\x7fb", "schlüssel", "\xff",
		strings.Repeat("x", access.MaxProviderKey+1),
	} {
		if err := provider.CheckKey(bad); err == nil {
			t.Errorf("%.20q is taken", bad)
		} else if strings.Contains(err.Error(), key[:4]) {
			t.Errorf("the error holds the key: %v", err)
		}
	}
}

// FuzzCompile: whatever is configured, what is injected is a header that can be
// sent, and holds the key.
func FuzzCompile(f *testing.F) {
	f.Add("X-Key", "Bearer "+provider.Placeholder, "https://api.example.com/")
	f.Add("", provider.Placeholder, "http://127.0.0.1:80")
	f.Add("x", "a{"+provider.Placeholder+"}", "https://[::1%25a]/")
	f.Fuzz(func(t *testing.T, header, value, url string) {
		p, err := provider.Compile("acme", provider.Definition{
			Header: header, Inject: []provider.Header{{Name: "X-Up", Value: value}}, Verify: verify(url),
		})
		if err != nil {
			return
		}
		got := p.Inject()[0].Value(key)
		if strings.Count(got, key) != 1 || strings.ContainsAny(got, "\r\n\x00{}") || strings.ContainsAny(p.Header(), " :\r\n") {
			t.Errorf("%q: %q", p.Header(), got)
		}
		if !strings.HasPrefix(strings.ToLower(url), "https://") {
			t.Errorf("%q is taken", url)
		}
	})
}
