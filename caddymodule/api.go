package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func init() {
	caddy.RegisterModule(new(API))
}

// API lets the holder of a key manage the keys of his own tenant, in the words
// of the product's own documentation. It is a gate of its own: a request needs
// a good key, within its limits.
type API struct {
	// What is served: `keys`, `me` for what a key can learn of itself, `usage` for
	// what its tenant used and has left, `provider_keys` for its tenant's keys with
	// providers, `leaks` for the messages of secret-scanning programmes, or
	// `charges` for what the API reports of requests under way. The last two need
	// no key.
	Kind string `json:"kind"`

	// The path it is served at, without a slash at the end. Requests that are not
	// below it go on to the next handler.
	Base string `json:"base"`

	// A key needs one of these permissions. Default: none, if the app has no
	// permissions configured; else all but me must have some for each action.
	Require []string `json:"require,omitempty"`

	// A key needs one of these for an action, in place of Require: of keys
	// `create`, `list`, `get`, `update`, `rotate` or `revoke`, of provider_keys
	// `store`, `list`, `verify` or `delete`.
	RequireFor map[string][]string `json:"require_for,omitempty"`

	// Where keys stand, limits and the like. Public, optional, permits, guards and
	// injected headers have no meaning here. Default: as a gate has them.
	Gate *Handler `json:"gate,omitempty"`

	// The public keys of a secret-scanning programme, for leaks: PEM files by
	// identifier. Required there.
	PublicKeys map[string]string `json:"public_keys,omitempty"`

	logger *zap.Logger
	desk   http.Handler
}

// CaddyModule returns the Caddy module information.
func (*API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keytoll_api", New: func() caddy.Module { return new(API) }}
}

// The kinds that need no key.
const (
	kindLeaks   = "leaks"
	kindCharges = "charges"
)

var errNoStored = errors.New("keytoll_api provider_keys: " + noProviders)

var apiKinds = []string{mgmt.DeskKeys, mgmt.DeskMe, mgmt.DeskUsage, mgmt.DeskProviderKeys, kindLeaks, kindCharges}

// apiActions are what a key can be required to have a permission for.
var apiActions = map[string][]string{
	mgmt.DeskKeys:         {"create", "list", "get", "update", "rotate", "revoke"},
	mgmt.DeskProviderKeys: {mgmt.ActionStore, mgmt.ActionList, mgmt.ActionVerify, mgmt.ActionDelete},
}

// checkBase says what is wrong with a base path, or nil.
func checkBase(base string) error {
	if !strings.HasPrefix(base, "/") || base == "/" || path.Clean(base) != base || strings.ContainsAny(base, "*{}?#%;\\") {
		return fmt.Errorf("base %q: want a path without a slash at its end and without wildcards, such as /v1/keys", base)
	}
	return nil
}

// Provision checks the rules and makes the handler.
func (a *API) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	if err := a.check(); err != nil {
		return err
	}
	switch a.Kind {
	case kindLeaks:
		return a.provisionLeaks(ctx)
	case kindCharges:
		return a.provisionCharges(ctx)
	}
	if a.Gate == nil {
		a.Gate = new(Handler)
	}
	a.Gate.brief = true
	if err := a.Gate.Provision(ctx); err != nil {
		return err
	}
	app := a.Gate.app
	require := a.requirements()
	if a.Kind == mgmt.DeskUsage {
		app.atStart = append(app.atStart, app.checkCounted)
	}
	if a.Kind == mgmt.DeskProviderKeys && len(app.providers) == 0 {
		return errNoStored
	}
	// A gate's API description may bring permissions, whichever handler is first.
	app.atStart = append(app.atStart, func() error { return a.checkRequirements(app.permissions, require) })
	words, err := app.dialect(a.Gate.Dialect)
	if err != nil {
		return err
	}
	a.desk = mgmt.NewDesk(mgmt.DeskOptions{
		Kind: a.Kind, Registrar: app.activeRegistrar, Dialect: words, Base: a.Base, Require: require, Params: a.queryKeys(),
		CallerFrom: callerFrom, Holds: a.holds, Use: app.lastUse, LastRefusal: app.lastRefusal,
		Account: app.account, KeyCredits: app.keyCredits, Recorder: app.recorder, Verify: app.verifyProvider,
		OnInternal: func(r *http.Request, err error) {
			a.logger.Error("management request failed", zap.String("method", r.Method), zap.String("path", app.keys.Redact(r.URL.Path)), zap.Error(err))
		},
	})
	return nil
}

