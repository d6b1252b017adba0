package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

const meterBare = `"plans":{"p":{"credits":{"amount":1000,"period":"month"},"concurrent":[{"requests":1}]}},"default_plan":"p","throttle_failures":{"off":true}`

// A handler that panics anywhere behind the gate, also before the API is
// reached, gives back its place among those under way and its price.
func TestPanicsReleaseFlightAndPrice(t *testing.T) {
	b := newBareGate(t, t.TempDir(), meterBare, `"charges":[{"credits":1}],"inject":[{"header":"X-Own","value":"{boom}"}]`)
	b.start()
	_, key := b.key(hourly(1000))
	serve := func(next caddyhttp.HandlerFunc, boom bool) (err error, panicked bool) {
		r := b.request(key)
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(func(name string) (any, bool) {
			if name == "boom" && boom {
				panic("boom")
			}
			return nil, false
		})
		defer func() { panicked = recover() != nil }()
		return b.handler.ServeHTTP(nullWriter{http.Header{}}, r, next), false
	}
	for range 3 {
		if _, panicked := serve(nextOK, true); !panicked {
			t.Fatal("nothing panicked")
		}
		if _, panicked := serve(func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) }, false); !panicked {
			t.Fatal("nothing panicked")
		}
	}
	reached := false
	if err, _ := serve(func(w http.ResponseWriter, _ *http.Request) error { reached = true; w.WriteHeader(200); return nil }, false); err != nil || !reached {
		t.Fatalf("%v: the flights of requests that panicked are still counted", err)
	}
	if got := b.spent(t); got != credits {
		t.Errorf("used %s, want 1", got)
	}
}

// spent returns what acme used.
func (b *bareGate) spent(t testing.TB) access.Credits {
	t.Helper()
	app := b.handler.app
	tt := app.termsOf(app.metering, app.engine.Load().Index.TenantByID("acme"), time.Now().Unix())
	got, err := app.metering.Ledger.Balance(tt.payer)
	if err != nil {
		t.Fatal(err)
	}
	return got.Used + got.Overage
}

// A handler that writes nothing answers 200, and one that returns an error
// answers what the error says: both are charged as such.
func TestAnswersThatNobodyWroteAreCharged(t *testing.T) {
	b := newBareGate(t, t.TempDir(), `"plans":{"p":{"credits":{"amount":1000,"period":"month"}}},"default_plan":"p"`, `"charges":[{"credits":1}]`)
	b.start()
	_, key := b.key(hourly(1000))
	for _, tt := range []struct {
		name string
		err  error
		want access.Credits
	}{
		{"nothing", nil, credits},
		{"404", caddyhttp.Error(404, errors.New("no file")), credits},
		{"500", caddyhttp.Error(500, errors.New("broken")), 0},
		{"plain", errors.New("broken"), 0},
		{"502", caddyhttp.Error(502, errors.New("down")), 0},
	} {
		before := b.spent(t)
		w := nullWriter{http.Header{}}
		_ = b.handler.ServeHTTP(w, b.request(key), caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return tt.err }))
		if got := b.spent(t) - before; got != tt.want {
			t.Errorf("%s: charged %s, want %s", tt.name, got, tt.want)
		}
		if w.header.Get("X-Usage-Limit") != "1000" {
			t.Errorf("%s: headers %v", tt.name, w.header)
		}
	}
}

// Whose key is revoked or used from elsewhere is not told what the tenant has.
func TestDeadKeysSeeNoUsage(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	id, key := g.key("acme", hourly(1000))
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200).coherent(t)
	if _, err := g.registrar().RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	absent(t, g.do("GET", "/", "X-Api-Key: "+key).expect(t, 401).Header, usageNames...)
}

// Another spelling of a path is not a way around its price.
func TestSpellingsDoNotChangeThePrice(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	if r, err := g.raw("GET /big HTTP/1.1\nHost: " + g.addr + "\nX-Api-Key: " + key + "\nConnection: close\n\n"); err != nil || r.StatusCode != 200 {
		t.Fatal(r.Response, err)
	}
	for _, path := range []string{"/big;a=b", "/x/..;/big", "/%62ig/.", "/big%00", "/.%2fbig", "/x%5C..%5Cbig"} {
		r, err := g.raw("GET " + path + " HTTP/1.1\nHost: " + g.addr + "\nX-Api-Key: " + key + "\nConnection: close\n\n")
		if err != nil || r.StatusCode != 400 {
			t.Errorf("%s: %v, %v", path, r.Response, err)
		}
	}
}

