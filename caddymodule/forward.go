package caddymodule

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
)

// exchange is one request that was let in: the writer of its response and what
// is known of it. It is the one allocation of an admitted request, and holds
// the header values set in both directions. It must not be pooled: those values
// are strings over its own memory.
type exchange struct {
	caddyhttp.ResponseWriterWrapper
	gate.Call
	h       *Handler
	engine  *engine.Engine
	id      access.KeyID // copies: a stream may outlive the record of a deleted key
	env     string
	tally   *tally       // nil without metering
	bill    *bill        // nil if it costs nothing and its key is told nothing
	brought *brought     // nil without provider keys
	cold    *access.Key  // read when asked for
	draft   *draftFields // nil unless they are sent
	stream  engine.Stream
	cancel  context.CancelFunc       // of the request's context, past HTTP/1
	conn    atomic.Pointer[net.Conn] // after an upgrade
	ending  sync.Mutex               // held while deadlines are set
	over    bool                     // the handler has returned; guarded by ending
	done    bool                     // the final status was written
	ended   atomic.Bool              // its key is gone: nothing more is written

	values  [inlineValues]string
	buf     [48]byte // digits and ids behind values
	nvalues uint8
	nbuf    uint8
}

// inlineValues is how many header values fit into an exchange.
const inlineValues = 8

// value returns s as a header's values, out of the exchange's own memory while
// that lasts.
func (x *exchange) value(s string) []string {
	if int(x.nvalues) == len(x.values) {
		return []string{s}
	}
	i := x.nvalues
	x.values[i] = s
	x.nvalues++
	return x.values[i : i+1 : i+1]
}

func newExchange(h *Handler, e *engine.Engine, c *gate.Call) *exchange {
	return new(exchange).of(h, e, c)
}

// of makes x, which is new, that of a request.
func (x *exchange) of(h *Handler, e *engine.Engine, c *gate.Call) *exchange {
	x.Call, x.h, x.engine = *c, h, e
	if c.Record != nil {
		x.id, x.env = c.Record.ID, e.Index.Environment(c.Record)
	}
	return x
}

// forward cleans the request, tells the upstream whose it is, and passes it on.
// x is the exchange that metering made of it, or nil.
func (h *Handler) forward(e *engine.Engine, w http.ResponseWriter, r *http.Request, c *gate.Call, asks *gate.Asks, x *exchange, own *brought, next caddyhttp.Handler) error {
	if x == nil {
		x = new(exchange)
	}
	x.of(h, e, c)
	x.ResponseWriter, x.brought = w, own
	defer x.abort() // after settle: until then the request counts as under way
	if x.tally != nil {
		defer x.settle() // also if anything below panics
		if h.observer != nil || x.bill != nil {
			x.observe(r, c)
		}
	}
	x.draft = h.headers.draftFields(e, c, asks)
	repl := x.attach(r)
	connection := h.cleaner.Cleanse(r)
	if own != nil {
		own.give(r.Header)
	}
	if x.Record != nil {
		x.identify(r)
	}
	if x.tally != nil {
		if x.bill != nil {
			x.bill.identify(r, repl)
			x.bill.watch(r, connection)
		}
		if r.ContentLength < 0 && r.Body != nil && r.Body != http.NoBody {
			r.Body = &countedBody{r.Body, x.tally}
		}
	}
	err := x.pass(r, next)
	if x.tally != nil && !x.done && x.conn.Load() == nil {
		x.unwritten(err)
	}
	if err == nil || x.done {
		return err
	}
	reason, ok := upstreamReason(err)
	if !ok {
		return err
	}
	e.Counts.Requests[reason].Add(1)
	x.Reason = reason // for error routes and the access log
	if h.Errors == "caddy" {
		return err
	}
	h.logger.Error("upstream failed",
		zap.Int("status", h.answers[reason].status),
		zap.String("method", r.Method), zap.String("host", r.Host), zap.String("path", h.app.keys.Redact(r.URL.Path)),
		zap.String("error", upstreamTrouble(err)))
	h.refusalHeaders(x.Header(), &x.Call)
	h.writeAnswer(x, r, &x.Call)
	return nil
}

