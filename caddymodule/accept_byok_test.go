package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// apiSays has the API name the provider that it used.
func (g *gateway) apiSays(names ...string) {
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header()["X-Usage-Bypassed"] = []string{"api"} // not the API's to say
		if names != nil {
			w.Header()["X-Provider-Used"] = names
		}
		w.Header().Set("X-Cost", "7")
		return false
	})
}

// A44: allowed `X-Provider-Key-ElevenLabs: sk_x`: header passed on to the
// upstream, `X-Usage-Bypassed: true`, no credit taken; `X-Provider-Used` from the
// upstream kept.
func TestA44ProviderKeyOfTheRequest(t *testing.T) {
	g := newTLSGateway(t, byokOptions, byokSite("byok"))
	_, key := g.key("acme", hourly(1000))
	g.apiSays("ElevenLabs")
	g.eachProto(t, func(t *testing.T, c protoClient) {
		n, before := g.counted(), g.used("acme")
		r := c.send(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key, "X-Provider-Key-ElevenLabs: sk_x"))
		r.expect(t, 200).bypass(t, true, "ElevenLabs").coherent(t)
		absent(t, r.Header, "X-Cost")
		g.ended(n + 1)
		if got := g.used("acme") - before; got != 0 {
			t.Errorf("%s credits were taken", got)
		}
		saw := g.upstream.last(t)
		saw.has(t, elevenHeader, "sk_x")
		saw.lacks(t, key)
		r = c.send(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key)).expect(t, 200)
		r.bypass(t, false, "ElevenLabs").coherent(t)
		g.ended(n + 2)
		if got := g.used("acme") - before; got != 7*credits {
			t.Errorf("%s credits were taken of a request without a key", got)
		}
		g.upstream.last(t).lacks(t, "sk_x")
	})
	if log := g.log(); strings.Contains(log, "sk_x") {
		t.Error("the provider key is in the log")
	}
}

// Inject says how the API gets the key; the header it came in goes no further.
func TestProviderKeyIsRewritten(t *testing.T) {
	g := newGateway(t, roomyOptions+`
		provider elevenlabs {
			inject Xi-Api-Key {keytoll.provider_key}
			inject X-Api-Version 2
		}
		provider openai {
			inject Authorization "Bearer {keytoll.provider_key}"
		}
`, byokSite("byok"))
	_, key := g.key("acme", hourly(1000))
	g.do("GET", "/", "Authorization: Bearer "+key, elevenHeader+": "+elevenKey).expect(t, 200).bypass(t, true, "elevenlabs")
	saw := g.upstream.last(t)
	saw.has(t, "Xi-Api-Key", elevenKey)
	saw.has(t, "X-Api-Version", "2")
	saw.has(t, elevenHeader)
	saw.has(t, "Authorization")
	g.do("GET", "/", "Authorization: Bearer "+key, openaiHeader+": "+openaiKey).expect(t, 200).bypass(t, true, "openai")
	saw = g.upstream.last(t)
	saw.has(t, "Authorization", "Bearer "+openaiKey)
	saw.has(t, openaiHeader)
	saw.has(t, "X-Api-Version")
	// Both at once, of which each goes where it belongs.
	g.do("GET", "/", "X-Api-Key: "+key, openaiHeader+": "+openaiKey, elevenHeader+": "+elevenKey).expect(t, 200).bypass(t, true)
	saw = g.upstream.last(t)
	saw.has(t, "Authorization", "Bearer "+openaiKey)
	saw.has(t, "Xi-Api-Key", elevenKey)
	saw.lacks(t, key)
}

// Where two providers have the same header, the one that the request is for is
// the one that gets it.
func TestOneHeaderOfTwoProviders(t *testing.T) {
	const both = "{\n inject Authorization \"Bearer {keytoll.provider_key}\"\n}\n"
	g := newGateway(t, roomyOptions+"provider elevenlabs "+both+"provider openai "+both, byokSite("byok {\n for /el* elevenlabs\n for /oa* openai\n}"))
	_, key := g.key("acme", hourly(1000))
	for range 10 { // the order of headers is by chance
		for path, want := range map[string]string{"/el": elevenKey, "/oa": openaiKey} {
			g.do("GET", path, "X-Api-Key: "+key, openaiHeader+": "+openaiKey, elevenHeader+": "+elevenKey).expect(t, 200)
			g.upstream.last(t).has(t, "Authorization", "Bearer "+want)
		}
	}
}

