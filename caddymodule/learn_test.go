package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// learnFrom reads a block as the global option does, by way of JSON.
func learnFrom(block string) (*Learn, error) {
	d := caddyfile.NewTestDispenser(block)
	d.Next()
	l, err := parseLearn(d)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	l = new(Learn)
	return l, json.Unmarshal(b, l)
}

func learnDigest(s string) (d [32]byte) { copy(d[:], s); return d }

func TestLearn(t *testing.T) {
	t.Setenv("KEYTOLL_LEARN_TOKEN", "internal")
	const key = "sk_live_{env.HOME}_0123" // a client's placeholder stays as it is
	var asked []string
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization")+" "+r.Header.Get("X-Internal"))
		w.Header().Set("X-Org", "acme")
	}))
	defer b.Close()
	l, err := learnFrom(`learn {
		check post ` + b.URL + `/whoami?full=1
		header authorization "Bearer {key}"
		header X-Internal {env.KEYTOLL_LEARN_TOKEN}
		tenant header:X-Org
		until 2999-01-31T00:00:00+01:00
		rate 100/1m burst 5
		negative 10m
		timeout 2s
	}`)
	if err != nil {
		t.Fatal(err)
	}
	var tenants []string
	adopt := func(_ context.Context, tenant string, s token.Secret) (access.KeyID, error) {
		tenants = append(tenants, tenant+" "+s.Reveal())
		return access.KeyID{1}, nil
	}
	if err := l.provision(adopt, learnDigest, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if id, ok, busy := l.learner.Ask(t.Context(), token.Wrap(key)); !ok || busy || id != (access.KeyID{1}) {
		t.Errorf("asked: %v %v %v", id, ok, busy)
	}
	if want := "[POST /whoami?full=1 Bearer " + key + " internal]"; fmt.Sprint(asked) != want {
		t.Errorf("the backend was asked %v, want %s", asked, want)
	}
	if fmt.Sprint(tenants) != "[acme "+key+"]" {
		t.Errorf("adopted for %v", tenants)
	}
}

func TestLearnCaddyfileErrors(t *testing.T) {
	lines := map[string]string{
		"check":  "check GET http://localhost:8080/whoami",
		"header": "header X-Api-Key {key}",
		"tenant": "tenant /org/id",
		"until":  "until 2030-01-31T00:00:00Z",
	}
	block := func(change, to string) string {
		s := "learn {\n"
		for _, word := range []string{"check", "header", "tenant", "until"} {
			if word == change {
				s += to + "\n"
			} else {
				s += lines[word] + "\n"
			}
		}
		if lines[change] == "" {
			s += to + "\n"
		}
		return s + "}"
	}
	if _, err := learnFrom(block("", "")); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ change, to, want string }{
		{"check", "", "learn needs check"},
		{"header", "", "learn needs header"},
		{"tenant", "", "learn needs tenant"},
		{"until", "", "learn needs until"},
		{"check", "check http://localhost", "a method and a URL"},
		{"check", "check DELETE http://localhost", "want GET, HEAD or POST"},
		{"check", "check GET localhost:8080", "http:// or https://"},
		{"check", "check GET http:///x", "and a host"},
		{"check", "check GET http://a:b@localhost", "credentials"},
		{"header", "header X-Api-Key", "a name and a value"},
		{"header", "header X-Api-Key secret", "no header carries the key"},
		{"header", "header Host {key}", "cannot be set"},
		{"header", `header "X Y" {key}`, "not a name"},
		{"header", "header X-A {key}\nheader x-a {key}", "given twice"},
		{"tenant", "tenant org", "JSON pointer"},
		{"until", "until tomorrow", "want a time"},
		{"rate", "rate 0/s", "rate"},
		{"rate", "rate 1/s per 3", "unexpected"},
		{"negative", "negative 2d", "at most 24h"},
		{"timeout", "timeout 6s", "at most 5s"},
		{"timeout", "timeout 0s", "at most 5s"},
		{"again", "tenant /a", "given twice"},
		{"other", "retries 3", "unrecognized"},
	}
	for _, tt := range tests {
		if _, err := learnFrom(block(tt.change, tt.to)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.to, err, tt.want)
		}
	}
}

func TestLearnProvisionErrors(t *testing.T) {
	for want, change := range map[string]func(*Learn){
		"needs a URL":              func(l *Learn) { l.URL = "" },
		"may not be in the URL":    func(l *Learn) { l.URL += "?key={key}" },
		"check URL":                func(l *Learn) { l.URL = "{env.KEYTOLL_NONE}" },
		"header X-B":               func(l *Learn) { l.Headers["X-B"] = "{env.KEYTOLL_NONE}" },
		"a character that no":      func(l *Learn) { l.Headers["X-B"] = "a\nb" },
		"no header carries":        func(l *Learn) { l.Headers = nil },
		"neither a JSON pointer":   func(l *Learn) { l.Tenant = "" },
		"has no body":              func(l *Learn) { l.Method = "HEAD" },
		"until is missing":         func(l *Learn) { l.Until = l.Until.AddDate(-2998, 0, 0) },
		"at least 1 request":       func(l *Learn) { l.Rate = new(Rate) },
		"a timeout is at most":     func(l *Learn) { l.Timeout = 1 << 40 },
		"for less than no time":    func(l *Learn) { l.Negative = -1 },
		"header X-Api-Key is give": func(l *Learn) { l.Headers["x-api-key"] = "{key}" },
	} {
		l, err := learnFrom("learn {\ncheck GET http://localhost:8080/whoami\nheader X-Api-Key {key}\ntenant /org/id\nuntil 2999-01-01T00:00:00Z\n}")
		if err != nil {
			t.Fatal(err)
		}
		change(l)
		adopt := func(context.Context, string, token.Secret) (access.KeyID, error) { return access.KeyID{}, nil }
		if err := l.provision(adopt, learnDigest, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		l.close()
	}
	(*Learn)(nil).close()
}
