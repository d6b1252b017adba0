package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
)

// Permit is a rule about the permission that requests need.
type Permit struct {
	// Which requests it is about. Default: all.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
	// A key needs one of these. Default: any key will do.
	Needs []string `json:"needs,omitempty"`
	// A file with the API's OpenAPI description, relative to the working
	// directory. A request needs the permission of its operation; one that is no
	// operation is refused. It stands without Needs. If the configuration has no
	// permissions, those of the operations are the ones there are.
	OpenAPI string `json:"openapi,omitempty"`
	// The path below which the operations are. Default: the paths of the
	// description's servers.
	Base string `json:"base,omitempty"`
	// Count what would have been refused and refuse nothing. Rules that are
	// enforced do not see this one. Default: false.
	Observe bool `json:"observe,omitempty"`
}

// Guard is a value of the request that must be the id of the key's tenant.
type Guard struct {
	// Which requests it is about. Default: all.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
	// One placeholder, such as {http.request.uri.path.1}. What it stands for is
	// compared as it is; it is never expanded again. An empty value is no
	// tenant's.
	Value string `json:"value"`
}

// maxRules bounds the permits of a gate, and its guards.
const maxRules = 1000

// provisionPermits compiles permits and guards.
func (h *Handler) provisionPermits(ctx caddy.Context) error {
	if len(h.Permits) > maxRules || len(h.Guards) > maxRules {
		return fmt.Errorf("a gate has at most %d permits and as many guards", maxRules)
	}
	for i, p := range h.Permits {
		if p == nil {
			return fmt.Errorf("permit %d is null", i+1)
		}
		rule, err := h.permit(ctx, p)
		if err != nil {
			return fmt.Errorf("permit %d: %w", i+1, err)
		}
		h.shadow.addPermit(rule, p.Observe)
		if !p.Observe {
			h.gate.Permits = append(h.gate.Permits, rule)
		}
	}
	h.shadow.endPermits()
	for i, u := range h.Guards {
		if u == nil {
			return fmt.Errorf("guard %d is null", i+1)
		}
		rule, err := guard(ctx, u)
		if err != nil {
			return fmt.Errorf("guard %d: %w", i+1, err)
		}
		h.gate.Guards = append(h.gate.Guards, rule)
	}
	h.gate.Permissions = h.app.permissions
	h.gate.NormalForm = h.normal || len(h.gate.Permits) > 0 || len(h.Guards) > 0
	return nil
}

func (h *Handler) permit(ctx caddy.Context, p *Permit) (gate.Permit, error) {
	match, err := loadMatch(ctx, p, "MatchRaw", p.MatchRaw)
	if err != nil {
		return gate.Permit{}, err
	}
	if p.OpenAPI == "" {
		if p.Base != "" {
			return gate.Permit{}, errors.New("base stands with openapi alone")
		}
		if err := checkGranted(h.app.permissions, p.Needs); err != nil {
			return gate.Permit{}, err
		}
		return gate.Permit{Match: match, Needs: p.Needs}, nil
	}
	if len(p.Needs) > 0 {
		return gate.Permit{}, errors.New("openapi says which permissions are needed: give it or needs")
	}
	lookup, err := h.operations(p.OpenAPI, p.Base)
	return gate.Permit{Match: match, Lookup: lookup}, err
}

func guard(ctx caddy.Context, u *Guard) (gate.Guard, error) {
	if err := checkPlaceholder(u.Value); err != nil {
		return gate.Guard{}, err
	}
	match, err := loadMatch(ctx, u, "MatchRaw", u.MatchRaw)
	name := u.Value[1 : len(u.Value)-1]
	query := strings.HasPrefix(name, "http.request.uri.query")
	return gate.Guard{Match: match, Value: func(r *http.Request) string {
		if query && !plainQuery(r.URL.RawQuery) {
			return ""
		}
		repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if !ok {
			return ""
		}
		value, _ := repl.GetString(name) // the value itself: what it says is not expanded
		return value
	}}, err
}

// plainQuery reports whether everybody reads the same parameters in a query.
// Package net/url leaves out those with a ';', which some take for a separator,
// and those with a bad escape.
func plainQuery(raw string) bool {
	_, err := url.ParseQuery(raw)
	return err == nil
}

// checkPlaceholder says why a text is not one placeholder for a value of the
// request, or returns nil.
func checkPlaceholder(s string) error {
	name, ok := strings.CutPrefix(s, "{")
	name, closed := strings.CutSuffix(name, "}")
	if !ok || !closed || name == "" || strings.ContainsAny(name, "{}\\") {
		return fmt.Errorf("%q: want exactly one placeholder, such as {http.request.uri.path.1} or {http.request.header.X-Org}", s)
	}
	if !strings.HasPrefix(name, "http.") || strings.HasPrefix(name, placeholderPrefix) {
		return fmt.Errorf("{%s} is not a value of the request: want one such as {http.request.uri.path.1} or {http.request.header.X-Org}", name)
	}
	return nil
}

// checkOperation says that a permission of an operation is not configured, or
// returns nil.
func checkOperation(known *access.Permissions, operation fmt.Stringer, needs []string) error {
	for _, name := range needs {
		if !known.Known(name) {
			return fmt.Errorf("%s: %w", operation, unknownPermission(known, name))
		}
	}
	return nil
}
