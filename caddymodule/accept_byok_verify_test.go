package caddymodule

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

// verdict asks at the tenant's door whether the stored key is good.
func (g *gateway) verdict(key, provider string) reply {
	g.t.Helper()
	return g.api("POST", storedPath+"/"+provider+"/verify", key, "")
}

// What the provider answers decides; where nothing can be concluded nothing is
// changed, and a redirect is not followed.
func TestVerifyingProviderKeys(t *testing.T) {
	s := newShop(t)
	g := newGateway(t, s.options(), byokSite("byok elevenlabs"))
	shown := func(key string) string {
		t.Helper()
		k := g.storedKeys(key)[0]
		return fmt.Sprint(k["valid"], k["last_verified_at"])
	}
	for i, tt := range []struct {
		answer, status int
		valid          bool
		reason         any
	}{
		{200, 200, true, nil}, {204, 200, true, nil}, {401, 200, false, "unauthorized"}, {403, 200, false, "forbidden"},
		{400, 200, false, "rejected"}, {404, 200, false, "rejected"},
		{301, 502, false, nil}, {302, 502, false, nil}, {307, 502, false, nil}, {308, 502, false, nil},
		{429, 502, false, nil}, {500, 502, false, nil}, {503, 502, false, nil},
	} {
		tenant := "tenant-" + strconv.Itoa(i) // of which each may ask so often
		_, key := g.key(tenant, hourly(1000))
		g.keep(tenant, "elevenlabs", elevenKey)
		for _, before := range []int{0, 200, 401} {
			if before != 0 {
				s.status.Store(int32(before))
				g.verdict(key, "elevenlabs").expect(t, 200)
			}
			was, asked := shown(key), len(s.asked())
			s.status.Store(int32(tt.answer))
			r := g.verdict(key, "elevenlabs").expect(t, tt.status)
			if n := len(s.asked()) - asked; n != 1 {
				t.Errorf("%d: the provider was asked %d times", tt.answer, n)
			}
			if strings.Contains(r.body, elevenKey) || strings.Contains(r.body, "127.0.0.1") || strings.Contains(r.body, "/v1/user") {
				t.Errorf("%d: %s", tt.answer, r.body)
			}
			if tt.status == 502 {
				if r.code() == "" || shown(key) != was {
					t.Errorf("%d: %s; %s, before %s", tt.answer, r.body, shown(key), was)
				}
				continue
			}
			if v := r.object(t); len(v) != 3 || v["provider"] != "elevenlabs" || v["valid"] != tt.valid || v["reason"] != tt.reason {
				t.Errorf("%d: %s", tt.answer, r.body)
			}
			if !strings.HasPrefix(shown(key), fmt.Sprint(tt.valid)) {
				t.Errorf("%d: %s", tt.answer, shown(key))
			}
		}
	}
	if strings.Contains(g.log(), elevenKey) {
		t.Error("the key is in the log")
	}
	// Nobody is asked for what is not stored, and not for others.
	_, key := g.key("acme", hourly(1000))
	asked := len(s.asked())
	for _, provider := range []string{"elevenlabs", "openai", "azure", "%2e%2e", "ElevenLabs"} {
		g.verdict(key, provider).expect(t, 404)
	}
	if len(s.asked()) != asked {
		t.Error("the provider was asked")
	}
}

// A provider that is not there, and a provider of which it is not said how.
func TestVerifyingWhereNobodyAnswers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + ln.Addr().String() + "/"
	ln.Close()
	g := newGateway(t, roomyOptions+`
		provider elevenlabs {
			verify GET `+dead+` Xi-Api-Key {keytoll.provider_key}
			allow_private
		}
		provider mine {
			header X-Provider-Key-Mine
		}
`, byokSite("byok"))
	_, key := g.key("acme", hourly(1000))
	g.keep("acme", "elevenlabs", elevenKey)
	g.keep("acme", "mine", openaiKey)
	r := g.verdict(key, "elevenlabs").expect(t, 502)
	if strings.Contains(r.body, elevenKey) || strings.Contains(r.body, "127.0.0.1") {
		t.Errorf("%s", r.body)
	}
	g.verdict(key, "mine").expect(t, 400)
	for _, k := range g.storedKeys(key) {
		if k["valid"] != nil || k["last_verified_at"] != nil {
			t.Errorf("%v", k)
		}
	}
	g.do("GET", "/", "X-Api-Key: "+key, "X-Provider-Key-Mine: a").expect(t, 200) // it is used all the same
	if _, errs, err := g.clerk(t).try("", "provider-keys", "verify", "acme", "elevenlabs"); err == nil || strings.Contains(errs, elevenKey) {
		t.Errorf("the command: %v %s", err, errs)
	}
}

