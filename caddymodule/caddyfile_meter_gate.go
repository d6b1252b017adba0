package caddymodule

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// parseMeter reads an option of the gate about metering.
func (g *Handler) parseMeter(h httpcaddyfile.Helper, word string) error {
	switch word {
	case "charge":
		return g.parseCharge(h)
	case "charge_header":
		if err := word1(h.Dispenser, &g.ChargeHeader); err != nil {
			return err
		}
		if err := checkChargeHeader(g.ChargeHeader); err != nil {
			return h.WrapErr(err)
		}
	case "charge_report":
		if err := word1(h.Dispenser, &g.ChargeReport); err != nil {
			return err
		}
		if err := checkChargeReport(g.ChargeReport); err != nil {
			return h.WrapErr(err)
		}
	case "charge_status":
		if g.ChargeStatus = h.RemainingArgs(); len(g.ChargeStatus) == 0 {
			return h.Err("charge_status needs classes of answers, such as 2xx 4xx")
		}
		if _, err := chargeStatus(g.ChargeStatus); err != nil {
			return h.WrapErr(err)
		}
	case "concurrent":
		return g.parseConcurrent(h)
	case "route":
		return g.parseRoute(h)
	case "usage_headers":
		if err := word1(h.Dispenser, &g.UsageHeaders); err != nil {
			return err
		}
		if checkUsageHeaders(g.UsageHeaders) != nil || g.UsageHeaders == "" {
			return h.Errf("usage_headers %q: want on or off", g.UsageHeaders)
		}
	}
	return nil
}

// concurrent reads "concurrent <n> [per key|tenant] [observe]".
func concurrent(d *caddyfile.Dispenser) (c Concurrent, err error) {
	if !d.NextArg() {
		return c, d.Err("concurrent needs a number of requests, such as 10")
	}
	n, err := strconv.ParseUint(d.Val(), 10, 32)
	if err != nil {
		return c, d.Errf("concurrent %s: want a whole number from 1 to %d", d.Val(), maxConcurrent)
	}
	c.Requests = uint32(n)
	for d.NextArg() {
		if d.Val() != "per" {
			if err := anyFlag(d, "per key|tenant or observe", map[string]*bool{"observe": &c.Observe}); err != nil {
				return c, err
			}
			continue
		}
		if c.Per != "" {
			return c, d.Err("per is given twice")
		}
		if !d.NextArg() || d.Val() == "" {
			return c, d.Err("per needs key or tenant")
		}
		c.Per = d.Val()
	}
	if _, err := c.compile(); err != nil {
		return c, d.WrapErr(err)
	}
	return c, nil
}

// sameFlight reports whether two are about the same subject.
func (c Concurrent) sameFlight(d Concurrent) bool { return (c.Per == "tenant") == (d.Per == "tenant") }

func (g *Handler) parseConcurrent(h httpcaddyfile.Helper) error {
	c, err := concurrent(h.Dispenser)
	if err != nil {
		return err
	}
	for _, before := range g.Concurrent {
		if before.sameFlight(c) {
			return h.Errf("concurrent is given twice per %s", flightRule{tenant: c.Per == "tenant"})
		}
	}
	g.Concurrent = append(g.Concurrent, &c)
	return nil
}

func (g *Handler) parseCharge(h httpcaddyfile.Helper) error {
	m, isMatcher, err := h.MatcherToken()
	if err != nil {
		return h.WrapErr(err)
	}
	if isMatcher && !h.NextArg() || h.Val() == "charge" {
		return h.Err("charge needs an amount of credits, such as 1 or 0.25")
	}
	c := new(Charge)
	if len(m) > 0 {
		c.MatchRaw = caddyhttp.RawMatcherSets{m}
	}
	if c.Credits, err = parseCredits(h.Dispenser, "charge", h.Val()); err != nil {
		return err
	}
	if h.NextArg() {
		return h.Errf("charge takes a matcher and an amount; put %q on a line of its own", h.Val())
	}
	app, err := globalApp(h)
	if err != nil {
		return err
	}
	if !app.hasCredits() {
		return h.WrapErr(errNoCredits)
	}
	if len(g.Charges) == maxRules {
		return h.Errf("a gate has at most %d charges", maxRules)
	}
	if n := len(g.Charges); n > 0 && len(g.Charges[n-1].MatchRaw) == 0 {
		return h.WrapErr(neverAsked("charge"))
	}
	g.Charges = append(g.Charges, c)
	return nil
}

func (g *Handler) parseRoute(h httpcaddyfile.Helper) error {
	m, isMatcher, err := h.MatcherToken()
	if err != nil {
		return h.WrapErr(err)
	}
	args := h.RemainingArgs()
	if !isMatcher || len(args) != 1 {
		return h.Err("route needs a matcher and a name: route /v1/search* search")
	}
	if err := checkRouteName(args[0]); err != nil {
		return h.WrapErr(err)
	}
	if len(g.Routes) == maxRules {
		return h.Errf("a gate has at most %d routes", maxRules)
	}
	if n := len(g.Routes); n > 0 && len(g.Routes[n-1].MatchRaw) == 0 {
		return h.WrapErr(neverAsked("route"))
	}
	r := &Route{Name: args[0]}
	if len(m) > 0 {
		r.MatchRaw = caddyhttp.RawMatcherSets{m}
	}
	g.Routes = append(g.Routes, r)
	return nil
}
