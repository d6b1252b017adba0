package dialect

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// appendName starts a member: a comma if another stands before it, the name and
// a colon.
func appendName(b []byte, name string) []byte {
	if n := len(b); n > 0 && b[n-1] != '{' { // no value ends with an opening brace
		b = append(b, ',')
	}
	return append(appendString(b, name), ':')
}

// appendBeside adds finished members to those of an open object.
func appendBeside(b, members []byte) []byte {
	if len(members) == 0 {
		return b
	}
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	return append(b, members...)
}

func appendString(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string: cannot fail
	return append(b, quoted...)
}

func appendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

// appendText writes null for an empty text.
func appendText(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

// appendTime writes a point in time in the dialect's form; null for 0.
func (c *Compiled) appendTime(b []byte, unix int64) []byte {
	switch {
	case unix == 0:
		return append(b, "null"...)
	case c.d.Time == "unix":
		return strconv.AppendInt(b, unix, 10)
	case c.d.Time == "unix_ms":
		return strconv.AppendInt(b, unix*1000, 10)
	}
	b = time.Unix(unix, 0).UTC().AppendFormat(append(b, '"'), time.RFC3339)
	return append(b, '"')
}

// unix returns the unix second of t; 0 for the zero Time.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// appendRate writes a rate; null for none.
func appendRate(b []byte, r access.Rate) []byte {
	if r.IsZero() {
		return append(b, "null"...)
	}
	window := access.Rate{Requests: 1, Burst: 1, Window: r.Window}.String()[len("1/"):]
	b = strconv.AppendUint(append(b, `{"requests":`...), uint64(r.Requests), 10)
	b = appendString(append(b, `,"window":`...), window)
	b = strconv.AppendUint(append(b, `,"burst":`...), uint64(r.Burst), 10)
	return append(b, '}')
}

// appendPerMinute writes a rate as whole requests a minute, at least 1; null for
// none.
func appendPerMinute(b []byte, r access.Rate) []byte {
	if r.IsZero() {
		return append(b, "null"...)
	}
	perMinute := float64(r.Requests) * float64(time.Minute) / float64(r.Window)
	return strconv.AppendInt(b, max(1, int64(perMinute)), 10)
}
