package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// whose is one way to find out whose key was used. The price is 1.
type whose struct {
	name    string
	path    string   // default: /
	headers string   // names of what the request carries, besides its key
	stored  string   // providers of which a key is stored
	api     []string // what it says in X-Provider-Used
	used    []string // what the client reads there
	bypass  bool
}

var (
	eleven = []string{"elevenlabs"}
	openai = []string{"openai"}
)

// whoseCases are by what the gate says of provider keys.
var whoseCases = map[string][]whose{
	"byok elevenlabs": {
		{name: "no key"},
		{name: "a key", headers: "eleven", used: eleven, bypass: true},
		{name: "stored", stored: "elevenlabs", used: eleven, bypass: true},
		{name: "the API agrees", headers: "eleven", api: eleven, used: eleven, bypass: true},
		{name: "the API agrees, in another case", headers: "eleven", api: []string{"ElevenLabs"}, used: []string{"ElevenLabs"}, bypass: true},
		{name: "the API agrees, of a stored one", stored: "elevenlabs", api: []string{"ELEVENLABS"}, used: []string{"ELEVENLABS"}, bypass: true},
		{name: "the API says nothing", headers: "eleven", api: []string{""}, used: eleven, bypass: true},
		{name: "the API says another", headers: "eleven", api: openai, used: openai},
		{name: "the API says another, of a stored one", stored: "elevenlabs", api: openai, used: openai},
		{name: "the API says an unknown one", headers: "eleven", api: []string{"azure"}, used: []string{"azure"}},
		{name: "the API says a part of it", headers: "eleven", api: []string{"eleven"}, used: []string{"eleven"}},
		{name: "the API says two", headers: "eleven", api: []string{"elevenlabs", "elevenlabs"}, used: []string{"elevenlabs", "elevenlabs"}},
		{name: "the API says a list", headers: "eleven", api: []string{"elevenlabs, openai"}, used: []string{"elevenlabs, openai"}},
		{name: "the API says it, no key", api: eleven, used: eleven},
		{name: "a key for another", headers: "openai"},
		{name: "stored for another", stored: "openai"},
	},
	"byok": {
		{name: "no key"},
		{name: "a key", headers: "eleven", used: eleven, bypass: true},
		{name: "two keys", headers: "eleven openai", bypass: true},
		{name: "stored ones do not count", stored: "elevenlabs openai"},
		{name: "the API says", headers: "eleven openai", api: openai, used: openai, bypass: true},
		{name: "the API says, of a stored one", stored: "elevenlabs openai", api: openai, used: openai, bypass: true},
		{name: "the API says the one that is stored", headers: "eleven", stored: "openai", api: openai, used: openai, bypass: true},
		{name: "the API says another", headers: "eleven", api: openai, used: openai},
		{name: "the API says another than is stored", stored: "elevenlabs", api: openai, used: openai},
		{name: "the API says nothing of a stored one", stored: "elevenlabs", api: []string{" "}, used: []string{""}},
	},
	"byok {\n for /el* elevenlabs\n for /oa* openai\n}": {
		{name: "for it", path: "/el", headers: "eleven", used: eleven, bypass: true},
		{name: "for it, stored", path: "/el", stored: "elevenlabs", used: eleven, bypass: true},
		{name: "for another", path: "/oa", headers: "eleven", used: openai},
		{name: "for another, stored", path: "/oa", stored: "elevenlabs", used: openai},
		{name: "for it, of two", path: "/oa", headers: "eleven openai", used: openai, bypass: true},
		{name: "for it, stored, beside another", path: "/oa", headers: "eleven", stored: "openai", used: openai, bypass: true},
		{name: "for none, a key", path: "/x", headers: "eleven", used: eleven, bypass: true},
		{name: "for none, stored", path: "/x", stored: "elevenlabs"},
		{name: "the API knows better", path: "/el", headers: "eleven", api: openai, used: openai},
		{name: "the API knows better, to the good", path: "/el", headers: "openai", api: openai, used: openai, bypass: true},
	},
	"byok {\n from {http.request.header.X-Provider}\n}": {
		{name: "named", headers: "eleven named:elevenlabs", used: eleven, bypass: true},
		{name: "named, in another case", headers: "eleven named:ELEVENLabs", used: eleven, bypass: true},
		{name: "named, stored", headers: "named:elevenlabs", stored: "elevenlabs openai", used: eleven, bypass: true},
		{name: "not named", headers: "eleven", used: eleven, bypass: true},
		{name: "not named, stored", stored: "elevenlabs"},
		{name: "another is named", headers: "eleven named:openai", used: openai},
		{name: "another is named, stored", headers: "named:openai", stored: "elevenlabs", used: openai},
		{name: "an unknown one is named", headers: "eleven named:azure"},
		{name: "an unknown one is named, stored", headers: "named:azure", stored: "elevenlabs"},
		{name: "an unknown one is named, the API knows better", headers: "eleven named:azure", api: eleven, used: eleven, bypass: true},
		{name: "a placeholder is named", headers: "eleven named:{http.request.header.X-Other}"},
	},
	"byok {\n from {http.request.uri.path.0}\n}": {
		{name: "named", path: "/elevenlabs/x", headers: "eleven", used: eleven, bypass: true},
		{name: "another is named", path: "/openai/x", headers: "eleven", used: openai},
		{name: "none is named", path: "/", stored: "elevenlabs"},
	},
}

