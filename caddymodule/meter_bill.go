package caddymodule

import (
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

// maxFlights is how many bounds of requests at one time are about one request:
// the plan's and the gate's, of key and tenant each.
const maxFlights = 4

// tally is what is counted of an admitted request, whatever it costs.
type tally struct {
	route    *routeRule   // nil: it has no name
	length   int64        // of the request's body as announced; 0 if it was not
	written  int64        // of the answer
	in       atomic.Int64 // read of the body, which the proxy may do still when the answer is over, and of a tunnel
	out      atomic.Int64 // written into a tunnel
	status   uint16
	observed bool // something observed would have refused it
}

// bill is what an admitted request is charged, and what its key is told of its
// usage. A request for which that is nothing has none. Metering allocates
// nothing but tally and bill, except for bounds of requests at one time.
type bill struct {
	tally
	x       *exchange // of the request; its memory is the bill's
	terms   *tenantTerms
	receipt *credit.Receipt // nil: nobody pays
	price   access.Credits
	final   access.Credits // what the API says it cost, if told

	running *running      // nil unless the API may report a running cost
	flights *flights      // nil: there are none
	let     *http.Request // the request, once it is let in
	fields  *usageFields  // nil: usage is not answered

	told    bool // the API told final
	trusted bool // nothing is taken before the request goes on: a provider key of the caller's goes along
	upgrade bool // the API is asked for another protocol
	gone    bool // the client went before the answer
	sold    bool // credits were charged
}

// flights are what a request counts under of those at one time.
type flights struct {
	list [maxFlights]engine.Flight
	n    int
}

// newTallied makes an exchange with a tally, in one piece.
func newTallied() *exchange {
	all := new(struct {
		exchange
		tally
	})
	all.exchange.tally = &all.tally
	return &all.exchange
}

// receipts are those of requests that have ended. They are the one part of a
// bill that nobody can have kept: it is a third of the memory of a request.
var receipts = sync.Pool{New: func() any { return new(credit.Receipt) }}

// newBilled makes an exchange with tally and bill in one piece, and with the room
// for what it will answer, if it needs that.
func newBilled(h *Handler, e *engine.Engine, terms *tenantTerms) *exchange {
	var x *exchange
	var b *bill
	if h.meter.answers(terms) {
		all := new(struct {
			exchange
			bill
			room usageFields
		})
		x, b = &all.exchange, &all.bill
		b.fields = &all.room
	} else {
		all := new(struct {
			exchange
			bill
		})
		x, b = &all.exchange, &all.bill
	}
	x.h, x.engine, x.tally, x.bill = h, e, &b.tally, b
	b.x, b.terms = x, terms
	return x
}

func (b *bill) metering() *engine.Metering { return b.x.h.app.metering }

// taken is what of the price is taken before the request goes on, if anybody
// pays.
func (b *bill) taken() access.Credits {
	if b.trusted {
		return 0
	}
	return b.price
}

// enter counts the request among those at one time. own is the override of the
// key that is in force, or nil.
func (b *bill) enter(c *gate.Call, own *index.Override) access.Reason {
	t := b.terms
	if most := t.ofKey(own); most.most != 0 && !b.fly(flightRule{most, false}, flightsOfKey, c) {
		return access.ConcurrencyLimited
	}
	if t.perTenant.most != 0 && !b.fly(flightRule{t.perTenant, true}, flightsOfTenant, c) {
		return access.ConcurrencyLimited
	}
	for i, rule := range b.x.h.meter.flights {
		if !b.fly(rule, b.x.h.flightClass+uint64(i), c) {
			return access.ConcurrencyLimited
		}
	}
	return access.Allowed
}

// fly counts the request under one bound, and reports whether there is room.
func (b *bill) fly(rule flightRule, class uint64, c *gate.Call) bool {
	subject := limit.Subject(c.Record.ID)
	if rule.tenant {
		subject = c.Tenant.Subject
	}
	f, ok := b.metering().Enter(class, subject, int(rule.most))
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
