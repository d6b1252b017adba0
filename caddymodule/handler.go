package caddymodule

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler is the gate in front of an API: it lets in requests with a good key,
// within their limits, and tells the API behind whose they are.
type Handler struct {
	// Where a key may stand, in order: `bearer`, `header:<Name>`, `basic`,
	// `query:<name>`. Default: `bearer` and `header:X-API-Key`.
	Sources []string `json:"sources,omitempty"`

	// Let requests without a credential in, as nobody's. A wrong one is still
	// refused. Default: false.
	Optional bool `json:"optional,omitempty"`

	// Requests that need no key. A key they carry is not looked at; it and all
	// identity headers are removed. Default: none.
	PublicRaw caddyhttp.RawMatcherSets `json:"public,omitempty" caddy:"namespace=http.matchers"`

	// Which permissions requests need. The first rule that is about a request
	// decides; while there are rules, a request that none is about is refused.
	// Public and anonymous requests are not asked. Default: no rules, and a key
	// needs no permission.
	//
	// A gate with any rule of Permits or Guards, with a matcher in PublicRaw,
	// Charges or BYOK, or with a BYOK.From that is no header, refuses request
	// targets that are not in normal form with 400: empty and dot segments,
	// encoded slashes, backslashes, dots, percent signs and NUL, parameters after
	// ';' and backslashes. Rules see the decoded path; the API gets the target as
	// it came.
	Permits []*Permit `json:"permits,omitempty"`

	// Values of the request that must be the id of the key's tenant. Default:
	// none.
	Guards []*Guard `json:"guards,omitempty"`

	// How refusals are written: a dialect of the app or a preset. Default: the
	// app's default.
	Dialect string `json:"dialect,omitempty"`

	// Rate limits besides the key's own and its plan's. All that match hold; with
	// the plan's rates they may be at most 8 for any one request, which is refused
	// with 503 otherwise. Default: none.
	Limits []*Limit `json:"limits,omitempty"`

	// What requests cost. The first that matches decides. Default: nothing.
	Charges []*Charge `json:"charges,omitempty"`

	// The response header or trailer in which the API tells the final cost in
	// credits; clients do not get it. Default: none, and the charge is final.
	ChargeHeader string `json:"charge_header,omitempty"`

	// The request header in which the API gets a capability for the request: POST
	// {"credits": n} to keytoll_api charges, below it, tells what it cost so far.
	// Default: none.
	ChargeReport string `json:"charge_report,omitempty"`

	// Classes of answers that are charged, `1xx` to `5xx`. Default: all but `5xx`.
	ChargeStatus []string `json:"charge_status,omitempty"`

	// Requests at one time, of each key and of each tenant. Default: no bound.
	Concurrent []*Concurrent `json:"concurrent,omitempty"`

	// Names of requests in usage. The first that matches decides. Default: none.
	Routes []*Route `json:"routes,omitempty"`

	// X-Usage-Current, -Limit and -Remaining, and X-Request-Id, on answers to
	// requests with a key: `on` or `off`. Default: on if the key's plan has credits.
	UsageHeaders string `json:"usage_headers,omitempty"`

	// Callers' own keys for providers. Default: none may be brought, and headers
	// with such keys pass as they are.
	BYOK *BYOK `json:"byok,omitempty"`

	// Headers set on requests to the API. Client copies are removed, in every
	// spelling. X-Tenant-Id and X-Key-Id are set unless Without names them.
	Inject []Injection `json:"inject,omitempty"`

	// Default headers that are not set; client copies are removed all the same.
	Without []string `json:"without,omitempty"`

	// Leave credentials in the request. Default: false.
	KeepCredential bool `json:"keep_credential,omitempty"`

	// Protocols a client may upgrade to, or `off` alone. Default: `websocket`.
	Upgrades []string `json:"upgrades,omitempty"`

	// Which rate-limit headers clients get: `x` for X-RateLimit-*, `draft` for
	// RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-11),
	// `both` or `off`. Default: `x`.
	RateHeaders string `json:"rate_headers,omitempty"`

	// Who writes the answer to a refused request: `inline` is this handler,
	// `caddy` the site's `handle_errors`. Default: `inline`.
	Errors string `json:"errors,omitempty"`

	// Accept keys over cleartext http from other machines. Default: false.
	AllowHTTP bool `json:"allow_http,omitempty"`

	app     *App
	logger  *zap.Logger
	gate    *gate.Gate
	cleaner *gate.Cleaner
	meter   *meter // nil: nothing is counted
	byok    *byok  // nil: no provider keys
	shadow  shadow

	observer    *gate.Gate // of the rules that are observed; nil for none
	flightClass uint64     // of the gate's own bounds of requests at one time
	answers     [access.NumReasons]answer
	speech      *dialect.Compiled
	normal      bool // rules of PublicRaw look at requests
	inject      []injector
	headers     rateHeaders
	access      atomic.Uint32 // see logged
	brief       bool          // requests are short, and may revoke their own key
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keytoll", New: func() caddy.Module { return new(Handler) }}
}