// Early data that a proxy before us passed on is not charged either, nor where
// the API tells the cost, nor by quotas.
func TestForwardedEarlyDataIsNotCharged(t *testing.T) {
	for options, site := range map[string]string{
		roomyOptions: meterSite,
		"plan free {\n quota 10/day\n}\ndefault_plan free\n": plainGate,
	} {
		g := newGateway(t, options, site)
		_, key := g.key("acme", hourly(1000))
		g.do("GET", "/nothing", "X-Api-Key: "+key, "Early-Data: 1").expect(t, 425)
		g.do("GET", "/nothing", "X-Api-Key: "+key).expect(t, 200)
	}
}

// A key's own credits follow the tenant to another plan: their period is that
// plan's, and they end with a plan that has none.
func TestKeyCreditsFollowThePlan(t *testing.T) {
	options := "plan month {\n credits 100/month\n}\nplan hour {\n credits 100/hour\n}\nplan none {\n quota 100/day\n}\nplan seen {\n credits 100/month observe\n}\ndefault_plan month\n"
	g := newGateway(t, options, meterSite)
	id, key := g.key("acme", hourly(1000))
	if _, err := g.registrar().SetKeyOverride(t.Context(), id, &access.Override{Credits: credits}); err != nil {
		t.Fatal(err)
	}
	to := func(plan string) {
		if _, err := g.registrar().UpdateTenant(t.Context(), "acme", registrar.TenantUpdate{Plan: &plan}); err != nil {
			t.Fatal(err)
		}
		app, _ := activeApp()
		eventually(t, "the plan is known", func() bool { return app.engine.Load().Index.TenantByID("acme").Plan == plan })
	}
	status := func() int { return g.do("GET", "/", "X-Api-Key: "+key).StatusCode }
	for _, step := range []struct {
		plan string
		want []int
	}{{"month", []int{200, 402}}, {"hour", []int{200, 402}}, {"none", []int{200, 200}}, {"month", []int{402}}, {"seen", []int{200, 200}}} {
		to(step.plan)
		for _, want := range step.want {
			if got := status(); got != want {
				t.Fatalf("on plan %s: %d, want %d", step.plan, got, want)
			}
		}
	}
	g.ended(9)
	for _, p := range g.points(rollup.ByFlags) {
		if p.Flags == rollup.Observed && p.Requests != 2 {
			t.Errorf("%d would have been refused, want 2", p.Requests)
		}
	}
}

// The terms of a key with credits of its own are made once for each override,
// plan and configuration, and its purse is the same all the while.
func TestKeyTermsStayWithTheOverride(t *testing.T) {
	const plans = `"plans":{"p":{"credits":{"amount":1000,"period":"month"}},"q":{"credits":{"amount":1000,"period":"hour","observe":true}}},"default_plan":"p"`
	b := newBareGate(t, t.TempDir(), plans, "")
	b.start()
	id, _ := b.key(hourly(1000))
	other, _ := b.key(hourly(1000))
	terms := func(b *bareGate, id access.KeyID, plan string) *keyTerms {
		app := b.handler.app
		x := app.engine.Load().Index
		return keyTermsOf(app.metering, x.Override(x.ByID(id)), app.meterPlans[plan], id)
	}
	override := func(id access.KeyID, amount access.Credits) {
		if _, err := b.handler.app.registrar.Load().SetKeyOverride(t.Context(), id, &access.Override{Credits: amount}); err != nil {
			t.Fatal(err)
		}
	}
	override(id, credits)
	override(other, credits)
	last := terms(b, id, "p")
	if terms(b, other, "p").payer == last.payer {
		t.Error("two keys have one purse")
	}
	if terms(b, id, "p") != last {
		t.Error("terms are made anew")
	}
	became := func(what string, made *keyTerms, amount access.Credits, by period.Kind) {
		t.Helper()
		if made == last || made.payer.Purse != last.payer.Purse {
			t.Errorf("%s: the terms are those before, or of another purse", what)
		}
		if c := made.real.Credits; c.Amount != amount || c.Period.Kind != by {
			t.Errorf("%s: %s by %v", what, c.Amount, c.Period.Kind)
		}
		last = made
	}
	became("another plan", terms(b, id, "q"), credits, period.Hour)
	if last.payer.Terms.Credits.Overage != access.MaxCredits || last.real.Credits.Overage != 0 {
		t.Error("what is only observed refuses, or is not told from what is enforced")
	}
	became("the plan before", terms(b, id, "p"), credits, period.Month)
	override(id, 2*credits)
	became("another override", terms(b, id, "p"), 2*credits, period.Month)
	next := newBareGate(t, b.dir, plans, "")
	next.start()
	became("another configuration", terms(next, id, "p"), 2*credits, period.Month)
	if terms(next, id, "p") != last {
		t.Error("the terms of the configuration before were not replaced")
	}
}

