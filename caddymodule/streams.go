package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// errKeyGone is what writing to a client says whose key was revoked meanwhile.
var errKeyGone = errors.New("the key of this request is no longer good")

// pass hands a request to the API. If its key goes meanwhile, the request ends
// within a second, whatever it is: a long download, a stream of events, an
// upgraded connection. Whoever calls it sees to abort.
func (x *exchange) pass(r *http.Request, next caddyhttp.Handler) error {
	if x.Record == nil || x.h.brief {
		return next.ServeHTTP(x, r)
	}
	if r.ProtoMajor != 1 {
		// A deadline ends all that HTTP/1 does, and costs nothing. A stream of a
		// later version ends by its context.
		var ctx context.Context
		ctx, x.cancel = context.WithCancel(r.Context())
		defer x.cancel()
		r = r.WithContext(ctx)
	}
	x.engine.Streams.Add(&x.stream, &x.Call, x)
	x.offerReport(r)
	return next.ServeHTTP(x, r)
}

// abort ends the registration that pass made, if any. A request that was ended takes its connection
// with it: what was sent must not look complete, and the deadline that ended it
// must not hit the connection's next request.
func (x *exchange) abort() {
	if !x.stream.Done() {
		return
	}
	x.ending.Lock()
	x.over = true
	x.ending.Unlock()
	if x.ended.Load() && x.conn.Load() == nil {
		panic(http.ErrAbortHandler)
	}
}

// End implements engine.Ender.
func (x *exchange) End() {
	x.ended.Store(true)
	if c := x.conn.Load(); c != nil {
		_ = (*c).Close()
		return
	}
	if x.cancel != nil {
		x.cancel()
	}
	go x.cut()
}

// cut interrupts what reads and writes on the client's connection. Caddy's own
// idle timeouts set deadlines too, from the handler's goroutine and without a
// lock, so this goes past them to the server's own writer, and does it again
// until the handler has returned.
func (x *exchange) cut() {
	w := x.ResponseWriter
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	rc, past := http.NewResponseController(w), time.Unix(1, 0)
	for {
		x.ending.Lock()
		if x.over {
			x.ending.Unlock()
			return
		}
		_, _ = rc.SetReadDeadline(past), rc.SetWriteDeadline(past)
		x.ending.Unlock()
		time.Sleep(50 * time.Millisecond)
	}
}

// Hijack hands over the connection for an upgrade.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	x.conn.Store(&conn)
	if x.ended.Load() {
		_ = conn.Close()
	}
	if x.tally != nil {
		x.tally.in.Add(int64(rw.Reader.Buffered()))
		return &countedConn{conn, x.tally}, rw, nil
	}
	return conn, rw, nil
}