// smuggledKeys are ways to have the API see a header that only the gate may set.
var smuggledKeys = map[string]string{
	"as it is":              "Xi-Api-Key: evil\n",
	"lower case":            "xi-api-key: evil\n",
	"underscores":           "Xi_Api_Key: evil\n",
	"one underscore":        "xi_api-key: evil\n",
	"twice":                 "Xi-Api-Key: evil\nXI-API-KEY: evil2\n",
	"underscored provider":  "X_Provider_Key_ElevenLabs: evil\n",
	"half underscored":      "X-Provider-Key_ElevenLabs: evil\nx_provider-key-elevenlabs: evil\n",
	"another's underscored": "X_PROVIDER_KEY_OPENAI: evil\n",
	"authorization":         "Authorization: Token evil\n",
	"authorizations":        "Authorization: Token evil\nauthorization: Digest evil\n",
	"connection options":    "Connection: close, Xi-Api-Key, X-Provider-Key-ElevenLabs, Authorization, Xi_Api_Key\nXi-Api-Key: evil\n",
	"trailers": "Trailer: Xi-Api-Key, xi_api_key, X-Provider-Key-ElevenLabs, Authorization\nTransfer-Encoding: chunked\n\n" +
		"3\nabc\n0\nXi-Api-Key: evil\nxi_api_key: evil\nX-Provider-Key-ElevenLabs: evil\nAuthorization: evil\n",
	"trailers not announced": "Transfer-Encoding: chunked\n\n3\nabc\n0\nXi-Api-Key: evil\nX-Provider-Key-ElevenLabs: evil\n",
}

// No copy that a client makes of such a header comes to the API, whether it
// brings a key or not, and none pushes out what the gate sets.
func TestProviderHeadersAreTheGatesAlone(t *testing.T) {
	g := newGateway(t, roomyOptions+`
		provider elevenlabs {
			inject Xi-Api-Key {keytoll.provider_key}
		}
		provider openai {
			inject Authorization "Bearer {keytoll.provider_key}"
		}
`, byokSite("byok"))
	_, key := g.key("acme", hourly(1000))
	for name, lines := range smuggledKeys {
		for _, own := range []string{"", elevenHeader + ": " + elevenKey + "\n", openaiHeader + ": " + openaiKey + "\n"} {
			t.Run(name+" "+own, func(t *testing.T) {
				n := g.upstream.count()
				r, err := g.raw("POST / HTTP/1.1\nHost: " + g.addr + "\nX-Api-Key: " + key + "\n" + own + lines + "\n")
				if err != nil {
					t.Fatal(err)
				}
				r.expect(t, 200)
				if g.upstream.count() != n+1 {
					t.Fatal("the API saw nothing")
				}
				saw := g.upstream.last(t)
				saw.lacks(t, "evil")
				switch own {
				case "":
					saw.has(t, "Xi-Api-Key")
					saw.has(t, "Authorization")
				case openaiHeader + ": " + openaiKey + "\n":
					saw.has(t, "Xi-Api-Key")
					saw.has(t, "Authorization", "Bearer "+openaiKey)
				default:
					saw.has(t, "Xi-Api-Key", elevenKey)
					saw.has(t, "Authorization")
				}
			})
		}
	}
}

// A provider key that is none is refused, not passed over: the caller would be
// charged where he brought a key.
func TestProviderKeysThatAreNone(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok"))
	_, key := g.key("acme", hourly(10_000))
	g.keep("acme", "elevenlabs", elevenKey)
	refused := 0
	for name, lines := range map[string]string{
		"twice":             "X-Provider-Key-ElevenLabs: sk_bad_a\nX-Provider-Key-ElevenLabs: sk_bad_b\n",
		"the same twice":    "X-Provider-Key-ElevenLabs: sk_bad_a\nx-provider-key-elevenlabs: sk_bad_a\n",
		"empty":             "X-Provider-Key-ElevenLabs:\n",
		"blank":             "X-Provider-Key-ElevenLabs:   \n",
		"space":             "X-Provider-Key-ElevenLabs: sk_bad a\n",
		"list":              "X-Provider-Key-ElevenLabs: sk_bad_a, sk_bad_b\n",
		"tab":               "X-Provider-Key-ElevenLabs: sk_bad\ta\n",
		"control":           "X-Provider-Key-ElevenLabs: sk_bad\x01a\n",
		"delete":            "X-Provider-Key-ElevenLabs: sk_bad\x7fa\n",
		"NUL":               "X-Provider-Key-ElevenLabs: sk_bad\x00a\n",
		"bare CR":           "X-Provider-Key-ElevenLabs: sk_bad\ra\n",
		"not ASCII":         "X-Provider-Key-ElevenLabs: sk_badé\n",
		"too long":          "X-Provider-Key-ElevenLabs: sk_bad" + strings.Repeat("a", 4097-6) + "\n",
		"beside a good one": openaiHeader + ": " + openaiKey + "\nX-Provider-Key-ElevenLabs: sk_bad a\n",
	} {
		t.Run(name, func(t *testing.T) {
			n := g.upstream.count()
			r, err := g.raw("GET / HTTP/1.1\nHost: " + g.addr + "\nX-Api-Key: " + key + "\n" + lines + "\n")
			if err != nil {
				t.Fatal(err)
			}
			r.expect(t, 400).bypass(t, false)
			if strings.Contains(r.body, "sk_bad") || strings.Contains(fmt.Sprint(r.Header), "sk_bad") {
				t.Errorf("the answer shows the key: %v %s", r.Header, r.body)
			}
			if r.code() == "invalid_request" { // else HTTP itself does not let it in
				refused++
			}
			if g.upstream.count() != n {
				t.Error("the API saw it")
			}
			// A caller that is not known learns no more than that.
			if r, err := g.raw("GET / HTTP/1.1\nHost: " + g.addr + "\n" + lines + "\n"); err != nil || r.StatusCode != 401 && r.code() != "" {
				t.Errorf("without a key: %v %d %s", err, r.StatusCode, r.body)
			}
		})
	}
	if refused < 8 {
		t.Errorf("the gate refused %d of them", refused)
	}
	if got := g.used("acme"); got != 0 {
		t.Errorf("used %s", got)
	}
	g.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": "+strings.Repeat("k", 4096)).expect(t, 200).bypass(t, true, "elevenlabs")
	g.upstream.last(t).has(t, elevenHeader, strings.Repeat("k", 4096))
	g.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": k").expect(t, 200).bypass(t, true, "elevenlabs")
	if strings.Contains(g.log(), "sk_bad") {
		t.Error("the log has a key that was refused")
	}
}