// Provision checks and compiles the rules.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	mod, err := ctx.App("keytoll")
	if err != nil {
		return fmt.Errorf("getting keytoll app: %w", err)
	}
	h.app = mod.(*App)
	h.gate = &gate.Gate{
		Keys: h.app.keys, Optional: h.Optional, AllowHTTP: h.AllowHTTP,
		Plans: h.app.plans, DefaultPlan: h.app.plans[h.app.DefaultPlan], Throttle: h.app.throttle,
		Client: client,
	}
	if h.app.Learn != nil {
		h.gate.Learn = h.app.learnKey
	}
	if h.speech, err = h.app.dialect(h.Dialect); err != nil {
		return err
	}
	if h.headers, err = parseRateHeaders(cmp.Or(h.RateHeaders, h.speech.RateHeaders())); err != nil {
		return err
	}
	h.headers.reset = h.speech.Reset()
	if notice := h.app.KeyPolicy.notice(); len(notice) > 0 {
		h.gate.Notice = notice[0]
	}
	for _, step := range []func(caddy.Context) error{
		h.provisionSources, h.provisionPublic, h.provisionPermits, h.provisionLimits, h.provisionMeter, h.provisionObserver, h.provisionBYOK, h.provisionInject, h.provisionAnswers,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) provisionSources(caddy.Context) error {
	if len(h.Sources) == 0 {
		h.Sources = []string{"bearer", "header:X-API-Key"}
	}
	var headers, query []string
	for i, s := range h.Sources {
		src, err := gate.ParseSource(s)
		if err != nil {
			return err
		}
		for _, before := range h.gate.Sources {
			if before == src {
				return fmt.Errorf("source %s is listed twice (the second is number %d)", s, i+1)
			}
		}
		h.gate.Sources = append(h.gate.Sources, src)
		switch src.Kind {
		case gate.Header:
			headers = append(headers, src.Name)
		case gate.Query:
			query = append(query, src.Name)
		}
	}
	registerRedaction(headers, query, h.app.keys)
	return nil
}

func (h *Handler) provisionPublic(ctx caddy.Context) error {
	if len(h.PublicRaw) == 0 {
		return nil
	}
	for _, set := range h.PublicRaw {
		h.normal = h.normal || len(set) > 0
	}
	match, err := loadMatch(ctx, h, "PublicRaw", h.PublicRaw)
	if err != nil {
		return fmt.Errorf("public: %w", err)
	}
	h.gate.Public = []gate.Match{match}
	return nil
}

// loadMatch compiles matcher sets; no sets match everything. Caddy empties the
// raw sets as it loads them.
func loadMatch(ctx caddy.Context, owner any, field string, raw caddyhttp.RawMatcherSets) (gate.Match, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	mods, err := ctx.LoadModule(owner, field)
	if err != nil {
		return nil, err
	}
	var sets caddyhttp.MatcherSets
	if err := sets.FromInterface(mods); err != nil {
		return nil, err
	}
	return sets.AnyMatchWithError, nil
}

// ServeHTTP lets the request through or answers it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	e := h.app.running(r.Context())
	if e == nil {
		return h.refuse(w, r, &gate.Call{Reason: access.Unavailable}, nil, nil)
	}
	var c gate.Call
	var asks gate.Asks
	c.Started = e.Limiter.Now()
	c.Secure = secure(r)
	h.gate.Decide(&e.State, r, &c, &asks)
	var own *brought
	if h.byok != nil && c.Reason.LetsIn() {
		var reason access.Reason
		if own, reason = h.bring(e, r, &c); reason != access.Allowed {
			c.Reason = reason
		}
	}
	var x *exchange
	if h.meter != nil && c.Record != nil {
		x = h.charge(e, r, &c, own)
	}
	n := e.Counts.Requests[c.Reason].Add(1)
	if n&63 == 0 {
		e.Counts.Decisions.Observe(time.Duration(e.Limiter.Now() - c.Started))
	}
	if !c.Reason.LetsIn() {
		e.Refused(&c)
		return h.refuse(w, r, &c, &asks, x)
	}
	e.Admitted(h.gate, r, &c)
	return h.forward(e, w, r, &c, &asks, x, own, next)
}

// secure tells whether the request came over a line nobody else reads.
func secure(r *http.Request) bool {
	if proto := r.Header["X-Forwarded-Proto"]; len(proto) > 0 {
		if trusted, _ := vars(r)[caddyhttp.TrustedProxyVarKey].(bool); trusted {
			// A proxy that is trusted knows how the client came to it.
			return allHTTPS(proto)
		}
	}
	return r.TLS != nil || local(r.RemoteAddr)
}

// client returns the address of a request's client, as Caddy knows it.
func client(r *http.Request) (addr netip.Addr) {
	if ip, ok := vars(r)[caddyhttp.ClientIPVarKey].(string); ok {
		addr, _ = netip.ParseAddr(ip)
	}
	return addr
}

func vars(r *http.Request) map[string]any {
	v, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	return v
}

// local reports whether a remote address is loopback or a unix socket.
func local(remote string) bool {
	if remote == "" || remote == "@" || remote[0] == '/' || remote[0] == '@' {
		return true
	}
	if strings.HasPrefix(remote, "127.") || strings.HasPrefix(remote, "[::1]:") {
		return true
	}
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func allHTTPS(values []string) bool {
	for _, v := range values {
		for p := range strings.SplitSeq(v, ",") {
			if !strings.EqualFold(strings.Trim(p, " \t"), "https") {
				return false
			}
		}
	}
	return true
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
