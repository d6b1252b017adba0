package caddymodule

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// end returns the instant of the header Sunset, in unix seconds; 0 if there is
// none.
func (r reply) end(t testing.TB) int64 {
	t.Helper()
	s := r.Header.Get("Sunset")
	if s == "" {
		return 0
	}
	at, err := http.ParseTime(s)
	if err != nil {
		t.Fatal(err)
	}
	return at.Unix()
}

// deprecated returns the instant of the header Deprecation; 0 if there is none.
func (r reply) deprecated(t testing.TB) int64 {
	t.Helper()
	s := r.Header.Get("Deprecation")
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimPrefix(s, "@"), 10, 64)
	if err != nil || s[0] != '@' {
		t.Fatalf("Deprecation %q", s)
	}
	return n
}

// A32: by default the old secret dies at once; all else stays.
func TestA32Rotate(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	old := g.api("POST", keysPath, m, `{"name":"n","rate":{"requests":77,"window":"1m"},"expires_in_days":400,"metadata":{"a":"b"}}`).expect(t, 201)
	path := keysPath + "/" + old.text(t, "id")
	g.api("GET", "/", old.text(t, "key"), "").expect(t, 200)
	for _, body := range []string{"", `{}`, `{"grace_seconds":0}`} {
		r := g.api("POST", path+"/rotate", m, body).expect(t, 200)
		if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Location") != "" || r.text(t, "key") == old.text(t, "key") {
			t.Errorf("%s %v", r.body, r.Header)
		}
		was, is := old.object(t), r.object(t)
		for _, name := range []string{"id", "name", "permissions", "rate", "expires_at", "created_at", "metadata", "tenant"} {
			if fmt.Sprint(was[name]) != fmt.Sprint(is[name]) {
				t.Errorf("%s was %v and is %v", name, was[name], is[name])
			}
		}
		if is["previous_expires_at"] != nil || is["rotated_at"] == nil {
			t.Errorf("%s", r.body)
		}
		refused := g.api("GET", "/", old.text(t, "key"), "").expect(t, 401)
		if refused.deprecated(t) != 0 || refused.end(t) != 0 {
			t.Errorf("%v", refused.Header)
		}
		if got := g.api("GET", "/", r.text(t, "key"), "").expect(t, 200); got.Header.Get("X-RateLimit-Limit") != "77" || got.deprecated(t) != 0 {
			t.Errorf("%v", got.Header)
		}
		if one := g.api("GET", path, m, "").expect(t, 200); strings.Contains(one.body, r.text(t, "key")) {
			t.Error("the new secret is shown again")
		}
		old = r
	}
	for _, body := range []string{`{"grace_seconds":-1}`, `{"grace_seconds":"1h"}`, `{"grace_seconds":1.5}`, `{"grace_seconds":86401}`, `{"grace":60}`, `{"grace_seconds":null}`} {
		if r := g.api("POST", path+"/rotate", m, body).expect(t, 400); !strings.HasPrefix(r.field(), "grace") {
			t.Errorf("%s: %s", body, r.body)
		}
	}
	g.api("GET", "/", old.text(t, "key"), "").expect(t, 200)
}

