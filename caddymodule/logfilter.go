package caddymodule

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap/zapcore"
)

func init() {
	caddy.RegisterModule(LogFilter{})
}

// redacted is the word that Caddy itself writes in place of a credential.
const redacted = "REDACTED"

// LogFilter keeps API keys out of logs. Caddy writes the headers and the URI of
// a request to its access log, and to the error log even where no log is
// configured; of all credentials it hides Authorization, Proxy-Authorization,
// Cookie and Set-Cookie alone.
//
// The filter writes REDACTED for the values of credential headers (those four,
// X-API-Key, Api-Key, X-Auth-Token, X-Provider-Key-… and every header that a
// gate takes keys from; case and the difference of '-', '_' and '.' do not
// matter) and of credential query parameters (api_key, apikey, access_token and
// every parameter that a gate takes keys from), in the URI and wherever else a
// URL stands. A key that was minted here is cut down to its first characters
// wherever it is found. The server option log_credentials does not change that.
//
// Use it on the whole request, in the global log option and in the log of each
// site:
//
//	log {
//		format filter {
//			request keytoll
//			resp_headers keytoll
//		}
//	}
//
// At level DEBUG, Caddy also writes the headers of the answers of upstreams into
// the field headers, and the URI of a request that was rewritten before the gate
// into the field uri: a log of that level needs headers keytoll and uri keytoll
// as well.
//
// It may be used on a part, such as request>headers or request>uri, if other
// filters are to see other parts; the parts that are left out are written as
// they are. A filter on a field replaces the filters on the fields below it.
type LogFilter struct{}

// CaddyModule returns the Caddy module information.
func (LogFilter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.encoders.filter.keytoll",
		New: func() caddy.Module { return new(LogFilter) },
	}
}

// UnmarshalCaddyfile sets up the filter from Caddyfile tokens. Syntax:
//
//	<field> keytoll
func (*LogFilter) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume filter name
	if d.NextArg() {
		return d.Errf("the keytoll log filter takes no argument, but got %q", d.Val())
	}
	for d.NextBlock(0) {
		return d.Errf("the keytoll log filter takes no options, but got %q", d.Val())
	}
	return nil
}

// Filter returns a field that writes what in writes, without its credentials.
func (*LogFilter) Filter(in zapcore.Field) zapcore.Field {
	switch in.Interface.(type) {
	case requestProbe, headersProbe:
		return zapcore.Field{Key: in.Key, Type: zapcore.SkipType}
	}
	return zapcore.Field{Key: in.Key, Type: zapcore.InlineMarshalerType, Interface: cleanField{in, redactions.Load()}}
}

// cleanField writes a field to an encoder without its credentials.
type cleanField struct {
	field zapcore.Field
	hide  *redaction
}

// MarshalLogObject writes the one field.
func (f cleanField) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	f.field.AddTo(cleanObject{enc, f.hide})
	return nil
}

// cleanObject is an ObjectEncoder that takes the credentials out of what it
// hands on. Numbers, times and the like pass untouched.
type cleanObject struct {
	zapcore.ObjectEncoder
	hide *redaction
}

// AddString writes a string without credentials.
func (o cleanObject) AddString(key, value string) {
	if o.hide.header(key) {
		value = redacted
	}
	o.ObjectEncoder.AddString(o.hide.keys.Redact(key), o.hide.text(value))
}

// AddByteString writes text without credentials.
func (o cleanObject) AddByteString(key string, value []byte) { o.AddString(key, string(value)) }

// AddBinary writes bytes as they are unless they hold a credential.
func (o cleanObject) AddBinary(key string, value []byte) {
	if text := string(value); o.hide.header(key) || o.hide.text(text) != text {
		o.AddString(key, text)
		return
	}
	o.ObjectEncoder.AddBinary(key, value)
}

// AddReflected writes a value of any type without credentials.
func (o cleanObject) AddReflected(key string, value any) error {
	if o.hide.header(key) {
		value = redacted
	}
	return o.ObjectEncoder.AddReflected(o.hide.keys.Redact(key), o.hide.reflected(value))
}

// AddObject writes an object whose fields are without credentials.
func (o cleanObject) AddObject(key string, value zapcore.ObjectMarshaler) error {
	if o.hide.header(key) {
		o.ObjectEncoder.AddString(key, redacted)
		return nil
	}
	return o.ObjectEncoder.AddObject(o.hide.keys.Redact(key), o.hide.object(value))
}

// AddArray writes an array whose elements are without credentials. The values
// of a header are such an array.
func (o cleanObject) AddArray(key string, value zapcore.ArrayMarshaler) error {
	if o.hide.header(key) {
		return o.ObjectEncoder.AddArray(key, caddyhttp.LoggableStringArray{redacted})
	}
	if list, ok := value.(caddyhttp.LoggableStringArray); !ok || !o.hide.clean(list) {
		value = o.hide.array(value)
	}
	return o.ObjectEncoder.AddArray(o.hide.keys.Redact(key), value)
}

// clean reports whether nothing in the values has to be hidden: so it is with
// most headers, which then cost no wrapper.
func (r *redaction) clean(values []string) bool {
	for _, v := range values {
		if r.text(v) != v {
			return false
		}
	}
	return true
}

func (r *redaction) object(m zapcore.ObjectMarshaler) zapcore.ObjectMarshaler {
	return zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		return m.MarshalLogObject(cleanObject{enc, r})
	})
}

func (r *redaction) array(m zapcore.ArrayMarshaler) zapcore.ArrayMarshaler {
	return zapcore.ArrayMarshalerFunc(func(enc zapcore.ArrayEncoder) error {
		return m.MarshalLogArray(cleanArray{enc, r})
	})
}

// cleanArray is to arrays what cleanObject is to objects.
type cleanArray struct {
	zapcore.ArrayEncoder
	hide *redaction
}

// AppendString writes a string without credentials.
func (a cleanArray) AppendString(value string) { a.ArrayEncoder.AppendString(a.hide.text(value)) }

// AppendByteString writes text without credentials.
func (a cleanArray) AppendByteString(value []byte) { a.AppendString(string(value)) }

// AppendReflected writes a value of any type without credentials.
func (a cleanArray) AppendReflected(value any) error {
	return a.ArrayEncoder.AppendReflected(a.hide.reflected(value))
}

// AppendObject writes an object whose fields are without credentials.
func (a cleanArray) AppendObject(value zapcore.ObjectMarshaler) error {
	return a.ArrayEncoder.AppendObject(a.hide.object(value))
}

// AppendArray writes an array whose elements are without credentials.
func (a cleanArray) AppendArray(value zapcore.ArrayMarshaler) error {
	return a.ArrayEncoder.AppendArray(a.hide.array(value))
}

// Interface guards
var (
	_ caddy.Module           = (*LogFilter)(nil)
	_ caddyfile.Unmarshaler  = (*LogFilter)(nil)
	_ logging.LogFieldFilter = (*LogFilter)(nil)
)