// Whose credits: the key of the provider that handled the request decides, and
// the ledger, the headers and usage agree.
func TestWhoseCredits(t *testing.T) {
	sent := map[string]string{"eleven": elevenHeader + ": " + elevenKey, "openai": openaiHeader + ": " + openaiKey}
	for byok, cases := range whoseCases {
		g := newGateway(t, byokOptions, byokSite(byok))
		_, key := g.key("acme", hourly(1_000_000))
		for _, c := range cases {
			t.Run(byok+" "+c.name, func(t *testing.T) {
				for _, provider := range strings.Fields(c.stored) {
					g.keep("acme", provider, "sk_stored_"+provider)
					defer g.forget("acme", provider)
				}
				g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
					if w.Header()["X-Usage-Bypassed"] = []string{"api"}; c.api != nil {
						w.Header()["X-Provider-Used"] = c.api
					}
					return false
				})
				headers := []string{"X-Api-Key: " + key, "X-Other: elevenlabs"}
				for _, name := range strings.Fields(c.headers) {
					if named, ok := strings.CutPrefix(name, "named:"); ok {
						headers = append(headers, "X-Provider: "+named)
					} else {
						headers = append(headers, sent[name])
					}
				}
				price, yes, no := credits, int64(0), int64(1)
				if c.bypass {
					price, yes, no = 0, 1, 0
				}
				path := "/"
				if c.path != "" {
					path = c.path
				}
				before := g.used("acme")
				by, not := g.bypassed()
				r := g.charged(t, g.request(t, "GET", path, nil, headers...), want{200, price}).bypass(t, c.bypass, c.used...)
				if got := r.coherent(t); got != int64((before+price)/credits) {
					t.Errorf("X-Usage-Current %d, the ledger has %s", got, before+price)
				}
				if b, n := g.bypassed(); b-by != yes || n-not != no {
					t.Errorf("usage counts %d as bypassed and %d not", b-by, n-not)
				}
			})
		}
	}
}

// Who has no credits left may go on with keys of his own.
func TestNoCreditsButOwnKey(t *testing.T) {
	for _, strict := range []string{"", " strict"} {
		g := newGateway(t, strings.Replace(byokOptions, "1000000/month", "2/month"+strict, 1), byokSite("byok {\n for /el* elevenlabs\n}"))
		_, key := g.key("acme", hourly(1000))
		header := elevenHeader + ": " + elevenKey
		for range 2 {
			g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, false)
		}
		for range 3 {
			g.do("GET", "/el", "X-Api-Key: "+key).expect(t, 402).bypass(t, false)
			if r := g.do("GET", "/el", "X-Api-Key: "+key, header).expect(t, 200).bypass(t, true, "elevenlabs"); r.coherent(t) != 2 {
				t.Errorf("%v", r.Header)
			}
			g.do("GET", "/x", "X-Api-Key: "+key, header).expect(t, 200).bypass(t, true, "elevenlabs")
		}
		g.keep("acme", "elevenlabs", "sk_stored_0123456789")
		g.do("GET", "/el", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
		g.do("GET", "/el", "X-Api-Key: "+key, openaiHeader+": "+openaiKey).expect(t, 200).bypass(t, true, "elevenlabs")
		g.forget("acme", "elevenlabs")
		g.do("GET", "/el", "X-Api-Key: "+key).expect(t, 402)
		g.do("GET", "/el", "X-Api-Key: "+key, openaiHeader+": "+openaiKey).expect(t, 402)
		if got := g.used("acme"); got != 2*credits {
			t.Errorf("used %s", got)
		}
	}
}

