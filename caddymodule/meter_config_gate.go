package caddymodule

import (
	"errors"
	"fmt"
	"net/textproto"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
)

// Charge is the price of requests.
type Charge struct {
	// Which requests it is about. Default: all.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
	// What one costs: a number from 0 to 1e12 with at most 6 decimals; 0 is free.
	// Default: 0.
	Credits access.Credits `json:"credits"`
}

// Route names requests in usage.
type Route struct {
	// Which requests it is about. Default: all.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
	// 1 to 64 letters, digits, '_', '-' or '.'. Required.
	Name string `json:"name"`
}

// meter is what a gate says about metering, compiled.
type meter struct {
	charges      []chargeRule // the first that matches decides; none: free
	header       string       // canonical; with the final cost; "" is none
	report       string       // canonical; with the capability to report a running cost; "" is none
	status       [6]bool      // by the first digit: whether answers are charged
	flights      []flightRule
	routes       []routeRule // the first that matches decides; none: no name
	usageHeaders string      // on, off, or "": as the key's plan has credits
	light        bool        // the gate itself has nothing but routes
	same         bool        // all requests have this route and price:
	route        *routeRule  // nil: no name
	price        access.Credits
}

// told reports whether the API may tell what a request costs.
func (m *meter) told() bool { return m.header != "" || m.report != "" }

// chargeRule is the price of requests. A nil match is about all.
type chargeRule struct {
	match gate.Match
	price access.Credits
}

// flightRule bounds the requests of each key or tenant at one time.
type flightRule struct {
	flightLimit
	tenant bool // not key
}

func (r flightRule) String() string {
	if r.tenant {
		return "tenant"
	}
	return "key"
}

// routeRule names requests in usage. A nil match is about all.
type routeRule struct {
	match gate.Match
	name  string
}

// shadow is the rules that are observed: what would be refused is counted.
type shadow struct {
	limits []gate.Limit
	// permits are all permits in their order, those that are enforced too: what
	// they would decide if none was observed. Empty: none is.
	permits  []gate.Permit
	observed bool // any of permits
}

func (s *shadow) addPermit(rule gate.Permit, observe bool) {
	s.permits = append(s.permits, rule)
	s.observed = s.observed || observe
}

func (s *shadow) endPermits() {
	if !s.observed {
		s.permits = nil
	}
}

var defaultChargeStatus = []string{"1xx", "2xx", "3xx", "4xx"}

