package caddymodule

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// options are byokOptions with the shop as the one that keys are put to.
func (s *shop) options() string {
	return strings.Replace(byokOptions, "provider elevenlabs\n",
		"provider elevenlabs {\n verify GET "+s.url+" Xi-Api-Key {keytoll.provider_key}\n allow_private\n}\n", 1)
}

// storedKeys returns the list at the tenant's door.
func (g *gateway) storedKeys(key string) (list []map[string]any) {
	g.t.Helper()
	all, ok := g.api("GET", storedPath, key, "").expect(g.t, 200).object(g.t)["provider_keys"].([]any)
	if !ok {
		g.t.Fatal("no list")
	}
	for _, k := range all {
		list = append(list, k.(map[string]any))
	}
	return list
}

// A45: store, list, verify, use, delete a provider key: list shows provider,
// created_at, last four at most; verify says valid or not; used when the client
// sends none; client's own wins; 404 after delete.
func TestA45StoredProviderKey(t *testing.T) {
	s := newShop(t)
	g := newGateway(t, s.options(), byokSite("byok elevenlabs"))
	_, key := g.key("acme", hourly(1000))
	if list := g.storedKeys(key); len(list) != 0 {
		t.Errorf("at first %v", list)
	}
	start := time.Now().Unix()
	r := g.api("POST", storedPath, key, `{"provider":"elevenlabs","api_key":"`+elevenKey+`"}`).expect(t, 201)
	if at := r.instant(t, "created_at"); at < start || at > time.Now().Unix() {
		t.Errorf("created at %d", at)
	}
	check := func(k map[string]any, used, verified bool, valid any) {
		t.Helper()
		if len(k) != 6 || k["provider"] != "elevenlabs" || k["last_four"] != "cdef" || k["created_at"] == nil ||
			(k["last_used_at"] != nil) != used || (k["last_verified_at"] != nil) != verified || k["valid"] != valid {
			t.Errorf("%v", k)
		}
	}
	check(r.object(t), false, false, nil)
	check(g.storedKeys(key)[0], false, false, nil)

	verify := storedPath + "/elevenlabs/verify"
	v := g.api("POST", verify, key, "").expect(t, 200).object(t)
	if len(v) != 3 || v["provider"] != "elevenlabs" || v["valid"] != true || v["reason"] != nil {
		t.Errorf("%v", v)
	}
	check(g.storedKeys(key)[0], false, true, true)
	s.status.Store(401)
	v = g.api("POST", verify, key, "").expect(t, 200).object(t)
	if len(v) != 3 || v["valid"] != false || v["reason"] != "unauthorized" {
		t.Errorf("%v", v)
	}
	check(g.storedKeys(key)[0], false, true, false)
	if asked := s.asked(); len(asked) != 2 || asked[0] != elevenKey || asked[1] != elevenKey {
		t.Errorf("the provider was asked with %q", asked)
	}

	g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{200, 0}).bypass(t, true, "elevenlabs").coherent(t)
	g.upstream.last(t).has(t, elevenHeader, elevenKey)
	g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key, elevenHeader+": sk_own"), want{200, 0}).bypass(t, true, "elevenlabs")
	g.upstream.last(t).has(t, elevenHeader, "sk_own")
	g.restart() // which stores what was used last
	check(g.storedKeys(key)[0], true, true, false)

	if r := g.api("DELETE", storedPath+"/elevenlabs", key, "").expect(t, 204); r.body != "" {
		t.Errorf("%q", r.body)
	}
	missing := g.api("DELETE", storedPath+"/elevenlabs", key, "").expect(t, 404)
	if other := g.api("DELETE", storedPath+"/azure", key, "").expect(t, 404); other.body != missing.body {
		t.Errorf("a provider that is not there is told apart: %s", other.body)
	}
	g.api("POST", verify, key, "").expect(t, 404)
	if list := g.storedKeys(key); len(list) != 0 {
		t.Errorf("left %v", list)
	}
	g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{200, credits}).bypass(t, false)
	g.upstream.last(t).has(t, elevenHeader)
	if strings.Contains(g.log(), elevenKey) {
		t.Error("the key is in the log")
	}
}

