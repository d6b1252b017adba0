package gate

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// Kind is where in a request a credential can stand.
type Kind uint8

// The kinds.
const (
	Bearer Kind = iota // Authorization: Bearer <key> (RFC 6750)
	Header             // a header of its own
	Basic              // Authorization: Basic, as password or, without one, as user name
	Query              // a query parameter
)

// Source is one place in which a gate looks for a key.
type Source struct {
	Kind Kind
	Name string // of the header, canonical, or of the query parameter
}

// ParseSource reads bearer, basic, header:<Name> and query:<name>.
func ParseSource(s string) (Source, error) {
	kind, name, named := strings.Cut(s, ":")
	switch {
	case kind == "bearer" && !named:
		return Source{Kind: Bearer}, nil
	case kind == "basic" && !named:
		return Source{Kind: Basic}, nil
	case kind == "header" && ValidFieldName(name):
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Authorization", "Cookie", "Connection", "Upgrade", "Host":
			return Source{}, fmt.Errorf("source %q: a key cannot be taken from %s as a whole; use bearer or basic", s, name)
		}
		return Source{Kind: Header, Name: name}, nil
	case kind == "query" && name != "" && url.QueryEscape(name) == name:
		return Source{Kind: Query, Name: name}, nil
	}
	return Source{}, fmt.Errorf("unknown source %q: want bearer, basic, header:<Name> or query:<name>", s)
}

// String writes the form that ParseSource reads.
func (s Source) String() string {
	switch s.Kind {
	case Header:
		return "header:" + s.Name
	case Basic:
		return "basic"
	case Query:
		return "query:" + s.Name
	}
	return "bearer"
}

// ValidFieldName reports whether s is an HTTP field name (RFC 9110, section
// 5.1).
func ValidFieldName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// credentials gathers what the sources hold. first is the first credential
// found; two report that a different one was found as well.
type credentials struct {
	first string
	found bool
	two   bool
}

func (c *credentials) add(s string) {
	switch {
	case !c.found:
		c.first, c.found = s, true
	case c.first != s:
		c.two = true
	}
}

// find looks into every source, so that a second credential is never missed.
func find(sources []Source, r *http.Request) (c credentials) {
	for _, s := range sources {
		switch s.Kind {
		case Bearer:
			for _, v := range r.Header["Authorization"] {
				if key, ok := cutScheme(v, "Bearer"); ok {
					c.add(key)
				}
			}
		case Basic:
			for _, v := range r.Header["Authorization"] {
				if enc, ok := cutScheme(v, "Basic"); ok {
					c.add(basicKey(enc))
				}
			}
		case Header:
			for _, v := range r.Header[s.Name] {
				c.add(v)
			}
		case Query:
			findQuery(r.URL.RawQuery, s.Name, &c)
		}
	}
	return c
}

// cutScheme returns what follows the scheme, in any case (RFC 9110, section
// 11.1).
func cutScheme(v, scheme string) (string, bool) {
	if !hasScheme(v, scheme) {
		return "", false
	}
	return trimBlanks(v[len(scheme):]), true
}

// trimBlanks is strings.Trim of blanks and tabs without its set of characters.
func trimBlanks(s string) string {
	for s != "" && blank(s[0]) {
		s = s[1:]
	}
	for s != "" && blank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// hasScheme reports whether v has the scheme, with or without anything behind.
func hasScheme(v, scheme string) bool {
	n := len(scheme)
	return len(v) >= n && (v[:n] == scheme || strings.EqualFold(v[:n], scheme)) && (len(v) == n || blank(v[n]))
}

func basicKey(enc string) string {
	raw, err := base64.StdEncoding.DecodeString(enc)
	if err != nil {
		return "" // no key is empty: refused as malformed
	}
	user, password, _ := strings.Cut(string(raw), ":")
	if password != "" {
		return password
	}
	return user
}

// findQuery works on the raw string: url.Values drops parameters past a limit.
func findQuery(raw, name string, c *credentials) {
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		k, v, _ := strings.Cut(pair, "=")
		if unescape(k) == name {
			c.add(unescape(v))
		}
	}
}

func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	u, err := url.QueryUnescape(s)
	if err != nil {
		return s
	}
	return u
}
