package caddymodule

import (
	"net/textproto"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("keytoll", parseGate)
	httpcaddyfile.RegisterDirectiveOrder("keytoll", httpcaddyfile.Before, "basic_auth")
}

// gateOptions are the subdirectives of the gate.
var gateOptions = []string{"key_from", "optional", "public", "permit", "tenant_guard", "dialect", "limit", "charge", "charge_header", "charge_report", "charge_status", "concurrent", "route", "usage_headers", "byok", "inject", "upgrade", "keep_credential", "rate_headers", "errors", "allow_http"}

// parseGate reads the gate. Rules see the path as rewritten: keytoll stands
// after rewrite and uri in the order of directives.
//
//	keytoll [<matcher>] {
//		key_from <source...>                  # bearer | header:<Name> | basic | query:<name>
//		optional                              # no credential: anonymous
//		public <matcher>                      # no key needed
//		permit [observe] <matcher> <permission...>   # one of them is needed
//		permit [observe] openapi <file> [base <path>]   # the one of the operation
//		tenant_guard [<matcher>] <placeholder>
//		dialect <name>
//		limit [<matcher>] <n>/<window> [burst <n>] [per key|tenant|address] [name <name>] [observe]
//		charge [<matcher>] <credits>          # first match wins; 0 is free
//		charge_header <Field>                 # final cost, in a response header or trailer
//		charge_report <Header>                # where the API gets the right to report a running cost
//		charge_status <class...>              # default: 1xx 2xx 3xx 4xx
//		concurrent <n> [per key|tenant] [observe]
//		route <matcher> <name>                # in usage; first match wins
//		usage_headers on|off                  # default: on if the key's plan has credits
//		byok [<provider...>] { … }            # callers' own keys for providers; see parseBYOK
//		inject <Header> <value>               # placeholders allowed
//		inject -<Header>                      # not this default header
//		upgrade <protocol...>                 # default: websocket; off for none
//		keep_credential                       # do not strip
//		rate_headers x|draft|both|off         # default: x
//		errors inline|caddy                   # default: inline
//		allow_http                            # accept keys over cleartext
//	}
func parseGate(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next()
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	g := new(Handler)
	once := make(map[string]bool)
	var header, report use
	for h.NextBlock(0) {
		word := h.Val()
		switch word {
		case "public", "permit", "tenant_guard", "limit", "charge", "concurrent", "route", "inject":
		default:
			if once[word] {
				return nil, h.Errf("%s is given twice", word)
			}
			once[word] = true
		}
		if word == "charge_header" {
			header = used(h.Dispenser, word)
		}
		if word == "charge_report" {
			report = used(h.Dispenser, word)
		}
		if err := g.parseOption(h, word); err != nil {
			return nil, err
		}
	}
	if g.ChargeHeader != "" && len(g.Charges) == 0 {
		return nil, at(errNoCharge, header)
	}
	if g.ChargeReport != "" && len(g.Charges) == 0 {
		return nil, at(errNoReportedCharge, report)
	}
	return g, nil
}

func (g *Handler) parseOption(h httpcaddyfile.Helper, word string) error {
	switch word {
	case "key_from":
		return g.parseSources(h)
	case "optional":
		return flag(h.Dispenser, &g.Optional)
	case "keep_credential":
		return flag(h.Dispenser, &g.KeepCredential)
	case "allow_http":
		return flag(h.Dispenser, &g.AllowHTTP)
	case "public":
		return g.parsePublic(h)
	case "permit":
		return g.parsePermit(h)
	case "tenant_guard":
		return g.parseGuard(h)
	case "dialect":
		return g.parseGateDialect(h)
	case "limit":
		return g.parseLimit(h)
	case "charge", "charge_header", "charge_report", "charge_status", "concurrent", "route", "usage_headers":
		return g.parseMeter(h, word)
	case "byok":
		return g.parseBYOK(h)
	case "inject":
		return g.parseInject(h)
	case "upgrade":
		return g.parseUpgrade(h)
	case "rate_headers":
		if err := word1(h.Dispenser, &g.RateHeaders); err != nil {
			return err
		}
		if _, err := parseRateHeaders(g.RateHeaders); err != nil {
			return h.WrapErr(err)
		}
		return nil
	case "errors":
		if err := word1(h.Dispenser, &g.Errors); err != nil {
			return err
		}
		if g.Errors != "inline" && g.Errors != "caddy" {
			return h.Errf("errors %q: want inline or caddy", g.Errors)
		}
		return nil
	}
	return unrecognized(h.Dispenser, gateOptions...)
}