// Private addresses are not connected to unless that is allowed.
func TestVerifyingGoesToNoPrivateAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var came atomic.Int32
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close() })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	verify := func(url string) string {
		return strings.Replace(byokOptions, "provider elevenlabs\n", "provider elevenlabs {\n verify GET "+url+" Xi-Api-Key {keytoll.provider_key}\n}\n", 1)
	}
	asked := 0
	for _, host := range []string{"localhost", "localhost.", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0", "169.254.169.254"} {
		g := newGateway(t, "", plainGate)
		if err := g.tryLoad(g.text(verify("https://"+host+":"+port+"/v1/user"), byokSite("byok"))); err != nil {
			if !strings.Contains(err.Error(), "verify") { // an address is found out as it is read
				t.Errorf("%s: %v", host, err)
			}
			continue
		}
		asked++
		_, key := g.key("acme", hourly(1000))
		g.keep("acme", "elevenlabs", elevenKey)
		g.verdict(key, "elevenlabs").expect(t, 502)
		if n := came.Load(); n != 0 {
			t.Errorf("%s: connected to %d times", host, n)
		}
	}
	if asked == 0 {
		t.Error("no name was asked for")
	}
	g := newGateway(t, "", plainGate)
	err = g.tryLoad(g.text(verify("http://provider.example/"), byokSite("byok")))
	if err == nil || !strings.Contains(err.Error(), "in the clear") {
		t.Errorf("http without allow_private: %v", err)
	}
}

// Ten in a minute for a tenant, at both doors together, and for all its keys
// and providers.
func TestVerifyingIsLimited(t *testing.T) {
	s := newShop(t)
	g := newGateway(t, s.options(), byokSite("byok"))
	_, one := g.key("acme", hourly(1000))
	_, two := g.key("acme", hourly(1000))
	_, other := g.key("other", hourly(1000))
	g.keep("acme", "elevenlabs", elevenKey)
	g.keep("other", "elevenlabs", elevenKey)
	let := 0
	for i := range 20 {
		var r reply
		switch i % 3 {
		case 0:
			r = g.verdict(one, "elevenlabs")
		case 1:
			r = g.verdict(two, "elevenlabs")
		case 2:
			r = g.operator("POST", "/tenants/acme/provider-keys/elevenlabs/verify", "")
		}
		if r.StatusCode == http.StatusOK {
			let++
			continue
		}
		retry, err := strconv.Atoi(r.expect(t, 429).Header.Get("Retry-After"))
		if err != nil || retry < 1 || retry > 6 {
			t.Errorf("Retry-After %q", r.Header.Get("Retry-After"))
		}
	}
	if asked := len(s.asked()); let < 10 || let > 12 || asked != let { // one comes back every 6 seconds
		t.Errorf("%d of 20 were let in, the provider was asked %d times", let, asked)
	}
	g.verdict(other, "elevenlabs").expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+one).expect(t, 200) // requests have nothing to do with it
	g.load(s.options(), byokSite("byok"))
	if r := g.verdict(one, "elevenlabs"); r.StatusCode == 200 && let > 11 {
		t.Error("a reload fills the bucket")
	}
	s.status.Store(401)
	v := asJSON[mgmt.ProviderKeyList](g.clerk(t), "provider-keys", "list", "other")
	if len(v.ProviderKeys) != 1 || v.ProviderKeys[0].Valid == nil || !*v.ProviderKeys[0].Valid {
		t.Errorf("%+v", v)
	}
}
