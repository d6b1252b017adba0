package gate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

const testNow = 1_800_000_000

// bench is a gate and its state, with tenant acme.
type bench struct {
	Gate
	State
	tenant access.Tenant
	addr   netip.Addr
	serial int
}

func newBench(t testing.TB) *bench {
	t.Helper()
	master, err := token.ParseMaster("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{tenant: access.Tenant{ID: "acme", Status: access.StatusActive}, addr: netip.MustParseAddr("192.0.2.1")}
	b.Index, b.Limiter, b.Digester = index.New(), limit.New(limit.Options{}), token.NewDigester(master)
	b.Sources = []Source{{Kind: Bearer}}
	b.AllowHTTP = true
	b.Now = func() time.Time { return time.Unix(testNow, 0) }
	b.Client = func(*http.Request) netip.Addr { return b.addr }
	b.Permissions, err = access.NewPermissions([]access.Permission{
		{Name: "admin", Implies: []string{"write"}}, {Name: "write", Implies: []string{"read"}}, {Name: "read"},
		{Name: "rules:list"}, {Name: "rules:edit", Implies: []string{"read"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.putTenant()
	return b
}

func (b *bench) putTenant() { b.Index.Apply(store.Change{Tenant: &b.tenant}) }

func (b *bench) key(text string) *access.KeyHead {
	b.serial++
	id := access.KeyID([]byte(fmt.Sprintf("%016d", b.serial)))
	return &access.KeyHead{ID: id, Digest: b.Digester.Sum(text), Alg: 1, Status: access.StatusActive, Tenant: "acme"}
}

func (b *bench) put(k *access.KeyHead) { b.Index.Apply(store.Change{Key: k}) }

// with puts a key with permissions and returns its text.
func (b *bench) with(permissions ...string) string {
	text := fmt.Sprintf("secret-%d", b.serial)
	k := b.key(text)
	k.Rights = access.NewRights(permissions, nil)
	b.put(k)
	return text
}

func request(path, key string) *http.Request {
	r := httptest.NewRequest("GET", path, nil)
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	return r
}

func (b *bench) decide(r *http.Request) *Call {
	c := &Call{Started: b.Limiter.Now()}
	b.Decide(&b.State, r, c, new(Asks))
	return c
}

func (b *bench) expect(t *testing.T, what, path, key string, want access.Reason) *Call {
	t.Helper()
	c := b.decide(request(path, key))
	if c.Reason != want {
		t.Errorf("%s: %s, want %s", what, c.Reason, want)
	}
	return c
}

func onPath(prefix string) Match {
	return func(r *http.Request) (bool, error) { return strings.HasPrefix(r.URL.Path, prefix), nil }
}

func TestPermits(t *testing.T) {
	b := newBench(t)
	b.Permits = []Permit{
		{Match: onPath("/read"), Needs: []string{"read"}},
		{Match: onPath("/either"), Needs: []string{"rules:list", "admin"}},
		{Match: onPath("/any")},
		{Match: onPath("/lookup"), Lookup: func(r *http.Request) ([]string, bool) {
			return []string{r.URL.Query().Get("op")}, r.URL.Query().Has("op")
		}},
		{Match: onPath("/broken"), Needs: []string{"read"}},
		{Match: onPath("/read"), Needs: []string{"nobody"}}, // the first rule decides
		{Match: func(r *http.Request) (bool, error) { return false, errors.New("no") }},
	}
	none, read, write, rules, all := b.with(), b.with("read"), b.with("write"), b.with("rules:*"), b.with("*")
	for _, tt := range []struct {
		path, key string
		want      access.Reason
	}{
		{"/read", none, access.Forbidden}, {"/read", read, access.Allowed}, {"/read", write, access.Allowed},
		{"/read", rules, access.Allowed}, {"/read", all, access.Allowed}, {"/read", "", access.Missing},
		{"/either", read, access.Forbidden}, {"/either", rules, access.Allowed}, {"/either", write, access.Forbidden}, {"/either", all, access.Allowed},
		{"/any", none, access.Allowed}, {"/any", "", access.Missing},
		{"/lookup?op=read", write, access.Allowed}, {"/lookup?op=never-named", write, access.Forbidden},
		{"/lookup?op=never-named", all, access.Allowed}, {"/lookup", all, access.Forbidden},
		{"/other", all, access.Unavailable}, // its matcher fails
	} {
		b.expect(t, tt.path+" "+tt.key, tt.path, tt.key, tt.want)
	}
	b.Permits = b.Permits[:4]
	b.expect(t, "no rule", "/other", all, access.Forbidden)
	if c := b.expect(t, "scope", "/either", read, access.Forbidden); fmt.Sprint(c.Needed) != "[rules:list admin]" {
		t.Errorf("needed %v", c.Needed)
	}
}

// What the plan or the tenant lost, its keys lost, and each of the three must
// hold the same one of the needs.
func TestPlanAndTenantBoundPermissions(t *testing.T) {
	b := newBench(t)
	b.Permits = []Permit{{Needs: []string{"read", "rules:list"}}}
	b.Plans = map[string]*access.Plan{"small": {Name: "small", Permissions: []string{"rules:*"}}, "none": {Name: "none", Permissions: []string{}}}
	write, rules := b.with("write"), b.with("rules:list")
	b.expect(t, "no plan", "/", write, access.Allowed)
	for _, tt := range []struct {
		plan        string
		permissions []string
		write, list access.Reason
	}{
		{"small", nil, access.Allowed, access.Allowed}, // rules:edit implies read
		{"none", nil, access.PlanRestricted, access.PlanRestricted},
		{"", []string{"read"}, access.Allowed, access.PlanRestricted},
		{"", []string{"rules:list"}, access.PlanRestricted, access.Allowed},
		{"", []string{}, access.PlanRestricted, access.PlanRestricted},
		{"small", []string{"rules:list"}, access.PlanRestricted, access.Allowed},
	} {
		b.tenant.Plan, b.tenant.Permissions = tt.plan, tt.permissions
		b.putTenant()
		b.expect(t, fmt.Sprint("write", tt), "/", write, tt.write)
		b.expect(t, fmt.Sprint("list", tt), "/", rules, tt.list)
		b.expect(t, "a key without", "/", b.with("other"), access.Forbidden)
	}
}

// Requests without a key: public ones and preflights meet no rule, others are
// let in by a rule that needs nothing alone.
func TestPermitsWithoutAKey(t *testing.T) {
	b := newBench(t)
	b.Optional = true
	b.Public = []Match{onPath("/public")}
	b.Permits = []Permit{{Match: onPath("/open")}, {Match: onPath("/read"), Needs: []string{"read"}}}
	b.Guards = []Guard{{Match: onPath("/open/guarded"), Value: func(*http.Request) string { return "acme" }}}
	b.expect(t, "public", "/public", "", access.Anonymous)
	b.expect(t, "needs nothing", "/open", "", access.Anonymous)
	b.expect(t, "needs something", "/read", "", access.Missing)
	b.expect(t, "no rule", "/other", "", access.Missing)
	b.expect(t, "guarded", "/open/guarded", "", access.Missing)
	b.expect(t, "a wrong key where none is needed", "/open", "wrong", access.Unknown)
	r := httptest.NewRequest("OPTIONS", "/read", nil)
	r.Header["Origin"], r.Header["Access-Control-Request-Method"] = []string{"x"}, []string{"GET"}
	if c := b.decide(r); c.Reason != access.Anonymous {
		t.Errorf("preflight: %s", c.Reason)
	}
}

func TestGuards(t *testing.T) {
	b := newBench(t)
	b.Guards = []Guard{
		{Match: onPath("/v1/"), Value: func(r *http.Request) string { return strings.Split(r.URL.Path, "/")[2] }},
		{Value: func(r *http.Request) string { return r.Header.Get("X-Org") }},
	}
	key := b.with()
	for _, tt := range []struct {
		path, org string
		want      access.Reason
	}{
		{"/v1/acme", "acme", access.Allowed}, {"/v1/other", "acme", access.WrongTenant}, {"/v1/acme", "other", access.WrongTenant},
		{"/v1/", "acme", access.WrongTenant}, {"/v1/ACME", "acme", access.WrongTenant}, {"/v2", "acme", access.Allowed}, {"/v2", "", access.WrongTenant},
	} {
		r := request(tt.path, key)
		r.Header.Set("X-Org", tt.org)
		if c := b.decide(r); c.Reason != tt.want {
			t.Errorf("%+v: %s", tt, c.Reason)
		}
	}
	b.Guards[0].Match = func(*http.Request) (bool, error) { return false, errors.New("no") }
	b.expect(t, "a matcher that fails", "/v1/acme", key, access.Unavailable)
}

func TestAddresses(t *testing.T) {
	b := newBench(t)
	k := b.key("bound")
	k.Rights = access.NewRights(nil, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")})
	b.put(k)
	for addr, want := range map[string]access.Reason{
		"192.0.2.9": access.Allowed, "::ffff:192.0.2.9": access.Allowed, "2001:db8::1": access.Allowed, "2001:db8::1%eth0": access.Allowed,
		"192.0.3.1": access.AddressNotAllowed, "2001:db9::1": access.AddressNotAllowed, "": access.AddressNotAllowed,
	} {
		b.addr, _ = netip.ParseAddr(addr)
		b.expect(t, addr, "/", "bound", want)
	}
}

// The order of the last checks: each request fails all that come after.
func TestOrderOfChecks(t *testing.T) {
	b := newBench(t)
	b.Permits = []Permit{{Needs: []string{"read"}}}
	b.Guards = []Guard{{Value: func(*http.Request) string { return "other" }}}
	b.Limits = []Limit{{Rate: access.Rate{Requests: 1, Burst: 1, Window: time.Hour}, Class: 99}}
	b.tenant.Permissions = []string{}
	b.putTenant()
	k := b.key("k")
	k.Expires = testNow
	k.Rights = access.NewRights(nil, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	step := func(want access.Reason) {
		t.Helper()
		b.put(k)
		b.expect(t, want.String(), "/", "k", want)
	}
	step(access.Expired)
	k.Expires = testNow + 1
	step(access.AddressNotAllowed)
	k.Rights = nil
	step(access.Forbidden)
	k.Rights = access.NewRights([]string{"read"}, nil)
	step(access.PlanRestricted)
	b.tenant.Permissions = nil
	b.putTenant()
	step(access.WrongTenant)
	b.Guards = nil
	step(access.Allowed)
	step(access.RateLimited)
}

// A need made ready says the same as access.Permissions.
func TestNeedsAgreeWithHolds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "ab", "abc", "b:a", "b:b", "c", "c:a:x"}
	granted := append([]string{"*", "a*", "b:*", "c*", "x", "x*", "ab*"}, names...)
	for range 300 {
		var list []access.Permission
		for i, n := range names {
			p := access.Permission{Name: n}
			for _, lower := range names[:i] {
				if rnd.IntN(4) == 0 {
					p.Implies = append(p.Implies, lower)
				}
			}
			if rnd.IntN(4) > 0 || i < 6 {
				list = append(list, p)
			}
		}
		p, err := access.NewPermissions(list)
		if err != nil {
			t.Fatal(err)
		}
		g := &Gate{Permissions: p, Permits: []Permit{{Needs: []string{"b:*", "unknown"}}}}
		for _, name := range append([]string{"b:*", "unknown", "looked-up", "a*"}, names...) {
			have := []string{granted[rnd.IntN(len(granted))], granted[rnd.IntN(len(granted))]}[:1+rnd.IntN(2)]
			n := g.need(name)
			if got, want := n.heldBy(have), p.Holds(have, name); got != want {
				t.Fatalf("%v holds %s: %v, want %v", have, name, got, want)
			}
		}
	}
}

func TestPreviousSecret(t *testing.T) {
	b := newBench(t)
	b.Notice = time.Hour
	k := b.key("new")
	k.Previous = &access.Previous{Digest: b.Digester.Sum("old"), Alg: 1, Since: testNow - 10, Until: testNow + 10}
	b.put(k)
	if c := b.expect(t, "new", "/", "new", access.Allowed); c.Old || c.Sunset != 0 || c.Deprecated != 0 {
		t.Errorf("the new secret: %+v", c)
	}
	old := b.expect(t, "old", "/", "old", access.Allowed)
	if !old.Old || old.Sunset != testNow+10 || old.Deprecated != testNow-10 {
		t.Errorf("the old secret: %+v", old)
	}
	fresh := b.expect(t, "new", "/", "new", access.Allowed).Proof()
	proof := old.Proof()
	rec := b.Index.ByID(k.ID)
	if !proof.Good(b.Index, rec, testNow+9) || proof.Good(b.Index, rec, testNow+10) || !fresh.Good(b.Index, rec, testNow+10) {
		t.Error("a proof by the old secret ends with it")
	}
	k.Expires = testNow + 5
	b.put(k)
	if c := b.expect(t, "notice", "/", "old", access.Allowed); c.Sunset != testNow+5 {
		t.Errorf("sunset %d, want that of the key", c.Sunset)
	}
	k.Expires = 0
	k.Previous = &access.Previous{Digest: k.Previous.Digest, Alg: 1, Since: 1, Until: testNow}
	b.put(k)
	if c := b.expect(t, "ended", "/", "old", access.Unknown); c.Record != nil || c.Old || c.Sunset != 0 {
		t.Errorf("a secret that has ended: %+v", c)
	}
	k.Status = access.StatusRevoked
	b.put(k)
	if fresh.Good(b.Index, rec, testNow) || (&Proof{}).Good(b.Index, nil, 0) {
		t.Error("a proof by a revoked key is good")
	}
}

func TestPlainSHA256(t *testing.T) {
	b := newBench(t)
	var adopted []string
	b.Adopt = func(rec *index.Record, alg uint8, was [32]byte, secret token.Secret) {
		if alg != 2 || was != rec.Digest() {
			t.Errorf("adopt of %d", alg)
		}
		adopted = append(adopted, secret.Reveal())
	}
	k := b.key("")
	k.Digest, k.Alg = sha256.Sum256([]byte("moved-in")), 2
	b.put(k)
	c := b.expect(t, "its text", "/", "moved-in", access.Allowed)
	b.expect(t, "another", "/", "another", access.Unknown)
	b.expect(t, "the digest is no secret", "/", fmt.Sprintf("%x", k.Digest), access.Unknown)
	if len(adopted) != 1 || adopted[0] != "moved-in" {
		t.Errorf("adopted %v", adopted)
	}
	if s := fmt.Sprintf("%+v %#v", *c, c); strings.Contains(s, "moved-in") {
		t.Error("a printed call shows the secret")
	}
	proof := c.Proof()
	good := func() bool { return proof.Good(b.Index, b.Index.ByID(k.ID), testNow) }
	if !good() {
		t.Error("the proof is not good before the adoption")
	}
	k.Digest, k.Alg = b.Digester.Sum("moved-in"), 1
	b.put(k)
	if !good() {
		t.Error("the adoption ended the proof")
	}
	b.expect(t, "adopted", "/", "moved-in", access.Allowed)
	k.Digest = b.Digester.Sum("rotated")
	b.put(k)
	if good() || len(adopted) != 1 {
		t.Error("a rotation without grace leaves the proof good, or a secret of ours was adopted")
	}
}

func TestSlowHash(t *testing.T) {
	b := newBench(t)
	b.Throttle = Throttle{Rate: access.Rate{Requests: 2, Burst: 2, Window: time.Hour}}
	k := b.key("nobody's")
	asked, adopted := 0, 0
	b.Foreign = func(_ context.Context, text string) (*index.Record, bool) {
		asked++
		if text == "right" {
			return b.Index.ByID(k.ID), false
		}
		return nil, text == "busy"
	}
	b.Adopt = func(_ *index.Record, alg uint8, _ [32]byte, _ token.Secret) { adopted += int(alg) }
	b.expect(t, "no such keys", "/", "right", access.Unknown)
	k.Alg, k.Imported = 3, &access.Imported{Hash: "h"}
	b.put(k)
	if asked != 0 {
		t.Error("asked for keys that are not there")
	}
	if c := b.expect(t, "right", "/", "right", access.Allowed); !c.Slow || adopted != 3 {
		t.Errorf("slow = %v, adopted %d", c.Slow, adopted)
	}
	b.expect(t, "the guessable text", "/", "nobody's", access.Unknown)
	b.expect(t, "busy", "/", "busy", access.Throttled)
	if asked != 2 {
		t.Errorf("asked %d times: the throttle comes first", asked)
	}
	b.addr = netip.MustParseAddr("192.0.2.2")
	b.expect(t, "busy", "/", "busy", access.Unavailable)
}

func TestPermitsDoNotAllocate(t *testing.T) {
	b := newBench(t)
	b.Permits = []Permit{{Match: onPath("/other")}, {Needs: []string{"rules:list", "read"}}}
	b.Guards = []Guard{{Value: func(*http.Request) string { return "acme" }}}
	b.NormalForm = true
	for key, want := range map[string]access.Reason{b.with("x", "y", "z:*", "write"): access.Allowed, b.with("x"): access.Forbidden} {
		r := request("/v1/things", key)
		got := access.Unknown
		n := testing.AllocsPerRun(200, func() {
			var c Call
			var asks Asks
			b.Decide(&b.State, r, &c, &asks)
			got = c.Reason
		})
		if n != 0 && !raceEnabled || got != want {
			t.Errorf("%s, want %s: %v allocations", got, want, n)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for name, set := range map[string]func(*bench){
		"plain":   func(*bench) {},
		"normal":  func(n *bench) { n.NormalForm = true },
		"permits": func(n *bench) { n.Permits = []Permit{{Needs: []string{"rules:list", "read"}}} },
	} {
		n := newBench(b)
		set(n)
		r := request("/v1/things/42", n.with("a", "b", "c", "write"))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var c Call
				var asks Asks
				n.Decide(&n.State, r, &c, &asks)
				if c.Reason != access.Allowed {
					b.Fatal(c.Reason)
				}
			}
		})
	}
}