// attach makes the exchange known to placeholders and the access log. It
// returns the request's replacer, or nil.
func (x *exchange) attach(r *http.Request) *caddy.Replacer {
	ctx := r.Context()
	repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if ok {
		repl.Map(x.replace)
	}
	if x.h.logged(r) {
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(zap.Object("keytoll", x))
		}
	}
	return repl
}

// describe makes a refused request known as far as its key is.
func (h *Handler) describe(r *http.Request, c gate.Call) {
	newExchange(h, h.app.engine.Load(), &c).attach(r)
}

// logged reports whether the server writes an access log. A handler belongs to
// one server, so it is found out once.
func (h *Handler) logged(r *http.Request) bool {
	known := h.access.Load()
	if known == accessUnknown {
		known = accessQuiet
		srv, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
		if ok && srv.Logs != nil {
			known = accessLogged
		}
		h.access.Store(known)
	}
	return known == accessLogged
}

// What a handler knows of its server's access log.
const (
	accessUnknown uint32 = iota
	accessQuiet
	accessLogged
)

// MarshalLogObject writes the access log's keytoll object.
func (x *exchange) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("reason", x.Reason.String())
	if x.Record == nil {
		return nil
	}
	enc.AddString("key", x.id.String())
	enc.AddString("tenant", x.tenant().ID)
	if p := x.h.gate.Plan(x.Tenant); p != nil {
		enc.AddString("plan", p.Name)
	}
	if x.env != "" {
		enc.AddString("environment", x.env)
	}
	if x.brought != nil && x.brought.bypass {
		enc.AddBool("bypassed", true)
		enc.AddString("provider", x.brought.provider())
	}
	return nil
}

// WriteHeader sets the gate's headers on the final status, so that they win
// over the upstream's. 101 is final; the other 1xx are not.
func (x *exchange) WriteHeader(status int) {
	if !x.done && (status >= 200 || status == http.StatusSwitchingProtocols) {
		x.done = true
		if x.h.byok != nil {
			x.brought.answered(x.Header(), x.h.UsageHeaders, x.bill != nil && x.bill.running.spent())
			if x.brought != nil && x.brought.bypass {
				x.engine.Counts.Bypassed.Add(1)
			}
		}
		if x.bill != nil {
			x.bill.begin(x.Header(), status)
		} else if x.tally != nil {
			x.tally.answered(status)
		}
		if x.Limited {
			x.h.headers.setInline(x, x.Header())
		}
		if x.Sunset != 0 {
			setEnd(x.Header(), &x.Call)
		}
	} else if !x.done && x.bill != nil {
		if name := x.h.meter.header; name != "" {
			delete(x.Header(), name) // an informational answer has no say
		}
		x.bill.conceal(x.Header())
	}
	x.ResponseWriter.WriteHeader(status)
}

// Write writes a part of the body, after an implicit 200.
func (x *exchange) Write(p []byte) (int, error) {
	if x.ended.Load() {
		return 0, errKeyGone
	}
	if !x.done {
		x.WriteHeader(http.StatusOK)
	}
	n, err := x.ResponseWriter.Write(p)
	if x.tally != nil {
		x.tally.written += int64(n)
	}
	return n, err
}

// ReadFrom keeps the path of sendfile open.
func (x *exchange) ReadFrom(src io.Reader) (int64, error) {
	if x.ended.Load() {
		return 0, errKeyGone
	}
	if !x.done {
		x.WriteHeader(http.StatusOK)
	}
	n, err := x.ResponseWriterWrapper.ReadFrom(src)
	if x.tally != nil {
		x.tally.written += n
	}
	return n, err
}

// FlushError sends what was written. It never buffers.
func (x *exchange) FlushError() error {
	if x.ended.Load() {
		return errKeyGone
	}
	if !x.done {
		x.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(x.ResponseWriter).Flush()
}

// Interface guards
var (
	_ http.ResponseWriter     = (*exchange)(nil)
	_ io.ReaderFrom           = (*exchange)(nil)
	_ zapcore.ObjectMarshaler = (*exchange)(nil)
)
