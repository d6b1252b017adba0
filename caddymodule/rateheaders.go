package caddymodule

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

// Bounds of a configuration. How many limits may be about one request is
// gate.MaxLimits.
const (
	maxPlanRates  = 4
	maxGateLimits = 64
	maxPlanKeys   = 1_000_000
)

// firstClass is above the classes that package gate uses itself.
const firstClass = 1 << 16

// nameLimit returns what the buckets of a named limit are told apart by. One
// bucket has one rate at a time, so a name stands for one rate.
func (a *App) nameLimit(name string, per gate.Per, rate access.Rate) ([]byte, error) {
	id := "name " + per.String() + " " + name
	if other, ok := a.named[id]; ok && other != rate {
		return nil, fmt.Errorf("name %q is used for %s and for %s: give one of them another name", name, other, rate)
	}
	if a.named == nil {
		a.named = make(map[string]access.Rate)
	}
	a.named[id] = rate
	return []byte(id), nil
}

// limitClass tells the buckets of a limit from those of others.
func limitClass(per string, match []byte) uint64 {
	h := sha256.New()
	h.Write([]byte(per))
	h.Write([]byte{0})
	h.Write(match)
	return binary.BigEndian.Uint64(h.Sum(nil)) | firstClass
}

// checkPolicyName says what is wrong with the name of a limit, or nil: it goes
// into a quoted string (RFC 9651, section 3.3.3).
func checkPolicyName(s string) error {
	if len(s) > 40 {
		return fmt.Errorf("name %q: want at most 40 characters", s)
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return fmt.Errorf("name %q: want printable ASCII without quotes and backslashes", s)
		}
	}
	return nil
}

// rateHeaders says which headers tell clients of their limits.
type rateHeaders struct {
	x, draft bool
	reset    string      // the form of X-RateLimit-Reset: epoch, seconds, iso or off
	limits   *limitTexts // nil without x
}

// limitTexts keeps the digits of limits, as most requests have one of a few. It
// is safe for concurrent use.
type limitTexts struct{ of [16]atomic.Pointer[limitText] }

type limitText struct {
	limit int64
	text  string
}

// text returns the digits of a limit for x: those kept, which are of the first
// limit of each place, or new ones.
func (t *limitTexts) text(limit int64, x *exchange) string {
	place := &t.of[uint64(limit)*0x9e3779b97f4a7c15>>(64-4)]
	p := place.Load()
	if p == nil {
		p = &limitText{limit, strconv.FormatInt(limit, 10)}
		place.CompareAndSwap(nil, p)
	}
	if p.limit != limit {
		return x.digits(limit)
	}
	return p.text
}

func parseRateHeaders(s string) (rateHeaders, error) {
	switch s {
	case "", "x":
		return rateHeaders{x: true, limits: new(limitTexts)}, nil
	case "draft":
		return rateHeaders{draft: true}, nil
	case "both":
		return rateHeaders{x: true, draft: true, limits: new(limitTexts)}, nil
	case "off":
		return rateHeaders{}, nil
	}
	return rateHeaders{}, fmt.Errorf("rate_headers %q: want x, draft, both or off", s)
}

// draftFields are the fields of draft-ietf-httpapi-ratelimit-headers-11.
type draftFields struct{ policy, state []string }

// draftFields returns the fields for the limits as they were decided on, or nil
// if they are not sent.
func (rh rateHeaders) draftFields(e *engine.Engine, c *gate.Call, asks *gate.Asks) *draftFields {
	if !rh.draft || !c.Limited {
		return nil
	}
	var states [gate.MaxLimits]limit.State
	list := asks.List()
	st := e.Limiter.States(c.Started, list, states[:0])
	return &draftFields{
		policy: []string{string(limit.FormatPolicy(nil, list))},
		state:  []string{string(limit.FormatState(nil, list, st))},
	}
}

// set writes the headers on a refusal.
func (rh rateHeaders) set(e *engine.Engine, h http.Header, c *gate.Call, asks *gate.Asks) {
	rh.setInline(&exchange{Call: *c, engine: e, draft: rh.draftFields(e, c, asks)}, h)
}

// setInline writes the headers of an exchange. Whatever the upstream said of
// the same names is gone.
func (rh rateHeaders) setInline(x *exchange, h http.Header) {
	if rh.x {
		res := &x.Result
		h["X-Ratelimit-Limit"] = x.value(rh.limits.text(res.Limit, x))
		h["X-Ratelimit-Remaining"] = x.value(x.digits(res.Remaining))
		rh.setReset(x, h)
	}
	if x.draft != nil {
		h["Ratelimit-Policy"], h["Ratelimit"] = x.draft.policy, x.draft.state
	}
}

// setReset tells when the limit is whole again.
func (rh rateHeaders) setReset(x *exchange, h http.Header) {
	switch rh.reset {
	case "off":
		delete(h, "X-Ratelimit-Reset")
		return
	case "seconds":
		h["X-Ratelimit-Reset"] = x.value(x.digits(int64((x.Result.Reset + time.Second - 1) / time.Second)))
		return
	}
	at := x.engine.Wall(x.Started).Add(x.Result.Reset + time.Second - 1)
	if rh.reset == "iso" {
		h["X-Ratelimit-Reset"] = x.value(at.UTC().Truncate(time.Second).Format(time.RFC3339))
		return
	}
	h["X-Ratelimit-Reset"] = x.value(x.digits(at.Unix()))
}

// setEnd tells of a secret that ends: by rotation (RFC 9745) or by its expiry
// (RFC 8594).
func setEnd(h http.Header, c *gate.Call) {
	if c.Deprecated != 0 {
		h["Deprecation"] = []string{"@" + strconv.FormatInt(c.Deprecated, 10)}
	}
	if c.Sunset != 0 {
		h["Sunset"] = []string{time.Unix(c.Sunset, 0).UTC().Format(http.TimeFormat)}
	}
}

// digits formats n in the exchange's own memory while that lasts.
func (x *exchange) digits(n int64) string {
	if int(x.nbuf)+20 > len(x.buf) {
		return strconv.FormatInt(n, 10)
	}
	return x.own(strconv.AppendInt(x.buf[x.nbuf:x.nbuf], n, 10))
}

// keyID formats the id of the key, likewise.
func (x *exchange) keyID() string {
	if int(x.nbuf)+20 > len(x.buf) {
		return x.id.String()
	}
	return x.own(x.id.AppendTo(x.buf[x.nbuf:x.nbuf]))
}

// own takes b, which was appended at nbuf, as a string. Nothing writes there
// again.
func (x *exchange) own(b []byte) string {
	x.nbuf += uint8(len(b))
	return unsafe.String(unsafe.SliceData(b), len(b))
}