// What may be stored, and what the door says otherwise; the operator has the
// same by its command.
func TestStoringProviderKeys(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok"))
	_, key := g.key("acme", hourly(10_000))
	for body, status := range map[string]int{
		`{"provider":"azure","api_key":"sk_bad_a"}`:                                     400,
		`{"provider":"ElevenLabs","api_key":"sk_bad_a"}`:                                400,
		`{"provider":"elevenlabs","api_key":""}`:                                        400,
		`{"provider":"elevenlabs","api_key":"sk_bad a"}`:                                400,
		`{"provider":"elevenlabs","api_key":"sk_bad\na"}`:                               400,
		`{"provider":"elevenlabs","api_key":"sk_badé"}`:                                 400,
		`{"provider":"elevenlabs","api_key":"sk_bad` + strings.Repeat("a", 4091) + `"}`: 400,
		`{"provider":"elevenlabs"}`:                                                     400,
		`{"api_key":"sk_bad_a"}`:                                                        400,
		`{"provider":"elevenlabs","api_key":5}`:                                         400,
		`{"provider":"elevenlabs","api_key":"sk_bad_a","api_key":"b"}`:                  400,
		`[]`: 400,
		``:   400,
		`{"provider":"openai","api_key":"` + strings.Repeat("k", 4096) + `"}`: 201,
		`{"provider":"elevenlabs","api_key":"short"}`:                         201,
	} {
		r := g.api("POST", storedPath, key, body)
		if r.StatusCode != status || strings.Contains(r.body, "sk_bad") || strings.Contains(r.body, "kkkkk") {
			t.Errorf("%.60s: %d %s", body, r.StatusCode, r.body)
		}
	}
	g.api("POST", storedPath, "", `{"provider":"elevenlabs","api_key":"sk_bad_a"}`).expect(t, 401)
	if list := g.storedKeys(key); len(list) != 2 || list[0]["last_four"] != "" && list[0]["last_four"] != nil {
		t.Errorf("%v", list)
	}
	g.api("POST", storedPath, key, `{"provider":"elevenlabs","api_key":"`+elevenKey+`"}`).expect(t, 200) // in place of the other

	c := g.clerk(t)
	c.secrets = append(c.secrets, elevenKey, openaiKey)
	if _, errs, err := c.try(openaiKey+"\n", "provider-keys", "set", "acme", "openai"); err != nil {
		t.Fatal(err, errs)
	}
	if list := asJSON[mgmt.ProviderKeyList](c, "provider-keys", "list", "acme"); len(list.ProviderKeys) != 2 || list.ProviderKeys[1].LastFour != "cdef" {
		t.Errorf("%+v", list)
	}
	g.apiSays("openai")
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "openai")
	g.upstream.last(t).has(t, "Authorization", "Bearer "+openaiKey)
	c.run("provider-keys", "delete", "acme", "openai")
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, false, "openai")
	g.upstream.last(t).has(t, "Authorization")
}

// Each tenant has its own, and what it does with it touches no other's.
func TestStoredKeysOfTenants(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok elevenlabs"))
	keys := map[string]string{}
	for _, tenant := range []string{"acme", "other", "third"} {
		_, keys[tenant] = g.key(tenant, hourly(1000))
	}
	g.keep("acme", "elevenlabs", "sk_of_acme_0123456789")
	g.keep("other", "elevenlabs", "sk_of_other_0123456789")
	sees := func(tenant string, values ...string) {
		t.Helper()
		r := g.do("GET", "/", "X-Api-Key: "+keys[tenant]).expect(t, 200)
		g.upstream.last(t).has(t, elevenHeader, values...)
		if len(values) == 0 {
			r.bypass(t, false)
		} else {
			r.bypass(t, true, "elevenlabs")
		}
	}
	for range 2 { // sealed, and unsealed
		sees("acme", "sk_of_acme_0123456789")
		sees("other", "sk_of_other_0123456789")
		sees("third")
	}
	g.api("DELETE", storedPath+"/elevenlabs", keys["third"], "").expect(t, 404)
	g.api("DELETE", storedPath+"/elevenlabs", keys["acme"], "").expect(t, 204)
	sees("acme")
	sees("other", "sk_of_other_0123456789")
	if list := g.storedKeys(keys["other"]); len(list) != 1 {
		t.Errorf("%v", list)
	}

	// A tenant that is suspended is refused, whatever it has; its keys stay.
	if _, err := g.registrar().SuspendTenant(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	n := g.upstream.count()
	for _, header := range []string{"X-Other: 1", elevenHeader + ": sk_x"} {
		if r := g.do("GET", "/", "X-Api-Key: "+keys["other"], header); r.StatusCode != 401 && r.StatusCode != 403 {
			t.Errorf("suspended: %d", r.StatusCode)
		}
	}
	if g.upstream.count() != n {
		t.Error("the API saw a suspended tenant")
	}
	if _, err := g.registrar().ResumeTenant(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	sees("other", "sk_of_other_0123456789")
	// A tenant that comes again under a name has nothing of the one before.
	if err := g.registrar().DeleteTenant(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	_, keys["other"] = g.key("other", hourly(1000))
	sees("other")
}

// A reload and a restart keep stored keys at work, also of a provider whose way
// up has changed.
func TestReloadKeepsStoredKeys(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok elevenlabs"))
	_, key := g.key("acme", hourly(1000))
	g.keep("acme", "elevenlabs", elevenKey)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
	g.load(strings.Replace(byokOptions, "provider elevenlabs\n", "provider elevenlabs {\n inject Xi-Api-Key {keytoll.provider_key}\n}\n", 1), byokSite("byok elevenlabs"))
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
	g.upstream.last(t).has(t, "Xi-Api-Key", elevenKey)
	g.restart()
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
	g.upstream.last(t).has(t, "Xi-Api-Key", elevenKey)
	g.load(byokOptions, byokSite("byok openai")) // the gate takes others now
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, false)
	g.load(strings.Replace(byokOptions, "provider elevenlabs\n", "", 1), byokSite("byok openai")) // the provider is gone
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, false)
	if list := g.storedKeys(key); len(list) != 1 {
		t.Errorf("%v", list)
	}
	g.load(byokOptions, byokSite("byok elevenlabs"))
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).bypass(t, true, "elevenlabs")
	g.api("DELETE", storedPath+"/elevenlabs", key, "").expect(t, 204)
}