// A33: with a grace both secrets are good until it ends, and the old one says
// when that is.
func TestA33Grace(t *testing.T) {
	g := newGateway(t, "keys {\n rotate_settle 0s\n}", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	old := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	path := keysPath + "/" + old.text(t, "id")
	start := time.Now().Unix()
	r := g.api("POST", path+"/rotate", m, `{"grace_seconds":2}`).expect(t, 200)
	if got := r.instant(t, "previous_expires_at"); got < start+2 || got > time.Now().Unix()+2 {
		t.Errorf("ends %d, want %d", got, start+2)
	}
	answer := g.api("GET", "/", old.text(t, "key"), "").expect(t, 200)
	if answer.end(t) != r.instant(t, "previous_expires_at") || answer.deprecated(t) != r.instant(t, "rotated_at") {
		t.Errorf("%v, want %s", answer.Header, r.body)
	}
	if me := g.api("GET", "/v1/me", old.text(t, "key"), "").expect(t, 200); me.text(t, "id") != r.text(t, "id") || me.end(t) == 0 {
		t.Errorf("%s %v", me.body, me.Header)
	}
	if answer := g.api("GET", "/", r.text(t, "key"), "").expect(t, 200); answer.deprecated(t) != 0 || answer.end(t) != 0 {
		t.Errorf("the new secret: %v", answer.Header)
	}
	eventually(t, "the end of the grace", func() bool {
		status := g.api("GET", "/", old.text(t, "key"), "").StatusCode
		return status == 401 && time.Now().Unix() >= start+2
	})
	g.api("GET", "/", r.text(t, "key"), "").expect(t, 200)
}

// The grace is the configuration's if the request does not say, and outlives a
// restart.
func TestGraceOfTheConfiguration(t *testing.T) {
	g := newGateway(t, "keys {\n rotate_grace 1h\n}", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	old := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	r := g.api("POST", keysPath+"/"+old.text(t, "id")+"/rotate", m, "").expect(t, 200)
	if got := r.instant(t, "previous_expires_at") - r.instant(t, "rotated_at"); got != 3600 {
		t.Errorf("grace of %d seconds", got)
	}
	g.restart()
	answer := g.api("GET", "/", old.text(t, "key"), "").expect(t, 200)
	if answer.end(t) != r.instant(t, "previous_expires_at") || answer.deprecated(t) != r.instant(t, "rotated_at") {
		t.Errorf("%v, want %s", answer.Header, r.body)
	}
	r = g.api("POST", keysPath+"/"+old.text(t, "id")+"/rotate", m, `{"grace_seconds":0}`).expect(t, 200)
	if r.object(t)["previous_expires_at"] != nil {
		t.Errorf("%s", r.body)
	}
	g.api("GET", "/", old.text(t, "key"), "").expect(t, 401)
}

// The grace ends early, rotate_settle after the first success of the new secret
// and not before.
func TestGraceEndsAfterTheNewSecretIsUsed(t *testing.T) {
	g := newGateway(t, "keys {\n rotate_grace 12h\n rotate_settle 10m\n}", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	old := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	path := keysPath + "/" + old.text(t, "id")
	r := g.api("POST", path+"/rotate", m, "").expect(t, 200)
	for range 3 {
		if answer := g.api("GET", "/", old.text(t, "key"), "").expect(t, 200); answer.end(t) != r.instant(t, "previous_expires_at") {
			t.Errorf("%v", answer.Header)
		}
	}
	first := time.Now().Unix()
	g.api("GET", "/", r.text(t, "key"), "").expect(t, 200)
	until := int64(0)
	eventually(t, "an earlier end", func() bool {
		until = g.api("GET", "/", old.text(t, "key"), "").expect(t, 200).end(t)
		return until != r.instant(t, "previous_expires_at")
	})
	if until < first+600 || until > time.Now().Unix()+600 {
		t.Errorf("ends %d, want %d", until, first+600)
	}
	if one := g.api("GET", path, m, "").expect(t, 200); one.instant(t, "previous_expires_at") != until {
		t.Errorf("%s, want %d", one.body, until)
	}
	g.load("keys {\n rotate_grace 12h\n rotate_settle 1s\n}", apiSite)
	second := g.api("POST", path+"/rotate", m, "").expect(t, 200)
	g.api("GET", "/", r.text(t, "key"), "").expect(t, 200)
	g.api("GET", "/", second.text(t, "key"), "").expect(t, 200)
	eventually(t, "the end of the old secret", func() bool { return g.api("GET", "/", r.text(t, "key"), "").StatusCode == 401 })
	g.api("GET", "/", second.text(t, "key"), "").expect(t, 200)
}

// Of three secrets the first dies when the third comes.
func TestRotateTwice(t *testing.T) {
	g := newGateway(t, "keys {\n rotate_grace 1h\n}", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	a := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	path := keysPath + "/" + a.text(t, "id")
	b := g.api("POST", path+"/rotate", m, "").expect(t, 200)
	c := g.api("POST", path+"/rotate", m, "").expect(t, 200)
	g.api("GET", "/", a.text(t, "key"), "").expect(t, 401)
	if r := g.api("GET", "/", b.text(t, "key"), "").expect(t, 200); r.deprecated(t) == 0 {
		t.Errorf("%v", r.Header)
	}
	g.api("GET", "/", c.text(t, "key"), "").expect(t, 200)
	g.restart()
	g.api("GET", "/", a.text(t, "key"), "").expect(t, 401)
	g.api("GET", "/", b.text(t, "key"), "").expect(t, 200)
	g.api("DELETE", path, m, "").expect(t, 204)
	for _, k := range []reply{a, b, c} {
		g.api("GET", "/", k.text(t, "key"), "").expect(t, 401)
	}
}

// What is not active is not rotated.
func TestRotateWhatIsNotActive(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	soon := time.Now().Add(time.Second).Truncate(time.Second).Add(time.Second)
	expired, _ := g.key("acme", registrar.CreateKeyRequest{Expires: &soon})
	revoked, secret := g.key("acme", registrar.CreateKeyRequest{})
	g.api("DELETE", keysPath+"/"+revoked.String(), m, "").expect(t, 204)
	disabled, paused := g.key("acme", registrar.CreateKeyRequest{})
	g.api("PATCH", keysPath+"/"+disabled.String(), m, `{"disabled":true}`).expect(t, 200)
	eventually(t, "the expiry", func() bool { return time.Now().After(soon) })
	for name, id := range map[string]access.KeyID{"revoked": revoked, "disabled": disabled, "expired": expired} {
		for _, body := range []string{"", `{"grace_seconds":60}`} {
			r := g.api("POST", keysPath+"/"+id.String()+"/rotate", m, body, "Idempotency-Key: "+name+strconv.Itoa(len(body))).expect(t, 409)
			if r.code() != "conflict" || !strings.Contains(r.body, name) || strings.Contains(r.body, `"key":`) {
				t.Errorf("%s: %s", name, r.body)
			}
		}
	}
	g.api("GET", "/", secret, "").expect(t, 401)
	g.api("PATCH", keysPath+"/"+disabled.String(), m, `{"disabled":false}`).expect(t, 200)
	g.api("GET", "/", paused, "").expect(t, 200)
}

// A rotation whose answer was lost is asked for again, by the key itself.
func TestRotationThatWasLost(t *testing.T) {
	g := newGateway(t, "keys {\n rotate_grace 1h\n}", apiSite)
	id, old := g.key("acme", registrar.CreateKeyRequest{})
	path := keysPath + "/" + id.String() + "/rotate"
	first := g.api("POST", path, old, "", "Idempotency-Key: r1").expect(t, 200)
	for range 3 {
		if again := g.api("POST", path, old, "", "Idempotency-Key: r1").expect(t, 200); again.body != first.body {
			t.Errorf("%s, first %s", again.body, first.body)
		}
	}
	g.restart()
	if again := g.api("POST", path, old, "", "Idempotency-Key: r1").expect(t, 200); again.body != first.body {
		t.Errorf("after a restart %s, first %s", again.body, first.body)
	}
	g.api("POST", path, old, `{"grace_seconds":5}`, "Idempotency-Key: r1").expect(t, 422)
	g.api("GET", "/", first.text(t, "key"), "").expect(t, 200)
	if again := g.api("POST", path, first.text(t, "key"), "", "Idempotency-Key: r1").expect(t, 200); again.body != first.body {
		t.Errorf("the new secret is told %s, first %s", again.body, first.body)
	}
	other, _ := g.key("acme", registrar.CreateKeyRequest{})
	if r := g.api("POST", keysPath+"/"+other.String()+"/rotate", first.text(t, "key"), "", "Idempotency-Key: r1").expect(t, 200); r.text(t, "id") != other.String() {
		t.Errorf("another key's rotation: %s", r.body)
	}
}

// A key that ends itself gets the answer: what ends with it is its other
// requests. The answer to a rotation without a grace holds the only secret that
// is good then.
func TestKeyThatEndsItself(t *testing.T) {
	g := newGateway(t, "", apiSite)
	id, key := g.key("acme", registrar.CreateKeyRequest{})
	path := keysPath + "/" + id.String()
	for range 20 {
		key = g.api("POST", path+"/rotate", key, "").expect(t, 200).text(t, "key")
	}
	for range 20 {
		g.api("PATCH", path, key, `{"disabled":true}`).expect(t, 200)
		if _, err := g.registrar().EnableKey(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		g.api("PATCH", path, key, `{"expires_in_days":1}`).expect(t, 200)
		g.api("PATCH", path, key, `{"addresses":["192.0.2.1"]}`).expect(t, 200)
		if _, err := g.registrar().UpdateKey(t.Context(), id, registrar.KeyUpdate{Never: true, Addresses: new([]netip.Prefix)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		id, key := g.key("acme", registrar.CreateKeyRequest{})
		g.api("DELETE", keysPath+"/"+id.String(), key, "").expect(t, 204)
		g.api("GET", "/", key, "").expect(t, 401)
	}
}

// Rotations at once with one idempotency key are one.
func TestRotationsAtOnce(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	id, _ := g.key("acme", registrar.CreateKeyRequest{})
	path := keysPath + "/" + id.String()
	bodies := make([]string, 8)
	each(len(bodies), func(i int) {
		bodies[i] = g.api("POST", path+"/rotate", m, "", "Idempotency-Key: r").expect(t, 200).body
	})
	if len(slices.Compact(bodies)) != 1 {
		t.Errorf("%v", bodies)
	}
	secrets := make([]string, 8)
	each(len(secrets), func(i int) { secrets[i] = g.api("POST", path+"/rotate", m, "").expect(t, 200).text(t, "key") })
	good := 0
	for _, s := range secrets {
		if g.api("GET", "/", s, "").StatusCode == 200 {
			good++
		}
	}
	if good != 1 {
		t.Errorf("%d of 8 secrets are good", good)
	}
}

// Whoever is first, a key that was revoked stays revoked.
func TestRevokeAndRotateAtOnce(t *testing.T) {
	g := newGateway(t, "keys {\n rotate_grace 1h\n}\nthrottle_failures off", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	for range 10 {
		id, old := g.key("acme", registrar.CreateKeyRequest{})
		secrets := make([]string, 6)
		each(len(secrets), func(i int) {
			path := keysPath + "/" + id.String()
			if i == 0 {
				g.api("DELETE", path, m, "").expect(t, 204)
				return
			}
			switch r := g.api("POST", path+"/rotate", m, ""); r.StatusCode {
			case 200:
				secrets[i] = r.text(t, "key")
			case 409:
			default:
				t.Errorf("%d %s", r.StatusCode, r.body)
			}
		})
		secrets[0] = old
		for _, s := range secrets {
			if s != "" {
				g.api("GET", "/", s, "").expect(t, 401)
			}
		}
	}
}

// The bounds of the configuration hold whoever asks, and the default is given
// to who does not.
func TestExpiryOfTheConfiguration(t *testing.T) {
	const day = 24 * 3600
	g := newGateway(t, "keys {\n max_expiry 90d\n default_expiry 30d\n}", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	if r := g.api("GET", "/v1/me", m, "").expect(t, 200); r.instant(t, "expires_at")-r.instant(t, "created_at") != 30*day {
		t.Errorf("%s", r.body)
	}
	far := time.Now().Add(88 * 24 * time.Hour).Truncate(time.Second)
	_, m = g.key("acme", registrar.CreateKeyRequest{Expires: &far})
	created := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	if got := created.instant(t, "expires_at") - created.instant(t, "created_at"); got != 30*day {
		t.Errorf("the default is %d s", got)
	}
	path := keysPath + "/" + created.text(t, "id")
	g.api("POST", keysPath, m, `{"expires_in_days":89}`).expect(t, 403) // after its creator
	g.api("POST", keysPath, m, `{"expires_in_days":87}`).expect(t, 201)
	for body, field := range map[string]string{
		`{"expires_in_days":91}`: "expires_in_days", `{"expires_in_seconds":7776060}`: "expires_in_seconds", `{"expires_at":"2099-01-01T00:00:00Z"}`: "expires_at",
	} {
		for _, how := range [][2]string{{"POST", keysPath}, {"PATCH", path}} {
			if r := g.api(how[0], how[1], m, body); r.StatusCode != 400 || r.field() != field {
				t.Errorf("%s %s: %d %s", how[0], body, r.StatusCode, r.body)
			}
		}
	}
	if r := g.api("PATCH", path, m, `{"expires_at":null}`); r.StatusCode != 400 || r.field() != "expires_at" {
		t.Errorf("never: %d %s", r.StatusCode, r.body)
	}
	if r := g.api("POST", keysPath, m, `{"expires_at":null}`); r.StatusCode == 201 && r.object(t)["expires_at"] == nil {
		t.Errorf("never: %s", r.body)
	}
	g.load("keys {\n max_expiry 90d\n}", apiSite)
	created = g.api("POST", keysPath, m, `{}`).expect(t, 201)
	if created.instant(t, "expires_at") > far.Unix() {
		t.Errorf("%s", created.body)
	}
	g.load("", apiSite)
	if r := g.api("POST", keysPath, m, `{}`).expect(t, 201); r.instant(t, "expires_at") != far.Unix() {
		t.Errorf("without a policy: %s, want the creator's expiry", r.body)
	}
}

// A key ends at its expiry, and says so within the notice before it.
func TestExpiryIsAnnouncedAndKept(t *testing.T) {
	g := newGateway(t, "", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	for days, want := range map[int]bool{29: true, 1: true, 31: false} {
		r := g.api("POST", keysPath, m, fmt.Sprintf(`{"expires_in_days":%d}`, days)).expect(t, 201)
		answer := g.api("GET", "/", r.text(t, "key"), "").expect(t, 200)
		if got := answer.end(t); want && got != r.instant(t, "expires_at") || !want && got != 0 || answer.deprecated(t) != 0 {
			t.Errorf("%d days: %v", days, answer.Header)
		}
		if list := g.api("GET", keysPath, r.text(t, "key"), "").expect(t, 200); want != (list.end(t) != 0) {
			t.Errorf("%d days: the door says %v", days, list.Header)
		}
	}
	short := g.api("POST", keysPath, m, `{"expires_in_seconds":2}`).expect(t, 201)
	eventually(t, "the expiry", func() bool { return g.api("GET", "/", short.text(t, "key"), "").StatusCode == 401 })
	if now := time.Now().Unix(); now < short.instant(t, "expires_at") {
		t.Errorf("refused at %d, before %s", now, short.body)
	}
	r := g.api("GET", keysPath, short.text(t, "key"), "").expect(t, 401)
	if r.code() != "unauthorized" || r.end(t) != 0 {
		t.Errorf("%s %v", r.body, r.Header)
	}
	g.api("PATCH", keysPath+"/"+short.text(t, "id"), m, `{"expires_in_days":5}`).expect(t, 200)
	g.api("GET", "/", short.text(t, "key"), "").expect(t, 200)
}

// A key that nobody uses expires; one that is used does not.
func TestIdleKeysExpire(t *testing.T) {
	g := newGateway(t, "keys {\n idle_expiry 3s\n}", apiSite)
	_, m := g.key("acme", registrar.CreateKeyRequest{})
	idle := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	once := g.api("POST", keysPath, m, `{}`).expect(t, 201)
	g.api("GET", "/", once.text(t, "key"), "").expect(t, 200)
	g.restart() // keys are looked at when Caddy starts, and now and then
	g.api("GET", "/", idle.text(t, "key"), "").expect(t, 200)
	quiet := time.Now().Unix() + 4
	eventually(t, "4 seconds", func() bool { return time.Now().Unix() > quiet })
	_, busy := g.key("acme", registrar.CreateKeyRequest{})
	g.api("GET", "/", busy, "").expect(t, 200)
	g.restart()
	for _, k := range []reply{idle, once} {
		eventually(t, "an idle key is refused", func() bool { return g.api("GET", "/", k.text(t, "key"), "").StatusCode == 401 })
	}
	g.api("GET", "/", busy, "").expect(t, 200)
	if n := strings.Count(g.operator("GET", "/audit?action=key.expired&actor=system", "").expect(t, 200).body, `"seq"`); n < 2 {
		t.Errorf("%d entries of idle keys", n)
	}
}
