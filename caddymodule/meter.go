package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// The classes of requests at one time that plans bound; a gate's own rules
// have theirs from their text.
const (
	flightsOfKey uint64 = 1 + iota
	flightsOfTenant
)

// charge takes what a request costs before it goes on. It returns why not, as
// a reason in c, and the exchange with tally and bill in any case.
func (h *Handler) charge(e *engine.Engine, r *http.Request, c *gate.Call, brought *brought) *exchange {
	own := e.Index.Override(c.Record)
	if h.meter.light && own == nil && brought == nil && h.app.light(c.Tenant) {
		x := newTallied(e)
		if c.Reason == access.Allowed {
			x.tally.length = max(r.ContentLength, 0)
			c.Reason = h.name(r, x.tally, nil)
		}
		return x
	}
	now := e.Unix(c.Started)
	terms := h.app.termsOf(h.app.metering, c.Tenant, now)
	if !own.In(now) {
		own = nil
	}
	x := newBilled(h, e, terms)
	b := x.bill
	x.brought = brought
	if c.Reason != access.Allowed {
		return x
	}
	b.length = max(r.ContentLength, 0)
	reason := h.name(r, x.tally, b)
	if reason == access.Allowed {
		reason = b.enter(c, own)
	}
	if reason == access.Allowed {
		reason = b.take(c, own, now)
	}
	if reason != access.Allowed {
		b.leave()
		c.Reason = reason
	}
	return x
}

// name finds the name of the request and, if it has a bill, its price.
func (h *Handler) name(r *http.Request, t *tally, b *bill) access.Reason {
	if r.Method != http.MethodConnect {
		return h.nameOf(r, t, b)
	}
	defer gate.ShowGet(r)()
	return h.nameOf(r, t, b)
}

func (h *Handler) nameOf(r *http.Request, t *tally, b *bill) access.Reason {
	for i := range h.meter.routes {
		rule := &h.meter.routes[i]
		if ok, err := matches(rule.match, r); err != nil {
			return access.Unavailable
		} else if ok {
			t.route = rule
			break
		}
	}
	if b == nil {
		return access.Allowed
	}
	for i := range h.meter.charges {
		rule := &h.meter.charges[i]
		if ok, err := matches(rule.match, r); err != nil {
			return access.Unavailable
		} else if ok {
			b.price = rule.price
			break
		}
	}
	if b.counts() && early(r) {
		return access.TooEarly // early data can be sent again by anybody
	}
	return access.Allowed
}

// counts reports whether the request may be charged anything.
func (b *bill) counts() bool {
	return b.price > 0 || b.x.h.meter.header != "" || b.x.h.meter.report != "" || b.terms.real != nil && len(b.terms.real.Quotas) > 0
}

// early reports whether a request is TLS early data, here or at a proxy before
// us (RFC 8470, section 5.1).
func early(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || len(r.Header["Early-Data"]) > 0
}

func matches(m gate.Match, r *http.Request) (bool, error) {
	if m == nil {
		return true, nil
	}
	return m(r)
}

// take charges credits and quotas.
func (b *bill) take(c *gate.Call, own *index.Override, now int64) access.Reason {
	key := keyPayer(b.metering(), own, b.terms.plan, c.Record.ID)
	if b.terms.payer.Terms == nil && key.Terms == nil {
		return access.Allowed
	}
	b.receipt = receipts.Get().(*credit.Receipt)
	taken := b.reserve(key)
	refusal := credit.Refusal{Reason: credit.Failed}
	if b.x.h.app.serve || b.metering().Counters.Risk() == nil {
		refusal = b.metering().Ledger.ChargeAt(now, b.receipt, b.terms.payer, key, taken, credit.Units{credit.Requests: 1, credit.BytesIn: b.length})
	}
	b.became(key, &refusal)
	switch refusal.Reason {
	case credit.Charged:
		return access.Allowed
	case credit.QuotaExceeded:
		c.Retry = refusal.Retry
		return access.QuotaExceeded
	case credit.InsufficientCredits:
		c.CreditsNeeded, c.CreditsAvailable = refusal.Needed.Ceil(), refusal.Available.Floor()
		return access.NoCredits
	}
	b.x.engine.Counts.StoreErrors.Add(1)
	if b.x.h.app.serve {
		return access.Allowed
	}
	return access.Unavailable
}

// observe notes whether a rule that is only observed would have refused.
func (x *exchange) observe(r *http.Request, c *gate.Call) {
	if c.Reason != access.Allowed {
		return
	}
	if g := x.h.observer; g != nil && g.Observe(&x.engine.State, r, c) != access.Allowed {
		x.tally.observed = true
	}
	if x.bill != nil && x.bill.terms.observes {
		x.bill.observe(c)
	}
}

// observe notes whether terms that are only observed would have refused.
func (b *bill) observe(c *gate.Call) {
	real := b.terms.real
	if b.taken() == 0 { // an empty purse lets it through
		real = &credit.Terms{Quotas: real.Quotas}
	}
	if b.metering().Over(b.terms.payer, real) {
		b.observed = true
	}
	if p := b.terms.plan; p.creditsObserve && b.taken() > 0 {
		own := b.x.engine.Index.Override(c.Record)
		if !own.In(b.x.engine.Unix(c.Started)) || own.Credits == 0 {
			return
		}
		key := keyTermsOf(b.metering(), own, p, c.Record.ID)
		b.observed = b.observed || b.metering().Over(key.payer, key.real)
	}
}