func (a *API) check() error {
	if !slices.Contains(apiKinds, a.Kind) {
		return fmt.Errorf("kind %q: want %s", a.Kind, strings.Join(apiKinds, ", "))
	}
	if a.Kind == kindLeaks && (a.Gate != nil || a.Require != nil) || (a.Kind == kindLeaks) != (len(a.PublicKeys) > 0) {
		return errors.New("keytoll_api leaks needs public keys, and nothing else does: public_key <identifier> <pem file>")
	}
	if a.Kind == kindCharges && (a.Gate != nil || a.Require != nil) {
		return errors.New("keytoll_api charges takes a base alone: the capability of a request is the right to report its cost")
	}
	for action := range a.RequireFor {
		if !slices.Contains(apiActions[a.Kind], action) {
			return fmt.Errorf("require_for %q: keytoll_api %s has no such action; keys has %s, and provider_keys has %s", action, a.Kind,
				strings.Join(apiActions[mgmt.DeskKeys], ", "), strings.Join(apiActions[mgmt.DeskProviderKeys], ", "))
		}
	}
	if g := a.Gate; g != nil && (g.Optional || len(g.PublicRaw) > 0 || len(g.Permits) > 0 || len(g.Guards) > 0 || len(g.Inject) > 0) {
		return fmt.Errorf("the gate of keytoll_api %s takes sources, limits, rate_headers, allow_http and dialect alone", a.Kind)
	}
	return checkBase(a.Base)
}

// callerKey is under which a request's context holds its exchange.
type callerKey struct{}

// ServeHTTP serves what is below the base and passes on the rest.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !below(r.URL.Path, a.Base) {
		return next.ServeHTTP(w, r)
	}
	if a.Kind == kindLeaks || a.Kind == kindCharges {
		// Nobody is known yet, so nobody may take his time.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(messageWithin))
		a.desk.ServeHTTP(releasing(w, r))
		return nil
	}
	return a.Gate.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		x, ok := w.(*exchange)
		if !ok || x.Record == nil {
			return next.ServeHTTP(w, r) // a preflight request: it changes nothing and the site answers it
		}
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, x))
		if p := r.URL.Path; !strings.HasPrefix(p, a.Base) { // in other letters
			u := *r.URL
			u.Path = a.Base + p[len(a.Base):]
			r.URL = &u
		}
		a.desk.ServeHTTP(releasing(w, r))
		return nil
	}))
}

// messageWithin is how long the body of a message may take that nobody has
// checked yet.
const messageWithin = 10 * time.Second

// below reports whether a path is base or below it, in any case of letters, as
// Caddy's own path matchers have it.
func below(p, base string) bool {
	return len(p) >= len(base) && strings.EqualFold(p[:len(base)], base) && (len(p) == len(base) || p[len(base)] == '/')
}

// callerFrom tells the tenant door who asks.
func callerFrom(r *http.Request) (mgmt.Caller, bool) {
	x, ok := r.Context().Value(callerKey{}).(*exchange)
	if !ok {
		return mgmt.Caller{}, false
	}
	c := mgmt.Caller{Key: x.id, Tenant: x.tenant().ID}
	if addr := x.h.gate.Address(r, &x.Call); addr.IsValid() {
		c.Address = addr.String()
	}
	return c, true
}

// queryKeys returns the query parameters in which keys may stand.
func (a *API) queryKeys() (names []string) {
	for _, s := range a.Gate.gate.Sources {
		if s.Kind == gate.Query {
			names = append(names, s.Name)
		}
	}
	return names
}

// holds reports whether a key has one of the permissions, and notes it if not.
func (a *API) holds(c mgmt.Caller, need []string) bool {
	e := a.Gate.app.engine.Load()
	if e == nil {
		return false
	}
	rec := e.Index.ByID(c.Key)
	if rec == nil {
		return false
	}
	ok := a.Gate.gate.Holds(&e.State, rec, need)
	if !ok {
		e.Refused(&gate.Call{Record: rec, Reason: access.Forbidden, Started: e.Limiter.Now()})
	}
	return ok
}

// planOf returns the plan of a name, the default plan for "", or nil.
func (a *App) planOf(name string) *access.Plan {
	if p := a.plans[name]; p != nil {
		return p
	}
	return a.plans[a.DefaultPlan]
}

func (a *App) lastUse(id access.KeyID) access.Use {
	e := a.engine.Load()
	if e == nil {
		return access.Use{}
	}
	use, err := e.Uses.Last(context.Background(), id)
	if err != nil {
		a.logger.Error("reading the last use of a key", zap.Stringer("key", id), zap.Error(err))
	}
	return use
}

func (a *App) lastRefusal(id access.KeyID) (access.Reason, int64) {
	if e := a.engine.Load(); e != nil {
		if r, ok := e.Refusals.Last(id); ok {
			return r.Reason, r.At
		}
	}
	return 0, 0
}

// activeRegistrar returns the registrar of this configuration.
func (a *App) activeRegistrar() (*registrar.Registrar, error) {
	if reg := a.registrar.Load(); reg != nil {
		return reg, nil
	}
	return nil, &registrar.Error{Code: registrar.Unavailable, Message: "keytoll has not started yet", Hint: "try again in a moment"}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*API)(nil)
	_ caddyhttp.MiddlewareHandler = (*API)(nil)
)
