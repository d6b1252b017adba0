package caddymodule

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/token"
)

// redaction is what must not be logged. It is never changed, only replaced.
type redaction struct {
	headers []string // folded names
	query   []string // folded names
	keys    token.Set
}

// redactions is the redaction of all gates that were ever configured in this
// process: logs may outlive the configuration that they speak of.
var redactions atomic.Pointer[redaction]

func init() {
	redactions.Store(&redaction{
		headers: []string{
			"authorization", "proxy-authorization", "cookie", "set-cookie",
			"x-api-key", "api-key", "x-auth-token",
		},
		query: []string{"api-key", "apikey", "access-token"},
	})
}

// registerRedaction adds the names of the headers and query parameters that a
// gate takes credentials from, and the keys that it mints, to what the log
// filter hides. It is called when a gate is provisioned; what was added stays.
func registerRedaction(headers, queryNames []string, set token.Set) {
	for {
		old := redactions.Load()
		next := &redaction{headers: addFolded(old.headers, headers), query: addFolded(old.query, queryNames)}
		var more bool
		next.keys, more = old.keys.Merge(set)
		if !more && len(next.headers) == len(old.headers) && len(next.query) == len(old.query) {
			return
		}
		if redactions.CompareAndSwap(old, next) {
			return
		}
	}
}

func addFolded(to, names []string) []string {
	to = slices.Clip(to)
	for _, n := range names {
		if n = foldName(n); n != "" && !slices.Contains(to, n) {
			to = append(to, n)
		}
	}
	return to
}

// foldName makes names equal that a server behind may take for one.
func foldName(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, strings.ToLower(s))
}

// header reports whether the values of a header are credentials.
func (r *redaction) header(name string) bool {
	for _, n := range r.headers {
		if equalFolded(name, n) {
			return true
		}
	}
	const provider = "x-provider-key-"
	return len(name) >= len(provider) && equalFolded(name[:len(provider)], provider)
}

func (r *redaction) queryName(name string) bool {
	for _, n := range r.query {
		if equalFolded(name, n) {
			return true
		}
	}
	return false
}

// equalFolded reports whether foldName(s) is folded, without allocating.
func equalFolded(s, folded string) bool {
	if len(s) != len(folded) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '_' || c == '.':
			c = '-'
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		if c != folded[i] {
			return false
		}
	}
	return true
}

// maxNesting bounds the layers of percent-encoding that are looked through, and
// so the work that a hostile URL can cause. What is nested deeper is not shown.
const maxNesting = 4

// text returns s without credentials: neither in the parameters of a URL, nor
// as a minted key, encoded or not.
func (r *redaction) text(s string) string { return r.keys.Redact(r.params(s, 0)) }

// params replaces the values of credential parameters in s, and the pieces of
// s that hold a credential in percent-encoding. A piece ends at any character
// that can end a parameter or a path.
func (r *redaction) params(s string, depth int) string {
	if !strings.ContainsAny(s, "=%") {
		return s
	}
	var b strings.Builder
	done := 0
	for at := 0; at < len(s); {
		end := len(s)
		if i := strings.IndexAny(s[at:], "?&;#"); i >= 0 {
			end = at + i
		}
		if keep, hide := r.piece(s[at:end], depth); hide {
			b.WriteString(s[done : at+keep])
			b.WriteString(redacted)
			done = end
		}
		at = end + 1
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

// piece reports whether p, a parameter or a path, holds a credential, and how
// much of its start may be shown then.
func (r *redaction) piece(p string, depth int) (keep int, hide bool) {
	name, value := 0, 0
	for i := range len(p) {
		switch p[i] {
		case ' ', ',', '/', '"', '\'', '<', '(', '[', '{':
			name = i + 1 // text before a parameter, as in a Link header
		case '=':
			if n := p[name:i]; i+1 < len(p) && (r.queryName(n) || r.queryName(unescape(n))) {
				return i + 1, true
			}
			name = i + 1
			if value == 0 {
				value = name
			}
		}
	}
	if r.encoded(p[:value], depth) {
		return 0, true
	}
	return value, r.encoded(p[value:], depth)
}

// encoded reports whether s holds a credential once it is decoded.
func (r *redaction) encoded(s string, depth int) bool {
	plain := unescape(s)
	if plain == s {
		return false
	}
	if _, _, ok := r.keys.Find(plain); ok || depth == maxNesting {
		return true
	}
	return r.params(plain, depth+1) != plain
}

// unescape decodes what is percent-encoded in s and leaves the rest as it is.
func unescape(s string) string {
	i := strings.IndexByte(s, '%')
	if i < 0 {
		return s
	}
	b := append(make([]byte, 0, len(s)), s[:i]...)
	for ; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// unhex returns the value of a hexadecimal digit, or -1.
func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// reflected returns v as what its JSON holds, without credentials.
func (r *redaction) reflected(v any) any {
	raw, err := json.Marshal(v)
	if err != nil {
		return redacted
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var plain any
	if d.Decode(&plain) != nil {
		return redacted
	}
	return r.value(plain)
}

func (r *redaction) value(v any) any {
	switch v := v.(type) {
	case string:
		return r.text(v)
	case []any:
		for i := range v {
			v[i] = r.value(v[i])
		}
	case map[string]any:
		clean := make(map[string]any, len(v))
		for k, e := range v {
			if r.header(k) {
				e = redacted
			}
			clean[r.keys.Redact(k)] = r.value(e)
		}
		return clean
	}
	return v
}