// provisionMeter compiles what the gate says about metering. The meter stays
// nil if neither the gate nor a plan has anything to count.
func (h *Handler) provisionMeter(ctx caddy.Context) error {
	if h.brief && (len(h.Charges) > 0 || h.ChargeHeader != "" || h.ChargeReport != "" || len(h.ChargeStatus) > 0 || len(h.Concurrent) > 0 || len(h.Routes) > 0 || h.UsageHeaders != "") {
		return errors.New("keytoll_api has no charges, concurrency, routes or usage headers")
	}
	m := &meter{usageHeaders: h.UsageHeaders}
	for _, step := range []func() error{
		func() error { return h.compileCharges(ctx, m) },
		func() error { return h.compileChargeHeader(m) },
		func() error { return h.compileChargeReport(m) },
		func() error { return h.compileFlights(m) },
		func() error { return h.compileRoutes(ctx, m) },
		func() error { return checkUsageHeaders(h.UsageHeaders) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if len(h.app.meterPlans) > 0 || len(m.charges) > 0 || len(m.flights) > 0 || len(m.routes) > 0 || m.usageHeaders == "on" {
		h.meter = m
	}
	m.same = (len(m.routes) == 0 || m.routes[0].match == nil) && (len(m.charges) == 0 || m.charges[0].match == nil)
	if m.same && len(m.routes) > 0 {
		m.route = &m.routes[0]
	}
	if m.same && len(m.charges) > 0 {
		m.price = m.charges[0].price
	}
	m.light = len(m.charges) == 0 && m.header == "" && len(m.flights) == 0 && m.usageHeaders != "on"
	return nil
}

func (h *Handler) compileCharges(ctx caddy.Context, m *meter) error {
	if len(h.Charges) > maxRules {
		return fmt.Errorf("a gate has at most %d charges", maxRules)
	}
	if len(h.Charges) > 0 && !h.app.hasCredits() {
		return errNoCredits
	}
	for i, c := range h.Charges {
		if c == nil {
			return fmt.Errorf("charge %d is null", i+1)
		}
		if n := len(m.charges); n > 0 && m.charges[n-1].match == nil {
			return neverAsked("charge")
		}
		// Another spelling of a path must not have another price.
		h.gate.NormalForm = h.gate.NormalForm || len(c.MatchRaw) > 0
		match, err := loadMatch(ctx, c, "MatchRaw", c.MatchRaw)
		if err != nil {
			return fmt.Errorf("charge %d: %w", i+1, err)
		}
		m.charges = append(m.charges, chargeRule{match, c.Credits})
	}
	var err error
	m.status, err = chargeStatus(h.ChargeStatus)
	return err
}

// neverAsked says that a rule stands after one that is about all requests:
// nothing would ever ask it.
func neverAsked(word string) error {
	return fmt.Errorf("%s: the one before it is about all requests, and the first that matches decides; put that one last", word)
}

var errNoCredits = errors.New("charge: no plan has credits to charge: add `credits 1000/month` to a plan")

// hasCredits reports whether any plan has credits.
func (a *App) hasCredits() bool {
	for _, p := range a.Plans {
		if p != nil && p.Credits != nil {
			return true
		}
	}
	return false
}

var errNoCharge = errors.New("charge_header needs a charge, which is reserved until the header tells the cost: charge 1")

func (h *Handler) compileChargeHeader(m *meter) error {
	if h.ChargeHeader == "" {
		return nil
	}
	if len(h.Charges) == 0 {
		return errNoCharge
	}
	m.header = textproto.CanonicalMIMEHeaderKey(h.ChargeHeader)
	return checkChargeHeader(h.ChargeHeader)
}

// checkChargeHeader says why a field cannot tell the cost of a request, or
// returns nil. It is taken out of the answer, and may come as a trailer.
func checkChargeHeader(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("charge_header %q: not the name of a header", name)
	}
	switch canonical := textproto.CanonicalMIMEHeaderKey(name); {
	case canonical == "Upgrade", canonical == "Set-Cookie", canonical == "Location", !httpguts.ValidTrailerHeader(canonical):
		return fmt.Errorf("charge_header %s: HTTP needs this header itself; take one of your own, such as X-Credits-Cost", canonical)
	case canonical == "X-Request-Id", canonical == "Retry-After", strings.HasPrefix(canonical, "X-Usage-"),
		strings.HasPrefix(canonical, "X-Ratelimit-"), strings.HasPrefix(canonical, "Ratelimit"):
		return fmt.Errorf("charge_header %s: clients get this header; take one of your own, such as X-Credits-Cost", canonical)
	}
	return nil
}

// chargeStatus returns which answers are charged, by the first digit of their
// status.
func chargeStatus(classes []string) (charged [6]bool, err error) {
	if len(classes) == 0 {
		classes = defaultChargeStatus
	}
	for _, c := range classes {
		if len(c) != 3 || c[0] < '1' || c[0] > '5' || c[1:] != "xx" {
			return charged, fmt.Errorf("charge_status %q: want 1xx, 2xx, 3xx, 4xx or 5xx", c)
		}
		class := &charged[c[0]-'0']
		if *class {
			return charged, fmt.Errorf("charge_status %s is listed twice", c)
		}
		*class = true
	}
	return charged, nil
}

func (h *Handler) compileFlights(m *meter) error {
	for i, c := range h.Concurrent {
		if c == nil {
			return fmt.Errorf("concurrent %d is null", i+1)
		}
		rule, err := c.compile()
		if err != nil {
			return err
		}
		for _, before := range m.flights {
			if before.tenant == rule.tenant {
				return fmt.Errorf("concurrent is given twice per %s", rule)
			}
		}
		m.flights = append(m.flights, rule)
	}
	return nil
}

func (h *Handler) compileRoutes(ctx caddy.Context, m *meter) error {
	if len(h.Routes) > maxRules {
		return fmt.Errorf("a gate has at most %d routes", maxRules)
	}
	for i, r := range h.Routes {
		if r == nil {
			return fmt.Errorf("route %d is null", i+1)
		}
		if n := len(m.routes); n > 0 && m.routes[n-1].match == nil {
			return neverAsked("route")
		}
		if err := checkRouteName(r.Name); err != nil {
			return fmt.Errorf("route %d: %w", i+1, err)
		}
		match, err := loadMatch(ctx, r, "MatchRaw", r.MatchRaw)
		if err != nil {
			return fmt.Errorf("route %d: %w", i+1, err)
		}
		m.routes = append(m.routes, routeRule{match, r.Name})
	}
	return nil
}

func checkRouteName(name string) error {
	if access.CheckTenantID(name) != nil {
		return fmt.Errorf("route name %q: want 1 to %d letters, digits, '_', '-' or '.', starting with a letter or digit", name, access.MaxTenantID)
	}
	return nil
}

func checkUsageHeaders(s string) error {
	if s != "" && s != "on" && s != "off" {
		return fmt.Errorf("usage_headers %q: want on or off", s)
	}
	return nil
}