func (g *Handler) parseSources(h httpcaddyfile.Helper) error {
	g.Sources = h.RemainingArgs()
	if len(g.Sources) == 0 {
		return h.Err("key_from needs a source: bearer, header:<Name>, basic or query:<name>")
	}
	for i, s := range g.Sources {
		src, err := gate.ParseSource(s)
		if err != nil {
			return h.WrapErr(err)
		}
		for _, before := range g.Sources[:i] {
			if b, _ := gate.ParseSource(before); b == src {
				return h.Errf("source %s is listed twice", s)
			}
		}
	}
	return nil
}

func (g *Handler) parsePublic(h httpcaddyfile.Helper) error {
	m, ok, err := h.MatcherToken()
	if err != nil {
		return h.WrapErr(err)
	}
	if !ok {
		return h.Err("public needs a matcher: *, /path* or @name")
	}
	if h.NextArg() {
		return h.Errf("public takes one matcher; put %q on a line of its own", h.Val())
	}
	if m == nil {
		m = caddy.ModuleMap{}
	}
	g.PublicRaw = append(g.PublicRaw, m)
	return nil
}

func (g *Handler) parseLimit(h httpcaddyfile.Helper) error {
	m, isMatcher, err := h.MatcherToken()
	if err != nil {
		return h.WrapErr(err)
	}
	if isMatcher && !h.NextArg() || h.Val() == "limit" {
		return h.Err("limit needs a rate, such as 100/1m")
	}
	l := new(Limit)
	if len(m) > 0 {
		l.MatchRaw = caddyhttp.RawMatcherSets{m}
	}
	if err := rateArgs(h.Dispenser, &l.Rate, func(word string) error {
		switch word {
		case "per":
			if _, ok := gate.ParsePer(h.Val()); !ok {
				return h.Errf("per %q: want key, tenant or address", h.Val())
			}
			l.Per = h.Val()
		case "name":
			l.Name = h.Val()
			if err := checkPolicyName(l.Name); err != nil {
				return h.WrapErr(err)
			}
		default:
			return h.Errf("unexpected %q after the rate: want burst <n>, per key|tenant|address, name <name> or observe", word)
		}
		return nil
	}, &l.Observe); err != nil {
		return err
	}
	if len(g.Limits) == maxGateLimits {
		return h.Errf("a gate has at most %d limits", maxGateLimits)
	}
	g.Limits = append(g.Limits, l)
	return nil
}

// rateArgs reads "<n>/<window> [burst <n>]" from the current token on, and
// hands other words to more with their value as the current token. The word
// observe sets a flag if one is given.
func rateArgs(d *caddyfile.Dispenser, into *Rate, more func(word string) error, observe ...*bool) error {
	rate, err := access.ParseRate(d.Val())
	if err != nil {
		return d.WrapErr(err)
	}
	for d.NextArg() {
		if len(observe) > 0 {
			if is, err := flagWord(d, "observe", observe[0]); err != nil {
				return err
			} else if is {
				continue
			}
		}
		word := d.Val()
		if !d.NextArg() {
			return d.Errf("%s needs a value", word)
		}
		if word == "burst" {
			if rate, err = rate.WithBurst(d.Val()); err != nil {
				return d.WrapErr(err)
			}
			continue
		}
		if err := more(word); err != nil {
			return err
		}
	}
	*into = Rate{Requests: rate.Requests, Window: caddy.Duration(rate.Window)}
	if rate.Burst != rate.Requests {
		into.Burst = rate.Burst
	}
	return nil
}

func (g *Handler) parseInject(h httpcaddyfile.Helper) error {
	args := h.RemainingArgs()
	switch {
	case len(args) == 1 && strings.HasPrefix(args[0], "-"):
		if err := checkWithout(args[0][1:]); err != nil {
			return h.WrapErr(err)
		}
		g.Without = append(g.Without, args[0][1:])
		return nil
	case len(args) == 2:
		in := Injection{Header: args[0], Value: args[1]}
		seen := make(map[string]bool)
		for _, before := range g.Inject {
			seen[textproto.CanonicalMIMEHeaderKey(before.Header)] = true
		}
		if err := checkInjection(in, seen); err != nil {
			return h.WrapErr(err)
		}
		g.Inject = append(g.Inject, in)
		return nil
	}
	return h.Err("inject needs a header and a value, or -<Header> to leave out a default one")
}

func (g *Handler) parseUpgrade(h httpcaddyfile.Helper) error {
	g.Upgrades = h.RemainingArgs()
	if len(g.Upgrades) == 0 {
		return h.Err("upgrade needs the names of protocols, such as websocket, or off")
	}
	if _, err := upgradeProtocols(g.Upgrades); err != nil {
		return h.WrapErr(err)
	}
	return nil
}