// Keys of other providers pass or are refused, as configured.
func TestKeysOfOtherProviders(t *testing.T) {
	for _, tt := range []struct {
		option  string
		refuses bool
	}{{"", false}, {"unknown pass", false}, {"unknown refuse", true}} {
		g := newGateway(t, byokOptions, byokSite("byok elevenlabs {\n "+tt.option+"\n}"))
		_, key := g.key("acme", hourly(1000))
		for _, name := range []string{"X-Provider-Key-Azure", "x-provider-key-azure", "X-Provider-Key-OpenAI", "X-Provider-Key-ElevenLabs2"} {
			for _, own := range []string{"", elevenKey} {
				n := g.upstream.count()
				headers := []string{"X-Api-Key: " + key, name + ": sk_other"}
				if own != "" {
					headers = append(headers, elevenHeader+": "+own)
				}
				r := g.do("GET", "/", headers...)
				if tt.refuses {
					if r.expect(t, 400); g.upstream.count() != n || r.code() != "invalid_request" {
						t.Errorf("%s: %s", name, r.body)
					}
					continue
				}
				r.expect(t, 200)
				g.upstream.last(t).has(t, name, "sk_other")
				if own == "" {
					r.bypass(t, false)
				} else {
					r.bypass(t, true, "elevenlabs")
				}
			}
		}
		if tt.refuses {
			// Caddy itself takes some spellings away.
			for _, name := range []string{"X_Provider_Key_Azure", "X-Provider_Key-Azure", "X.Provider.Key.Azure"} {
				if r := g.do("GET", "/", "X-Api-Key: "+key, name+": sk_other"); r.StatusCode != 400 {
					g.upstream.last(t).lacks(t, "sk_other")
				}
			}
		}
		g.do("GET", "/", "X-Api-Key: "+key, "X-Provider-Keys: a", "X-Provider-Key: b").expect(t, 200)
		if strings.Contains(g.log(), "sk_other") {
			t.Error("the log has a key of another provider")
		}
	}
}

// On routes where nobody is known nobody is charged: keys that come go on, and
// stored ones do not.
func TestProviderKeysOfNobody(t *testing.T) {
	for _, option := range []string{"optional", "public /open*"} {
		g := newGateway(t, byokOptions, byokSite("byok elevenlabs\n "+option))
		_, key := g.key("acme", hourly(1000))
		g.keep("acme", "elevenlabs", "sk_stored_0123456789")
		g.do("GET", "/open", elevenHeader+": "+elevenKey).expect(t, 200).bypass(t, false)
		g.upstream.last(t).has(t, elevenHeader, elevenKey)
		g.do("GET", "/open").expect(t, 200).bypass(t, false)
		g.upstream.last(t).has(t, elevenHeader)
		g.do("GET", "/open", elevenHeader+": two words").expect(t, 400)
		bad := g.do("GET", "/open", "X-Api-Key: "+key[:len(key)-1]+"x", elevenHeader+": "+elevenKey)
		r := g.do("GET", "/open", "X-Api-Key: "+key).expect(t, 200)
		saw := g.upstream.last(t)
		if option == "optional" { // it is known who this is
			bad.expect(t, 401)
			r.bypass(t, true, "elevenlabs")
			saw.has(t, elevenHeader, "sk_stored_0123456789")
		} else { // the key is not looked at
			bad.expect(t, 200).bypass(t, false)
			r.bypass(t, false)
			saw.has(t, elevenHeader)
			g.do("GET", "/", elevenHeader+": "+elevenKey).expect(t, 401)
			g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
		}
		if got := g.used("acme"); got != 0 {
			t.Errorf("used %s", got)
		}
	}
}
