package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// own is a header with a key of the caller's that nobody has looked at.
const own = "X-Provider-Key-Elevenlabs: sk_made_up_by_the_caller"

// house makes the API answer that it used its own key for all but what tells.
func house(u *upstream) {
	u.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Provider-Used", "house")
		return false
	})
}

// A caller whose key the API does not use must not go on without credits for
// ever, also where the gate knows the provider beforehand.
func TestBYOKKnownProviderThatWasNotUsedIsNoCredit(t *testing.T) {
	g := newGateway(t, "provider elevenlabs\nplan free {\ncredits 3/month\n}\ndefault_plan free", `
	keytoll {
		charge 2
		byok
	}
	reverse_proxy {upstream}`)
	_, key := g.key("acme", hourly(1000))
	house(g.upstream)
	let := 0
	for n := int64(1); n <= 20; n++ {
		if r := g.do("GET", "/", "X-Api-Key: "+key, own); r.StatusCode == http.StatusOK {
			let++
		} else {
			r.expect(t, http.StatusPaymentRequired)
		}
		g.ended(n)
	}
	if let > 2 {
		t.Errorf("%d of 20 requests at 2 credits each were let in on 3 credits, used %s", let, g.used("acme"))
	}
	// Who has a key that the API does use is not held up by that.
	_, other := g.key("other", hourly(1000))
	g.upstream.respond(nil)
	for range 5 {
		g.do("GET", "/", "X-Api-Key: "+other, own).expect(t, 200)
	}
	if got := g.used("other"); got != 0 {
		t.Errorf("own keys cost %s", got)
	}
}

// The limit of one key holds as that of its tenant does.
func TestBYOKOwnLimitOfAKeyIsNotPassedBy(t *testing.T) {
	g := newGateway(t, "provider elevenlabs\nprovider openai\nplan free {\ncredits 1000/month\n}\ndefault_plan free", `
	keytoll {
		charge 2
		byok
	}
	reverse_proxy {upstream}`)
	id, key := g.key("acme", hourly(1000))
	if _, err := g.registrar().SetKeyOverride(t.Context(), id, &access.Override{Credits: 3 * credits}); err != nil {
		t.Fatal(err)
	}
	house(g.upstream)
	let := 0
	for n := int64(1); n <= 20; n++ {
		if g.do("GET", "/", "X-Api-Key: "+key, own).StatusCode == http.StatusOK {
			let++
		}
		g.ended(n)
	}
	if let > 2 {
		t.Errorf("%d of 20 requests at 2 credits each were let in on the key's 3 credits", let)
	}
}

// A request that ends in an error of Caddy's own is not charged either if the
// caller's key was to be used.
func TestBYOKErrorOfTheServerIsNotCharged(t *testing.T) {
	g := newGateway(t, "provider elevenlabs\n"+roomyOptions, `
	keytoll {
		charge 2
		byok
	}
	error /denied 403
	reverse_proxy {upstream}`)
	_, key := g.key("acme", hourly(1000))
	g.charged(t, g.request(t, "GET", "/denied", nil, "X-Api-Key: "+key, own), want{403, 0})
	g.charged(t, g.request(t, "GET", "/denied", nil, "X-Api-Key: "+key), want{403, 2 * credits})
}

// Another spelling of a path must not name another provider.
func TestBYOKNameInAPathIsOfItsNormalForm(t *testing.T) {
	g := newGateway(t, "provider elevenlabs\nprovider openai\n"+roomyOptions, `
	keytoll {
		charge 2
		byok {
			from {http.request.uri.path.0}
		}
	}
	reverse_proxy {upstream}`)
	_, key := g.key("acme", hourly(1000))
	for _, path := range []string{"/elevenlabs/../house/x", "/elevenlabs/%2e%2e/house/x", "/elevenlabs%2f..%2fhouse"} {
		r, err := g.raw("GET " + path + " HTTP/1.1\nHost: " + g.addr + "\nX-Api-Key: " + key + "\n" + own + "\nConnection: close\n\n")
		if err != nil || r.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %v, %v", path, r.Response, err)
		}
	}
	g.do("GET", "/elevenlabs/x", "X-Api-Key: "+key, own).expect(t, 200)
}

// A header in which callers' keys of ours stand cannot be a provider's too:
// each caller would bring his own key as one.
func TestBYOKHeaderOfTheGateIsNoProviders(t *testing.T) {
	g := newGateway(t, "", "respond 204")
	err := g.tryLoad(g.text("provider acme {\nheader X-API-Key\n}", "keytoll {\nbyok\n}\nreverse_proxy {upstream}"))
	if err == nil || !strings.Contains(err.Error(), "X-Api-Key") {
		t.Errorf("%v", err)
	}
}