// settle counts the request, and ends its bill, when it has ended or panicked.
func (x *exchange) settle() {
	t := x.tally
	s := rollup.Sample{BytesIn: max(t.length, t.in.Load()), BytesOut: t.written + t.out.Load(), Duration: x.took()}
	status := int(t.status)
	if x.bill != nil {
		s.Credits = int64(x.bill.settle(&s))
		status = x.bill.outcome()
	}
	x.count(rollup.ClassOf(status), s)
}

// settle ends the bill, and returns what the request is charged.
func (b *bill) settle(s *rollup.Sample) access.Credits {
	x := b.x
	if x.h.meter.told() {
		b.running.close()
		b.end(x.Header())
	}
	if !x.done { // an error page will tell the client
		b.headers(x.Header(), true)
	}
	b.leave()
	final := b.cost()
	units := credit.Units{credit.Requests: 1, credit.BytesIn: s.BytesIn, credit.BytesOut: s.BytesOut,
		credit.Seconds: int64((s.Duration + time.Second - 1) / time.Second)}
	if b.receipt != nil {
		if err := b.receipt.Settle(final, units); err != nil {
			x.h.app.meterTrouble(err)
		}
		receipts.Put(b.receipt) // closed, and no report comes any more
		b.receipt = nil
	}
	if b.trusted && final > 0 {
		b.terms.misled.Store(true)
	}
	b.total(&x.Call, final)
	return final
}

// count counts the request, which belongs to a key.
func (x *exchange) count(class rollup.Class, s rollup.Sample) {
	if x.Record == nil || x.Tenant == nil {
		return
	}
	m := x.h.app.metering
	series := rollup.Series{Tenant: x.Tenant.ID, Key: x.Record.ID, Class: class}
	if rule := x.tally.route; rule != nil {
		series.Route = rule.name
	}
	if x.tally.observed {
		m.Totals.Observed.Add(1)
		series.Flags = rollup.Observed
	}
	if x.bill != nil && x.bill.bypassed() {
		series.Flags |= rollup.Bypassed
	}
	m.Usage.Record(x.engine.Unix(x.Started+int64(s.Duration)), series, s)
}

// took is how long the request has been under way.
func (x *exchange) took() time.Duration {
	return time.Duration(max(x.engine.Limiter.Now()-x.Started, 0))
}

// tell takes the final cost out of a header.
func (b *bill) tell(h http.Header, name string) {
	values, ok := h[name]
	if !ok {
		return
	}
	delete(h, name)
	if len(values) == 1 {
		if cost, err := access.ParseCredits(values[0]); err == nil {
			b.final, b.told = cost, true
			return
		}
	}
	b.x.h.app.meterTrouble(errBadCost)
}

var errBadCost = errors.New("the API told a cost that is no amount of credits, or several: what was reserved stands")

// meterTrouble logs what is wrong with metering, at most once a minute.
func (a *App) meterTrouble(err error) {
	now := time.Now().Unix()
	last := a.troubled.Load()
	if (now-last >= 60 || now < last) && a.troubled.CompareAndSwap(last, now) {
		a.logger.Error("metering", zap.Error(err))
	}
}

// noTerms are those of a tenant that was deleted a moment ago.
var noTerms = new(tenantTerms)

// knownTerms returns the terms that were worked out last for a tenant, by
// whichever configuration; nil if there are none.
func knownTerms(t *index.Tenant) *tenantTerms {
	if p := t.Terms.Load(); p != nil {
		tt, _ := (*p).(*tenantTerms)
		return tt
	}
	return nil
}

// light reports whether the terms of a tenant are known, hold for good, and say
// nothing.
func (a *App) light(t *index.Tenant) bool {
	if t == nil {
		return false
	}
	tt := knownTerms(t)
	return tt != nil && tt.light && tt.app == a && tt.until == 0
}

// termsOf returns what the configuration says of a tenant at a time.
func (a *App) termsOf(m *engine.Metering, t *index.Tenant, now int64) *tenantTerms {
	if t == nil {
		return noTerms
	}
	misled := false
	if tt := knownTerms(t); tt != nil {
		if tt.app == a && (tt.until == 0 || now < tt.until) {
			return tt
		}
		misled = tt.misled.Load()
	}
	tt := a.newTerms(m, t, now)
	tt.light = tt.payer.Terms == nil && tt.perKey.most == 0 && tt.perTenant.most == 0 && !tt.observes && !tt.credits
	tt.misled.Store(misled)
	v := any(tt)
	t.Terms.Store(&v)
	return tt
}

// openMetering opens counters and usage if a gate has a meter.
func (a *App) openMetering(e *engine.Engine) (err error) {
	if !a.metersUsed {
		return nil
	}
	keep := rollup.Retention{Minute: a.retain.minute, Hour: a.retain.hour, Day: a.retain.day}
	if a.metering, err = e.Metering(context.Background(), engine.MeteringOptions{Retain: keep, OnError: a.meterTrouble}); err != nil {
		return err
	}
	a.letUsageGo, err = a.metering.Keep(keep)
	return err
}

// provisionObserver makes the gate of the rules that are observed.
func (h *Handler) provisionObserver(caddy.Context) error {
	if h.meter == nil && (len(h.shadow.limits) > 0 || len(h.shadow.permits) > 0) {
		h.meter = new(meter) // what is observed is counted
	}
	if h.meter == nil {
		return nil
	}
	h.app.metersUsed = true
	text, err := json.Marshal(h.Concurrent)
	if err != nil {
		return err
	}
	h.flightClass = limitClass("concurrent", text)
	if s := &h.shadow; len(s.limits) > 0 || len(s.permits) > 0 {
		h.observer = &gate.Gate{Plans: h.app.plans, DefaultPlan: h.gate.DefaultPlan, Permissions: h.app.permissions,
			Permits: s.permits, Limits: s.limits, Client: client, Throttle: h.app.throttle}
	}
	return nil
}
