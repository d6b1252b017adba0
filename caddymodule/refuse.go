package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// lingerFor is how long the connection of a refused request may still send its
// body.
const lingerFor = 2 * time.Second

// answer is the ready-made answer to one reason.
type answer struct {
	status    int
	body      []byte
	length    []string
	kind      []string // Content-Type
	challenge []string // WWW-Authenticate; nil for none
	dynamic   bool     // body lacks details that depend on the request
}

var (
	noStore   = []string{"no-store"}
	closeConn = []string{"close"}
	allowed   = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
	oneSecond = []string{"1"}
)

func (h *Handler) provisionAnswers(caddy.Context) error {
	switch h.Errors {
	case "", "inline", "caddy":
	default:
		return fmt.Errorf("errors %q: want inline or caddy", h.Errors)
	}
	for i := range h.answers {
		reason := access.Reason(i)
		if reason.LetsIn() {
			continue
		}
		out := h.speech.Refusal(reason)
		h.answers[i] = answer{
			status: out.Status, body: out.Body, length: []string{strconv.Itoa(len(out.Body))},
			kind: []string{out.ContentType}, challenge: h.challenge(reason.Answer().Challenge), dynamic: out.Dynamic,
		}
	}
	return nil
}

const insufficient = `, error="insufficient_scope"`

// scoped returns a challenge with the permissions that a request needs one of
// (RFC 6750, section 3).
func scoped(challenge, needed []string) []string {
	if len(needed) == 0 {
		return challenge
	}
	out := slices.Clone(challenge)
	for i, c := range out {
		if strings.HasSuffix(c, insufficient) {
			out[i] = c + `, scope="` + strings.Join(needed, " ") + `"`
		}
	}
	return out
}

// challenge names every scheme the gate accepts (RFC 9110, section 11.6.1).
func (h *Handler) challenge(c access.Challenge) []string {
	if c == access.ChallengeNone {
		return nil
	}
	realm := `realm="` + h.speech.Realm() + `"`
	bearer := "Bearer " + realm
	switch c {
	case access.ChallengeInvalidRequest:
		bearer += `, error="invalid_request"`
	case access.ChallengeInvalidToken:
		bearer += `, error="invalid_token"`
	case access.ChallengeScope:
		bearer += insufficient
	}
	out := []string{bearer}
	for _, s := range h.gate.Sources {
		if s.Kind == gate.Basic {
			out = append(out, "Basic "+realm+`, charset="UTF-8"`)
		}
	}
	return out
}

// refuse answers a request that is not let in.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, c *gate.Call, asks *gate.Asks, x *exchange) error {
	if h.logged(r) || h.Errors == "caddy" {
		h.describe(r, *c)
	}
	if c.Reason == access.RateLimited || c.Throttled {
		h.app.throttleEvent(c, h.gate.Address(r, c))
	}
	if ce := h.logger.Check(h.refusalLevel(c.Reason), "refused"); ce != nil {
		ce.Write(h.refusalFields(r, c)...)
	}
	releaseBody(w, r)
	header := w.Header()
	h.refusalHeaders(header, c)
	if c.Limited { // also where something else refuses: the limits have counted the request
		h.headers.set(h.app.engine.Load(), header, c, asks)
	}
	if x != nil {
		if !deadKey(c.Reason) {
			repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			x.bill.identify(r, repl)
			x.bill.headers(header, false)
		}
		x.of(h, x.engine, c)
		end := x.engine.Limiter.Now()
		x.count(rollup.Refused, end, &rollup.Request{Numbers: [...]int64{rollup.Micros: int64(x.took(end) / time.Microsecond)}})
	}
	if h.Errors == "caddy" {
		return caddyhttp.HandlerError{StatusCode: h.answers[c.Reason].status, Err: errors.New(c.Reason.Answer().Code)}
	}
	h.writeAnswer(w, r, c)
	return nil
}

// deadKey reports whether a key is refused whatever the request: who has it is
// not told what its tenant has left.
func deadKey(reason access.Reason) bool {
	switch reason {
	case access.Revoked, access.Disabled, access.Suspended, access.Expired, access.AddressNotAllowed:
		return true
	}
	return false
}

