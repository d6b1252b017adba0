package caddymodule

import (
	"net/http"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

// maxFlights is how many bounds of requests at one time are about one request:
// the plan's and the gate's, of key and tenant each.
const maxFlights = 4

// bill is what an admitted request is charged. Metering allocates nothing else,
// but for bounds of requests at one time.
type bill struct {
	x       *exchange // of the request, once it is let in; its memory is the bill's
	h       *Handler
	m       *engine.Metering
	terms   *tenantTerms
	receipt *credit.Receipt // nil: nobody pays
	length  int64           // of the request's body as announced; 0 if it was not
	price   access.Credits
	taken   access.Credits // of the price, before the request goes on
	final   access.Credits // what the API says it cost, if told

	e       *engine.Engine
	own     *access.Override // of the key, if one is in force
	brought *brought         // nil without provider keys
	running *running         // nil unless the API may report a running cost
	route   string
	flights *flights      // nil: there are none
	let     *http.Request // the request, once it is let in
	in      atomic.Int64  // read of the body, which the proxy may do still when the answer is over
	out     atomic.Int64  // likewise, of a tunnel
	id      string        // X-Request-Id
	fields  *usageFields  // nil: usage is not answered
	status  uint16

	told     bool // the API told final
	trusted  bool // nothing was taken: a provider key of the caller's goes along
	observed bool // something observed would have refused it
	upgrade  bool // the API is asked for another protocol
	gone     bool // the client went before the answer
	admitted bool // it counts as under way
	sold     bool // credits were charged
}

// flights are what a request counts under of those at one time.
type flights struct {
	list [maxFlights]engine.Flight
	n    int
}

// newBill makes a bill, in one piece with the exchange of the request, and with
// the receipt and the room for what it will answer, if it needs them.
func newBill(h *Handler, e *engine.Engine, terms *tenantTerms) *bill {
	var b *bill
	switch {
	case h.meter.answers(terms):
		all := new(struct {
			exchange
			bill
			charged credit.Receipt
			room    usageFields
		})
		b = &all.bill
		b.x, b.receipt, b.fields = &all.exchange, &all.charged, &all.room
	case terms.payer.Terms != nil:
		all := new(struct {
			exchange
			bill
			charged credit.Receipt
		})
		b = &all.bill
		b.x, b.receipt = &all.exchange, &all.charged
	default:
		all := new(struct {
			exchange
			bill
		})
		b = &all.bill
		b.x = &all.exchange
	}
	b.h, b.m, b.e, b.terms = h, h.app.metering, e, terms
	return b
}

// enter counts the request among those at one time.
func (b *bill) enter(c *gate.Call) access.Reason {
	t := b.terms
	if !b.fly(flightRule{t.ofKey(b.own), false}, flightsOfKey, c) || !b.fly(flightRule{t.perTenant, true}, flightsOfTenant, c) {
		return access.ConcurrencyLimited
	}
	for i, rule := range b.h.meter.flights {
		if !b.fly(rule, b.h.flightClass+uint64(i), c) {
			return access.ConcurrencyLimited
		}
	}
	return access.Allowed
}

// fly counts the request under one bound, and reports whether there is room.
func (b *bill) fly(rule flightRule, class uint64, c *gate.Call) bool {
	if rule.most == 0 {
		return true
	}
	subject := limit.Subject(c.Record.ID)
	if rule.tenant {
		subject = c.Tenant.Subject
	}
	f, ok := b.m.Enter(class, subject, int(rule.most))
	if !ok {
		b.observed = b.observed || rule.observe
		return rule.observe
	}
	if b.flights == nil {
		b.flights = new(flights)
	}
	b.flights.list[b.flights.n] = f
	b.flights.n++
	return true
}

// leave ends the request's part of those at one time.
func (b *bill) leave() {
	if b.flights == nil {
		return
	}
	for _, f := range b.flights.list[:b.flights.n] {
		f.Done()
	}
	b.flights = nil
}