// A guess that proves wrong is charged in full, and who overdrew his credits so
// is trusted no longer, until he has credits again.
func TestWrongGuessIsCharged(t *testing.T) {
	for name, byok := range map[string]string{
		"nothing names the provider": "byok",
		"one provider alone":         "byok elevenlabs",
		"a matcher names it":         "byok {\n for /* elevenlabs\n}",
		"the client names it":        "byok {\n from {http.request.header.X-Provider}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, strings.Replace(byokOptions, "1000000/month", "2/month", 1), byokSite(byok))
			_, key := g.key("acme", hourly(1000))
			_, other := g.key("other", hourly(1000))
			answer := "openai"
			g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("X-Provider-Used", answer)
				if r.URL.Path == "/dear" {
					w.Header().Set("X-Cost", "50")
				}
				return false
			})
			try := func(key string, status int) reply {
				t.Helper()
				n := g.counted()
				r := g.do("GET", "/", "X-Api-Key: "+key, "X-Provider: elevenlabs", elevenHeader+": "+elevenKey).expect(t, status)
				g.ended(n + 1)
				return r
			}
			for range 2 {
				if r := try(key, 200).bypass(t, false, "openai"); r.Header.Get("X-Usage-Limit") != "2" {
					t.Errorf("%v", r.Header)
				}
			}
			answer = "elevenlabs"
			try(key, 200).bypass(t, true, "elevenlabs") // nothing left, nothing owed
			answer = "openai"
			if r := try(key, 200).bypass(t, false, "openai"); r.coherent(t) != 2 {
				t.Errorf("%v", r.Header)
			}
			if got := g.used("acme"); got != 3*credits {
				t.Errorf("used %s", got)
			}
			count := g.upstream.count()
			for _, answer = range []string{"openai", "elevenlabs"} {
				try(key, 402).bypass(t, false).coherent(t)
			}
			if got := g.used("acme"); got != 3*credits || g.upstream.count() != count {
				t.Errorf("used %s, or the API saw what was refused", got)
			}
			answer = "elevenlabs"
			if byok != "byok" { // who overdrew otherwise, and never claimed what is not so, goes on
				g.do("GET", "/dear", "X-Api-Key: "+other).expect(t, 200)
				g.do("GET", "/", "X-Api-Key: "+other).expect(t, 402)
				try(other, 200).bypass(t, true, "elevenlabs")
			}
			g.override("acme", &access.Override{Credits: 10 * credits})
			eventually(t, "he is trusted again", func() bool {
				return g.do("GET", "/", "X-Api-Key: "+key, "X-Provider: elevenlabs", elevenHeader+": "+elevenKey).StatusCode == 200
			})
		})
	}
}

// A key with credits of its own cannot go beyond them by wrong guesses either.
func TestWrongGuessOfAKeyWithCredits(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok"))
	id, key := g.key("acme", hourly(1000))
	if _, err := g.registrar().SetKeyOverride(t.Context(), id, &access.Override{Credits: 2 * credits}); err != nil {
		t.Fatal(err)
	}
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Provider-Used", "openai")
		return false
	})
	for i, status := range []int{200, 200, 200, 402, 402} {
		g.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": "+elevenKey).expect(t, status)
		g.ended(int64(i + 1))
	}
	if got := g.used("acme"); got != 3*credits {
		t.Errorf("used %s", got)
	}
}

// Another spelling of a path does not name another provider.
func TestProviderNamedByASpellingOfAPath(t *testing.T) {
	for _, byok := range []string{"byok {\n from {http.request.uri.path.0}\n}", "byok {\n for /elevenlabs/* elevenlabs\n}"} {
		g := newGateway(t, byokOptions, byokSite(byok))
		_, key := g.key("acme", hourly(1000))
		for _, path := range []string{"/elevenlabs/../openai/x", "/elevenlabs/%2e%2e/openai/x", "/elevenlabs//../../openai", "/elevenlabs%2f..%2fopenai/x", "//elevenlabs/../openai"} {
			r, err := g.raw("GET " + path + " HTTP/1.1\nHost: " + g.addr + "\nX-Api-Key: " + key + "\n" + elevenHeader + ": " + elevenKey + "\n\n")
			if err != nil {
				t.Fatal(err)
			}
			r.expect(t, 400)
		}
		g.do("GET", "/elevenlabs/x", "X-Api-Key: "+key, elevenHeader+": "+elevenKey).expect(t, 200).bypass(t, true, "elevenlabs")
	}
}