// refusalLevel is the level a refusal is logged at. A full disk refuses every
// request of a tenant: one of them in a minute is an error in the log.
func (h *Handler) refusalLevel(reason access.Reason) zapcore.Level {
	switch {
	case reason == access.Throttled:
		return zap.InfoLevel
	case reason == access.Unavailable && h.app.unavailable.turn():
		return zap.ErrorLevel
	}
	return zap.DebugLevel
}

func (h *Handler) refusalFields(r *http.Request, c *gate.Call) []zap.Field {
	fields := []zap.Field{zap.Stringer("reason", c.Reason), zap.Stringer("client_ip", h.gate.Address(r, c))}
	if c.Record != nil {
		fields = append(fields, zap.Stringer("key", c.Record.ID))
	}
	return fields
}

// refusalHeaders are those that an error page of the site keeps as well.
func (h *Handler) refusalHeaders(header http.Header, c *gate.Call) {
	a := &h.answers[c.Reason]
	header["Cache-Control"] = noStore
	if a.challenge != nil {
		header["Www-Authenticate"] = a.challenge
	}
	if c.Sunset != 0 {
		setEnd(header, c)
	}
	switch c.Reason {
	case access.Forbidden:
		header["Www-Authenticate"] = scoped(a.challenge, c.Needed)
	case access.MethodNotAllowed:
		header["Allow"] = allowed
	case access.Unavailable, access.UpstreamBusy, access.ConcurrencyLimited:
		header["Retry-After"] = oneSecond
	case access.Throttled, access.QuotaExceeded:
		header["Retry-After"] = []string{strconv.FormatInt(wholeSeconds(c.Retry), 10)}
	case access.RateLimited:
		header["Retry-After"] = []string{strconv.FormatInt(wholeSeconds(c.Result.Retry), 10)}
	}
}

// writeAnswer writes status and body. A HEAD gets the headers alone.
func (h *Handler) writeAnswer(w http.ResponseWriter, r *http.Request, c *gate.Call) {
	a := &h.answers[c.Reason]
	body, length := a.body, a.length
	if a.dynamic {
		body = h.speech.RefusalBody(c.Reason, h.details(c))
		length = []string{strconv.Itoa(len(body))}
	}
	header := w.Header()
	header["Content-Type"] = a.kind
	header["Content-Length"] = length
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// details are what a body may tell of the request.
func (h *Handler) details(c *gate.Call) dialect.Values {
	v := dialect.Values{Header: h.keyHeader(), Permission: strings.Join(c.Needed, " "),
		CreditsNeeded: c.CreditsNeeded, CreditsAvailable: c.CreditsAvailable}
	if c.Record != nil {
		v.KeyID = c.Record.ID.String()
		if c.Reason == access.Expired {
			v.ExpiredAt = time.Unix(c.Record.Expires(), 0).UTC().Format(time.RFC3339)
		}
	}
	switch c.Reason {
	case access.Throttled, access.QuotaExceeded:
		v.RetryAfter = wholeSeconds(c.Retry)
	case access.RateLimited:
		v.RetryAfter, v.Limit = wholeSeconds(c.Result.Retry), c.Result.Limit
	case access.Unavailable, access.UpstreamBusy, access.ConcurrencyLimited:
		v.RetryAfter = 1
	}
	return v
}

// keyHeader returns the header in which a key is wanted: that of the first
// source that is one.
func (h *Handler) keyHeader() string {
	for _, s := range h.gate.Sources {
		switch s.Kind {
		case gate.Bearer, gate.Basic:
			return "Authorization"
		case gate.Header:
			return s.Name
		}
	}
	return ""
}

// releaseBody keeps a client from holding the connection with a body nobody
// will read.
func releaseBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return
	}
	if r.ProtoMajor == 1 {
		w.Header()["Connection"] = closeConn
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerFor))
	}
}

// wholeSeconds rounds up to whole seconds, at least one.
func wholeSeconds(d time.Duration) int64 {
	return max(1, int64((d+time.Second-1)/time.Second))
}

// upstreamReason tells which failure of the upstream an error is, if it is one
// that the gate answers itself.
func upstreamReason(err error) (access.Reason, bool) {
	var he caddyhttp.HandlerError
	if !errors.As(err, &he) {
		return 0, false
	}
	switch he.StatusCode {
	case http.StatusBadGateway:
		return access.UpstreamFailed, true
	case http.StatusServiceUnavailable:
		return access.UpstreamBusy, true
	case http.StatusGatewayTimeout:
		return access.UpstreamTimeout, true
	}
	return 0, false
}
