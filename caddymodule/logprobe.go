package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logName stands for a module where a logger is asked for by name.
type logName string

// CaddyModule returns the name as an id.
func (n logName) CaddyModule() caddy.ModuleInfo { return caddy.ModuleInfo{ID: caddy.ModuleID(n)} }

// unfilteredLog reports whether any sink that takes the entries of the named
// logger, such as http.log.error or http.log.access.log0, would write the
// headers of a request as they are. Sinks that exclude the name do not count.
func unfilteredLog(ctx caddy.Context, name string) bool {
	return unfiltered(ctx.Logger(logName(name)))
}

// unfiltered reports whether a sink of l would write the headers of a request
// as they are, for want of the keytoll filter on request or request>headers. It
// writes no line: fields that are added to a logger are encoded at once, sink
// by sink, and a sink without the filter gives itself away by encoding the
// headers of a request that is none. A filter that deletes or replaces the
// headers is as good. A sink that filters the headers alone counts as filtered,
// though it writes the URI as it is: without query credentials there is no key
// in it.
func unfiltered(l *zap.Logger) bool {
	var seen bool
	l.With(zap.Object("request", requestProbe{&seen}))
	return seen
}

// requestProbe looks like a request to an encoder.
type requestProbe struct{ seen *bool }

// MarshalLogObject adds what a request has and a filter may be set on.
func (p requestProbe) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("uri", "/")
	return enc.AddObject("headers", headersProbe(p))
}

// headersProbe looks like the headers of a request and notes that it is encoded.
type headersProbe struct{ seen *bool }

// MarshalLogObject notes that nothing stood between the headers and the log.
func (p headersProbe) MarshalLogObject(zapcore.ObjectEncoder) error {
	*p.seen = true
	return nil
}
