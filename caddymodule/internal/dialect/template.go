package dialect

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// piece is a part of a text of details: as written, or a value.
type piece struct {
	text  string
	value string // one of placeholders; empty for text
}

// parseTemplate splits a text at its placeholders. A brace without another is
// text.
func parseTemplate(s string) []piece {
	var out []piece
	for s != "" {
		start := strings.IndexByte(s, '{')
		end := -1
		if start >= 0 {
			end = strings.IndexByte(s[start:], '}')
		}
		if end < 0 {
			return append(out, piece{text: s})
		}
		if start > 0 {
			out = append(out, piece{text: s[:start]})
		}
		if name := s[start+1 : start+end]; name == "" {
			out = append(out, piece{text: "{}"})
		} else {
			out = append(out, piece{value: name})
		}
		s = s[start+end+1:]
	}
	return out
}

// detail is one compiled member of details.
type detail struct {
	name   string
	pieces []piece
}

func compileDetails(texts map[string]string) []detail {
	var out []detail
	for _, name := range sortedKeys(texts) {
		pieces := parseTemplate(texts[name])
		out = append(out, detail{name, pieces})
	}
	return out
}

// dynamic reports whether the detail depends on the request.
func (d *detail) dynamic() bool {
	return slices.ContainsFunc(d.pieces, func(p piece) bool { return p.value != "" })
}

// append adds the member, or nothing if one of its values is not known.
func (d *detail) append(b []byte, v *Values) []byte {
	if len(d.pieces) == 1 {
		if n, ok := v.number(d.pieces[0].value); ok {
			return strconv.AppendInt(appendName(b, d.name), n, 10)
		}
	}
	var text strings.Builder
	for _, p := range d.pieces {
		s := p.text
		if p.value != "" {
			if s = v.text(p.value); s == "" {
				return b
			}
		}
		text.WriteString(s)
	}
	return appendString(appendName(b, d.name), text.String())
}

// number returns a value that is a number, if it is one and known.
func (v *Values) number(name string) (n int64, known bool) {
	switch name {
	case "retry_after":
		return v.RetryAfter, v.RetryAfter != 0
	case "limit":
		return v.Limit, v.Limit != 0
	case "credits_needed":
		return v.CreditsNeeded, v.CreditsNeeded != 0
	case "credits_available":
		return v.CreditsAvailable, v.CreditsNeeded != 0
	}
	return 0, false
}

// text returns a value; empty if it is not known.
func (v *Values) text(name string) string {
	switch name {
	case "key_id":
		return v.KeyID
	case "expired_at":
		return v.ExpiredAt
	case "header":
		return v.Header
	case "permission":
		return v.Permission
	case "field":
		return v.Field
	}
	if n, ok := v.number(name); ok {
		return strconv.FormatInt(n, 10)
	}
	return ""
}

// reasonOf returns the reason with a label, if it is one that refuses.
func reasonOf(label string) (access.Reason, bool) {
	for i := range access.NumReasons {
		if r := access.Reason(i); !r.LetsIn() && r.String() == label {
			return r, true
		}
	}
	return 0, false
}

// reasonLabels returns all that Reasons may hold.
func reasonLabels() []string {
	var out []string
	for i := range access.NumReasons {
		if r := access.Reason(i); !r.LetsIn() {
			out = append(out, r.String())
		}
	}
	for _, code := range managementCodes {
		if !slices.Contains(out, code) {
			out = append(out, code)
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
