package caddymodule

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// globalApp returns what the global keytoll block says, for the names that
// gates use.
func globalApp(h httpcaddyfile.Helper) (*App, error) {
	a := new(App)
	if o, ok := h.Option("keytoll").(httpcaddyfile.App); ok {
		if err := json.Unmarshal(o.Value, a); err != nil {
			return nil, h.WrapErr(err)
		}
	}
	return a, nil
}

// known returns the permissions of the configuration, without implication.
func (a *App) known() *access.Permissions {
	list := make([]access.Permission, 0, len(a.Permissions))
	for name := range a.Permissions {
		list = append(list, access.Permission{Name: name})
	}
	known, _ := access.NewPermissions(list) // checked as they were read
	return known
}

// parseGateDialect reads the name of the dialect of a gate.
func (g *Handler) parseGateDialect(h httpcaddyfile.Helper) error {
	if err := word1(h.Dispenser, &g.Dialect); err != nil {
		return err
	}
	app, err := globalApp(h)
	if err != nil {
		return err
	}
	if _, err := namedDialect(g.Dialect, app.Dialects); err != nil {
		return h.WrapErr(err)
	}
	return nil
}

// parsePermit reads a rule about permissions.
func (g *Handler) parsePermit(h httpcaddyfile.Helper) error {
	m, isMatcher, err := h.MatcherToken()
	if err != nil {
		return h.WrapErr(err)
	}
	p := new(Permit)
	if !isMatcher && h.Val() == "observe" {
		p.Observe = true
		if m, isMatcher, err = h.MatcherToken(); err != nil {
			return h.WrapErr(err)
		}
	}
	switch {
	case isMatcher:
		if len(m) > 0 {
			p.MatchRaw = caddyhttp.RawMatcherSets{m}
		}
		p.Needs = h.RemainingArgs()
	case h.Val() == "permit", h.Val() == "observe": // MatcherToken leaves an argument that is no matcher as the current token
	case h.Val() == "openapi":
		if err := p.parseOpenAPI(h); err != nil {
			return err
		}
	default:
		return h.Errf("permit %s: want a matcher first: *, /path* or @name; or openapi <file>", h.Val())
	}
	if p.OpenAPI == "" && len(p.Needs) == 0 {
		return h.Err("permit needs a matcher and permissions: permit /v1/rules* rules:read; or openapi <file>")
	}
	app, err := globalApp(h)
	if err != nil {
		return err
	}
	if err := checkGranted(app.known(), p.Needs); err != nil {
		return h.WrapErr(err)
	}
	if len(g.Permits) == maxRules {
		return h.Errf("a gate has at most %d permit rules", maxRules)
	}
	g.Permits = append(g.Permits, p)
	return nil
}

func (p *Permit) parseOpenAPI(h httpcaddyfile.Helper) error {
	args := h.RemainingArgs()
	switch {
	case len(args) == 1:
	case len(args) == 3 && args[1] == "base":
		if args[2] == "" || args[2][0] != '/' {
			return h.Errf("base %q: want a path such as /v1", args[2])
		}
		p.Base = args[2]
	default:
		return h.Err("permit openapi needs a file and may have a base: permit openapi api.yaml base /v1")
	}
	p.OpenAPI = args[0]
	return nil
}

// parseGuard reads a rule about the tenant that a request names.
func (g *Handler) parseGuard(h httpcaddyfile.Helper) error {
	m, isMatcher, err := h.MatcherToken()
	if err != nil {
		return h.WrapErr(err)
	}
	if isMatcher && !h.NextArg() || h.Val() == "tenant_guard" {
		return h.Err("tenant_guard needs a placeholder, such as {path.1} or {header.X-Org}")
	}
	u := &Guard{Value: h.Val()}
	if len(m) > 0 {
		u.MatchRaw = caddyhttp.RawMatcherSets{m}
	}
	if err := checkPlaceholder(u.Value); err != nil {
		return h.WrapErr(err)
	}
	if h.NextArg() {
		return h.Errf("tenant_guard takes one placeholder; put %q on a line of its own", h.Val())
	}
	if len(g.Guards) == maxRules {
		return h.Errf("a gate has at most %d tenant_guard rules", maxRules)
	}
	g.Guards = append(g.Guards, u)
	return nil
}