// A key that was replaced or deleted is not used by any request that comes
// after; while it is replaced no request goes on with the platform's own.
func TestReplacedKeyIsNotUsedAgain(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok elevenlabs"))
	_, key := g.key("acme", hourly(1_000_000_000))
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Saw", r.Header.Get(elevenHeader))
		return true
	})
	const rounds = 40
	const leaving, gone = -1, -2
	var round, sent atomic.Int64 // round: of the key that is stored for sure, or one of these
	stop := make(chan struct{})
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	defer tr.CloseIdleConnections()
	text := func(n int64) string { return fmt.Sprintf("sk_round_%06d_0123456789", n) }
	g.keep("acme", "elevenlabs", text(0))
	var wg sync.WaitGroup
	ask := func() {
		least := round.Load()
		req, _ := http.NewRequest("GET", g.url+"/", nil)
		req.Header.Set("X-Api-Key", key)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		sent.Add(1)
		saw := resp.Header.Get("X-Saw")
		own := resp.Header.Get("X-Usage-Bypassed") == "true"
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(saw, "sk_round_"), "_0123456789"), 10, 64)
		switch {
		case least == gone && (saw != "" || own):
			t.Errorf("after it was deleted: %q", saw)
		case least >= 0 && round.Load() >= 0 && (err != nil || !own || n < least):
			t.Errorf("key %d was stored before: %q %v", least, saw, own)
		}
	}
	for range 64 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ask()
				}
			}
		})
	}
	for n := int64(1); n <= rounds && !t.Failed(); n++ {
		at := sent.Load()
		g.keep("acme", "elevenlabs", text(n))
		round.Store(n)
		eventually(t, "load", func() bool { return t.Failed() || sent.Load() > at+64 })
	}
	round.Store(leaving)
	g.forget("acme", "elevenlabs")
	round.Store(gone)
	at := sent.Load()
	eventually(t, "load", func() bool { return t.Failed() || sent.Load() > at+128 })
	close(stop)
	wg.Wait()
}

// What does not open is no request for the platform's own key: it is refused,
// and costs nothing. A key of the request goes on all the same.
func TestStoredKeyThatDoesNotOpen(t *testing.T) {
	g := newGateway(t, byokOptions, byokSite("byok elevenlabs"))
	_, key := g.key("acme", hourly(1000))
	_, other := g.key("other", hourly(1000))
	g.keep("acme", "elevenlabs", "sk_of_acme_0123456789")
	g.keep("other", "elevenlabs", "sk_of_other_0123456789")
	err := openEngine(t).Store.Update(t.Context(), func(tx store.Tx) error {
		var all []*access.ProviderKey
		if err := tx.ProviderKeys("", func(k *access.ProviderKey) bool { all = append(all, k); return true }); err != nil {
			return err
		}
		all[0].Sealed, all[1].Sealed = all[1].Sealed, all[0].Sealed
		if err := tx.PutProviderKey(all[0]); err != nil {
			return err
		}
		return tx.PutProviderKey(all[1])
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, k := range []string{key, other} {
			r := g.do("GET", "/", "X-Api-Key: "+k).expect(t, 503).bypass(t, false)
			if strings.Contains(r.body, "sk_of") || g.upstream.count() != 0 {
				t.Errorf("%s", r.body)
			}
		}
		g.restart()
	}
	if a, o := g.used("acme"), g.used("other"); a != 0 || o != 0 {
		t.Errorf("used %s and %s", a, o)
	}
	g.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": "+elevenKey).expect(t, 200).bypass(t, true, "elevenlabs")
	says(t, g.log(), "a stored provider key cannot be used")
	g.api("POST", storedPath+"/elevenlabs/verify", key, "").expect(t, 503)
	g.api("DELETE", storedPath+"/elevenlabs", key, "").expect(t, 204)
	g.charged(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key), want{200, credits}).bypass(t, false)
	g.do("GET", "/", "X-Api-Key: "+other).expect(t, 503)
}
