package caddymodule

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// answers reports whether the usage of a tenant with these terms goes into the
// headers.
func (m *meter) answers(terms *tenantTerms) bool {
	switch m.usageHeaders {
	case "on":
		return true
	case "off":
		return false
	}
	return terms.credits
}

// usageFields is the room for the header values of a bill: those of the id, up
// and down, and three numbers of 12 digits. What is more takes room elsewhere.
type usageFields struct {
	id      string // X-Request-Id
	values  [5]string
	text    [3 * 12]byte
	nvalues uint8
	ntext   uint8
}

// value returns s as a header's values. Nobody else's stand there.
func (f *usageFields) value(s string) []string {
	if int(f.nvalues) == len(f.values) {
		return []string{s}
	}
	i := f.nvalues
	f.values[i] = s
	f.nvalues++
	return f.values[i : i+1 : i+1]
}

// number returns n as a header's values.
func (f *usageFields) number(n int64) []string {
	b := strconv.AppendInt(f.text[f.ntext:f.ntext], n, 10)
	f.ntext = uint8(min(int(f.ntext)+len(b), len(f.text)))
	return f.value(unsafe.String(unsafe.SliceData(b), len(b))) // nothing writes there again
}

// identify gives the request an id, which the API and the client get.
func (b *bill) identify(r *http.Request, repl *caddy.Replacer) {
	if b == nil || b.fields == nil || repl == nil {
		return
	}
	if v, ok := repl.GetString("http.request.uuid"); ok {
		b.fields.id = v
		r.Header["X-Request-Id"] = b.fields.value(v)
	}
}

// statusClientGone is what Caddy's proxy writes for a client that has gone.
const statusClientGone = 499

// watch notes what the API is asked, which is after the request was cleaned.
// connection is false if the request had no header about the connection.
func (b *bill) watch(r *http.Request, connection bool) {
	b.let = r
	tunnel := false
	if r.ProtoMajor > 1 { // only there a header can have that name
		_, tunnel = r.Header[":protocol"]
	}
	b.upgrade = tunnel || connection && len(r.Header["Upgrade"]) > 0 && httpguts.HeaderValuesContainsToken(r.Header["Connection"], "Upgrade")
}

// countedBody counts what is read of a body.
type countedBody struct {
	io.ReadCloser
	t *tally
}

// Read implements io.Reader.
func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.t.in.Add(int64(n))
	return n, err
}

// countedConn counts what goes over a connection after an upgrade.
type countedConn struct {
	net.Conn
	t *tally
}

// Read implements net.Conn.
func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.t.in.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.t.out.Add(int64(n))
	return n, err
}

// CloseWrite ends one direction, as connections over TCP and TLS can.
func (c *countedConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// begin takes the cost out of the final headers and sets ours.
func (b *bill) begin(h http.Header, status int) {
	b.answered(status)
	if m := b.x.h.meter; m.told() {
		if m.header != "" {
			b.tell(h, m.header)
			removeToken(h, "Trailer", m.header)
		}
		b.conceal(h)
		b.running.known(b.bypassed())
	}
	b.headers(h, true)
}

// answered notes how the request was answered.
func (b *bill) answered(status int) {
	if b.running.spent() {
		return // the end was ours
	}
	b.tally.answered(status)
	b.gone = status == statusClientGone && b.let.Context().Err() != nil
}

func (t *tally) answered(status int) { t.status = uint16(min(max(status, 0), math.MaxUint16)) }

// end takes the cost out of the trailers.
func (b *bill) end(h http.Header) {
	if name := b.x.h.meter.header; name != "" {
		b.tell(h, name)
		b.tell(h, http.TrailerPrefix+name)
	}
	b.conceal(h)
}

// headers sets what was used and what is left, in whole credits, coherent with
// one another. Before the bill is settled, what will be given back counts as
// left.
func (b *bill) headers(h http.Header, open bool) {
	if b == nil || b.fields == nil {
		return
	}
	f := b.fields
	if f.id != "" {
		h["X-Request-Id"] = f.value(f.id)
	}
	if b.terms.payer.Terms == nil || b.terms.payer.Terms.Credits == nil {
		return
	}
	balance, err := b.metering().Ledger.Balance(b.terms.payer)
	if err != nil || !balance.Limited {
		return
	}
	if open {
		back := b.held() - b.cost()
		back -= min(max(back, 0), balance.Overage) // which pays the debt first
		balance.Remaining = min(max(balance.Remaining+back, 0), balance.Limit)
		balance.Used = balance.Limit - balance.Remaining
	}
	used, limit, remaining := balance.Whole()
	h["X-Usage-Current"] = f.number(used)
	h["X-Usage-Limit"] = f.number(limit)
	h["X-Usage-Remaining"] = f.number(remaining)
}

// removeToken takes a name out of the lists of a header.
func removeToken(h http.Header, header, name string) {
	values, ok := h[header]
	if !ok {
		return
	}
	var kept []string
	for _, v := range values {
		for token := range strings.SplitSeq(v, ",") {
			if token = strings.TrimSpace(token); token != "" && !strings.EqualFold(token, name) {
				kept = append(kept, token)
			}
		}
	}
	if len(kept) == 0 {
		delete(h, header)
		return
	}
	h[header] = kept
}

// cost returns what the request costs as far as is known: the price, unless the
// API told another or answers of this kind are free.
func (b *bill) cost() access.Credits {
	class := b.status / 100
	switch {
	case b.status == 0 && b.running.spent(): // ended before its answer
		return b.running.total(b.price)
	case b.bypassed():
		return 0
	case class < 1 || class > 5 || !b.x.h.meter.status[class] || b.gone:
		return 0
	case b.upgrade && b.status >= http.StatusMultipleChoices: // refused; an API that ignores the wish has been used
		return 0
	case b.told:
		return b.final
	}
	return b.running.total(b.price)
}

// unwritten notes how a request ends whose handler wrote nothing: net/http
// answers 200 then, and Caddy the status of an error.
func (x *exchange) unwritten(err error) {
	if err == nil {
		x.WriteHeader(http.StatusOK)
		return
	}
	status, he := http.StatusInternalServerError, caddyhttp.HandlerError{}
	if errors.As(err, &he) && he.StatusCode != 0 {
		status = he.StatusCode
	}
	if x.bill == nil {
		x.tally.answered(status)
		return
	}
	if x.h.byok != nil { // its own key is no less its own for that
		x.brought.answered(x.Header(), x.h.UsageHeaders, x.bill.running.spent())
	}
	x.bill.answered(status)
}