// A request that took long is counted when it ends: a minute long past is never
// opened again.
func TestUsageIsOfTheEnd(t *testing.T) {
	b := newBareGate(t, t.TempDir(), meterBare, "")
	b.start()
	_, key := b.key(hourly(1000))
	app := b.handler.app
	started := time.Now()
	var counted *tally
	_ = b.handler.ServeHTTP(nullWriter{http.Header{}}, b.request(key), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		counted = w.(*exchange).tally
		w.(*exchange).Started -= int64(2 * time.Hour)
		w.WriteHeader(200)
		return nil
	}))
	if counted == nil {
		t.Fatal("it is not counted")
	}
	points, err := app.metering.Usage.Query(t.Context(), rollup.Filter{}, started.Add(-3*time.Hour), started.Add(-time.Hour), rollup.Minute, 0)
	if err != nil || len(points) != 0 {
		t.Errorf("counted at the start: %v, %v", points, err)
	}
}

// A proxy may read the body when the answer is over: run with -race.
func TestLateReadOfABody(t *testing.T) {
	b := newBareGate(t, t.TempDir(), meterBare, "")
	b.start()
	_, key := b.key(hourly(1000))
	r := b.request(key)
	r.Method, r.ContentLength, r.Body = "POST", -1, io.NopCloser(strings.NewReader(strings.Repeat("x", 1<<20)))
	done := make(chan struct{})
	_ = b.handler.ServeHTTP(nullWriter{http.Header{}}, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		go func() {
			defer close(done)
			_, _ = io.Copy(io.Discard, io.MultiReader(io.LimitReader(r.Body, 10), r.Body))
		}()
		w.WriteHeader(413)
		return nil
	}))
	<-done
}

// What goes over a WebSocket is counted, in both directions.
func TestBytesOfWebSocketsAreCounted(t *testing.T) {
	g := newGateway(t, roomyOptions, meterSite)
	_, key := g.key("acme", hourly(1000))
	g.upstream.respond(wsEcho)
	conn, br := g.dial(g.handshake(key))
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	text := strings.Repeat("x", 100)
	for range 20 {
		_, _ = conn.Write(wsFrame(text, true))
		if got, err := readFrame(br); err != nil || got != "echo "+text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	conn.Close()
	g.ended(1)
	if p := g.points(0); len(p) != 1 || p[0].BytesIn < 20*100 || p[0].BytesOut < 20*105 {
		t.Errorf("usage %+v", p)
	}
}

// All bounds of requests at one time hold at once, and all are let go.
func TestAllFlightsAtOnce(t *testing.T) {
	const both = `"concurrent":[{"requests":1},{"requests":1,"per":"tenant"}]`
	b := newBareGate(t, t.TempDir(), `"plans":{"p":{`+both+`}},"default_plan":"p"`, both)
	b.start()
	_, key := b.key(hourly(1000))
	for range 3 {
		if err := b.handler.ServeHTTP(nullWriter{http.Header{}}, b.request(key), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			if n := w.(*exchange).bill.flights.n; n != maxFlights {
				t.Errorf("%d flights, want %d", n, maxFlights)
			}
			w.WriteHeader(200)
			return nil
		})); err != nil {
			t.Fatal(err)
		}
	}
}

// With a full disk every request of a tenant is refused, and every answer may
// tell a wrong cost: neither fills the log, and one does not hide the other.
func TestTroublesAreLoggedOnceAMinute(t *testing.T) {
	b := newBareGate(t, t.TempDir(), meterBare, `"charges":[{"credits":1}],"charge_header":"X-Cost"`)
	b.start()
	_, key := b.key(hourly(1000))
	core, logs := observer.New(zap.DebugLevel)
	b.handler.logger, b.handler.app.logger = zap.New(core), zap.New(core)
	for range 5 {
		w := &statusWriter{nullWriter: nullWriter{http.Header{}}}
		if err := b.handler.refuse(w, b.request(key), &gate.Call{Reason: access.Unavailable}, nil, nil); err != nil || w.status != 503 {
			t.Fatal(w.status, err)
		}
		wrong := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error { w.Header().Set("X-Cost", "-1"); return nil })
		if err := b.handler.ServeHTTP(nullWriter{http.Header{}}, b.request(key), wrong); err != nil {
			t.Fatal(err)
		}
		b.handler.app.meterTrouble(io.ErrShortWrite)
	}
	errs := logs.Filter(func(e observer.LoggedEntry) bool { return e.Level == zap.ErrorLevel }).All()
	if len(errs) != 3 {
		t.Errorf("%d errors, want one of each kind: %v", len(errs), errs)
	}
}
