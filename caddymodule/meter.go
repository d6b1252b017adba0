package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync/atomic"
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
	if own == nil && brought == nil && h.meter.light && h.app.light(c.Tenant) {
		x := newTallied()
		x.engine = e
		if c.Reason == access.Allowed {
			x.tally.length = max(r.ContentLength, 0)
			if x.tally.route = h.meter.route; !h.meter.same {
				c.Reason = h.match(r, x.tally, nil)
			}
		}
		return x
	}
	now := e.Unix(c.Started)
	terms := h.app.termsOf(h.app.metering, c.Tenant, now)
	if !own.In(now) {
		own = nil
	}
	terms.payer.Near()
	x := newBilled(h, e, terms)
	b := x.bill
	x.brought = brought
	if c.Reason != access.Allowed {
		return x
	}
	b.length = max(r.ContentLength, 0)
	if h.brief {
		return x // who has used up all it had can still see so, and revoke a key
	}
	reason := h.name(r, b)
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

// name finds the name of a request that has a bill, and its price.
func (h *Handler) name(r *http.Request, b *bill) access.Reason {
	if h.meter.same {
		b.route, b.price = h.meter.route, h.meter.price
	} else if reason := h.match(r, &b.tally, b); reason != access.Allowed {
		return reason
	}
	if b.counts() && early(r) {
		return access.TooEarly // early data can be sent again by anybody
	}
	return access.Allowed
}

// match is name where rules look at the request, which may have no bill.
func (h *Handler) match(r *http.Request, t *tally, b *bill) access.Reason {
	if r.Method == http.MethodConnect {
		defer gate.ShowGet(r)()
	}
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
	b.terms.payer.NearSlot()
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
	if x.bill != nil && x.bill.terms.observes && !x.h.brief {
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
	t, end := x.tally, x.engine.Limiter.Now()
	took, in, out := x.took(end), max(t.length, t.in.Load()), t.written+t.out.Load()
	status, credits := int(t.status), int64(0)
	if x.bill != nil {
		credits = int64(x.bill.settle(credit.Units{credit.Requests: 1, credit.BytesIn: in, credit.BytesOut: out,
			credit.Seconds: int64((took + time.Second - 1) / time.Second)}))
		status = x.bill.outcome()
	}
	x.count(rollup.ClassOf(status), end, &rollup.Request{Numbers: [...]int64{rollup.Credits: credits, rollup.BytesIn: in, rollup.BytesOut: out, rollup.Micros: int64(took / time.Microsecond)}})
}

// settle ends the bill, and returns what the request is charged.
func (b *bill) settle(units credit.Units) access.Credits {
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

// count counts the request, which belongs to a key and ended at end. r has its
// numbers.
func (x *exchange) count(class rollup.Class, end int64, r *rollup.Request) {
	if x.Record == nil || x.Tenant == nil {
		return
	}
	m := x.h.app.metering
	r.Second, r.Class, r.Key, r.Tenant = rollup.SecondOf(x.engine.Unix(end)), uint8(class), x.Record.ID, x.Tenant.ID
	if rule := x.tally.route; rule != nil {
		r.Route = rule.name
	}
	if x.tally.observed {
		m.Totals.Observed.Add(1)
		r.Flags = uint8(rollup.Observed)
	}
	if x.bill != nil && x.bill.bypassed() {
		r.Flags |= uint8(rollup.Bypassed)
	}
	m.Usage.Record(r)
}

// took is how long the request had been under way at end.
func (x *exchange) took(end int64) time.Duration { return time.Duration(max(end-x.Started, 0)) }

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
	if a := b.x.h.app; a.mistold.turn() { // the API's fault must not hide those of the disk
		a.logger.Error("metering", zap.Error(errBadCost))
	}
}

var errBadCost = errors.New("the API told a cost that is no amount of credits, or several: what was reserved stands")

// meterTrouble logs what is wrong with metering, at most once a minute.
func (a *App) meterTrouble(err error) {
	if a.troubled.turn() {
		a.logger.Error("metering", zap.Error(err))
	}
}

// minutely is whose turn to be logged comes once a minute, however often it is
// asked and by how many.
type minutely struct{ last atomic.Int64 } // unix second

func (m *minutely) turn() bool {
	now, last := time.Now().Unix(), m.last.Load()
	return (now-last >= 60 || now < last) && m.last.CompareAndSwap(last, now)
}

// noTerms are those of a tenant that was deleted a moment ago.
var noTerms = new(tenantTerms)

// knownTerms returns the terms that were worked out last for a tenant, by
// whichever configuration; nil if there are none.
func knownTerms(t *index.Tenant) *tenantTerms {
	tt, _ := t.Terms.Load().(*tenantTerms)
	return tt
}

// light reports whether the terms of a tenant are known, hold for good, and say
// nothing.
func (a *App) light(t *index.Tenant) bool {
	if t == nil {
		return false
	}
	tt := knownTerms(t)
	return tt != nil && tt.light && tt.config == a.config
}

// termsOf returns what the configuration says of a tenant at a time.
func (a *App) termsOf(m *engine.Metering, t *index.Tenant, now int64) *tenantTerms {
	if t == nil {
		return noTerms
	}
	misled := false
	if tt := knownTerms(t); tt != nil {
		if tt.config == a.config && (tt.until == 0 || now < tt.until) {
			return tt
		}
		misled = tt.misled.Load()
	}
	tt := a.newTerms(m, t, now)
	tt.light = tt.until == 0 && tt.payer.Terms == nil && tt.perKey.most == 0 && tt.perTenant.most == 0 && !tt.observes && !tt.credits
	tt.misled.Store(misled)
	t.Terms.Store(tt)
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
