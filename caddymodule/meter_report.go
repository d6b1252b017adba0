package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/token"
)

var (
	errNoReportedCharge = errors.New("charge_report needs a charge, which is reserved until the API reports more: charge 1")
	errNoReports        = errors.New("a gate has charge_report, and nothing takes the reports: add `keytoll_api charges { base /charges }` where the API reaches it")
	errFullReports      = errors.New("too many requests at one time can report a running cost: those beyond go on without")
)

func (h *Handler) compileChargeReport(m *meter) error {
	if h.ChargeReport == "" {
		return nil
	}
	if len(h.Charges) == 0 {
		return errNoReportedCharge
	}
	if err := checkChargeReport(h.ChargeReport); err != nil {
		return err
	}
	m.report = textproto.CanonicalMIMEHeaderKey(h.ChargeReport)
	if m.report == m.header {
		return fmt.Errorf("charge_report %s: charge_header has the same name", m.report)
	}
	for _, in := range h.Inject {
		if textproto.CanonicalMIMEHeaderKey(in.Header) == m.report {
			return fmt.Errorf("charge_report %s: this header is injected too", m.report)
		}
	}
	for _, s := range h.gate.Sources {
		if textproto.CanonicalMIMEHeaderKey(s.Name) == m.report {
			return fmt.Errorf("charge_report %s: keys come in this header", m.report)
		}
	}
	set, err := token.NewSet(engine.ReportPrefix)
	if err != nil {
		return err
	}
	registerRedaction([]string{m.report}, nil, set)
	h.app.reported = true
	h.app.atStart = append(h.app.atStart, h.app.checkReports)
	return nil
}

// checkReports refuses a capability that is good for nothing.
func (a *App) checkReports() error {
	if !a.takesReports {
		return errNoReports
	}
	return nil
}

// checkChargeReport says why a header of requests cannot hold a capability, or
// returns nil.
func checkChargeReport(name string) error {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("charge_report %q: not the name of a header", name)
	case !httpguts.ValidTrailerHeader(canonical), strings.HasPrefix(canonical, "Sec-"), canonical == "Upgrade", canonical == "Cookie",
		canonical == "Set-Cookie", canonical == "Location", canonical == "Accept-Encoding", canonical == "Origin":
		return fmt.Errorf("charge_report %s: HTTP needs this header itself; take one of your own, such as X-Charge-Report", canonical)
	case canonical == "X-Tenant-Id", canonical == "X-Key-Id", canonical == "X-Request-Id", canonical == "Retry-After",
		strings.HasPrefix(canonical, "X-Usage-"), strings.HasPrefix(canonical, "X-Ratelimit"), strings.HasPrefix(canonical, "Ratelimit"),
		strings.HasPrefix(canonical, "X-Forwarded-"):
		return fmt.Errorf("charge_report %s: this header has another use; take one of your own, such as X-Charge-Report", canonical)
	}
	return nil
}

// running is the running cost of one request, from when it goes to the API
// until its bill is settled. Reports come from other goroutines. All methods do
// nothing for nil.
type running struct {
	x          *exchange
	capability string

	mu       sync.Mutex
	over     bool // the bill is being settled
	free     bool // no credits are taken, as far as is known
	reported bool
	highest  access.Credits // reported so far
	short    access.Credits // of that, how much there was not
	ended    bool           // there was not enough
}

// offerReport gives the API the right to report what the request costs so far.
// The request must be registered with Streams: a report may end it.
func (x *exchange) offerReport(r *http.Request) {
	b := x.bill
	if b == nil || b.x.h.meter.report == "" {
		return
	}
	c := &running{x: x, free: b.trusted}
	var ok bool
	if c.capability, ok = b.metering().Reports.Open(c); !ok {
		b.x.h.app.meterTrouble(errFullReports)
		return
	}
	b.running = c
	r.Header[b.x.h.meter.report] = []string{c.capability}
}

// Report implements engine.Reporter. The total is what the bill is settled for
// unless the API tells another in its answer.
func (c *running) Report(total access.Credits) (r engine.Reported, needed, available access.Credits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return engine.ReportOver, 0, 0
	}
	b := c.x.bill
	if c.free {
		c.reported, c.highest = true, max(c.highest, total)
		return engine.ReportTaken, 0, 0
	}
	err := b.receipt.Advance(b.x.engine.Unix(b.x.engine.Limiter.Now()), total, credit.Units{})
	if errors.Is(err, credit.ErrOverflow) {
		return engine.ReportRefused, 0, 0
	}
	c.reported, c.highest = true, max(c.highest, total)
	if exhausted, ok := errors.AsType[*credit.Exhausted](err); ok {
		c.short += exhausted.Short
		c.ended = true
		c.x.stream.End()
		err = nil
	}
	switch {
	case err != nil:
		b.x.h.app.meterTrouble(err)
		b.x.engine.Counts.StoreErrors.Add(1)
		return engine.ReportFailed, 0, 0
	case c.ended:
		return engine.ReportExhausted, c.highest, max(c.highest-c.short, 0)
	}
	return engine.ReportTaken, 0, 0
}

// known says whether credits are taken, which is sure once there is an answer.
// What was reported before is charged with the next report: a stream whose guess
// was wrong does not go on for longer than there are credits.
func (c *running) known(free bool) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = free
}

// close ends the reports. One that is being taken is waited for.
func (c *running) close() {
	if c == nil {
		return
	}
	c.x.bill.metering().Reports.Close(c.capability)
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
}

// spent reports whether the request was ended because credits were used up.
func (c *running) spent() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// total returns what was reported, or the price if nothing was.
func (c *running) total(price access.Credits) access.Credits {
	if c == nil {
		return price
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reported {
		return price
	}
	return c.highest
}

// held returns what is charged while the request is under way: what was taken,
// and what was reported beyond.
func (b *bill) held() access.Credits {
	if b.trusted {
		return 0
	}
	return max(b.taken(), b.running.total(b.taken()))
}

// outcome returns the status that the request counts as in usage.
func (b *bill) outcome() int {
	if b.status == 0 && b.running.spent() {
		return http.StatusPaymentRequired
	}
	return int(b.status)
}

// conceal takes a capability that the API sends back out of an answer.
func (b *bill) conceal(h http.Header) {
	if name := b.x.h.meter.report; name != "" {
		delete(h, name)
		delete(h, http.TrailerPrefix+name)
		removeToken(h, "Trailer", name)
	}
}
