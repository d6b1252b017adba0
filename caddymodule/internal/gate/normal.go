package gate

import (
	"net/http"
	"strings"
	"unicode/utf8"
)

// normal reports whether the request's target can be read in one way only.
// What matchers see is the decoded path, and what the API gets the target as it
// came: a target on whose path the two could differ is not normal. It looks at
// the decoded path, for all that decoding leaves to be seen, and at the encoded
// ones, for what it hides.
func normal(r *http.Request) bool {
	u := r.URL
	if !normalPath(u.Path) || u.RawPath != "" && !normalEscapes(u.RawPath) {
		return false
	}
	target, _, _ := strings.Cut(r.RequestURI, "?")
	return target == "" || target[0] != '/' || normalEscapes(target)
}

// normalPath looks at a decoded path: it starts with '/', has no empty segment
// but a last one, no dot segment, no byte that is a separator somewhere ('\\',
// ';'), none that could be decoded again ('%'), no control character, and is
// UTF-8.
func normalPath(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	ascii := true
	start := 1 // of the segment
	for i := 1; i < len(p); i++ {
		switch c := p[i]; {
		case c == '/':
			if i == start || dots(p[start:i]) {
				return false
			}
			start = i + 1
		case c == '\\' || c == ';' || c == '%' || c < ' ' || c == 0x7f:
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return !dots(p[start:]) && (ascii || utf8.ValidString(p))
}

func dots(segment string) bool { return segment == "." || segment == ".." }

// normalEscapes looks at an encoded path for what decoding would hide: a
// separator, dot or percent sign in its encoded form, and bytes that no encoded
// path has.
func normalEscapes(p string) bool {
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case c <= ' ' || c == 0x7f || c == '\\' || c == ';' || c == '#':
			return false
		case c == '/' && i > 0 && p[i-1] == '/':
			return false
		case c == '%':
			if i+2 >= len(p) || hides(p[i+1], p[i+2]) {
				return false
			}
		}
	}
	return true
}

// hides reports whether the escape of these two digits stands for '/', '\\',
// '.', '%', ';' or NUL.
func hides(a, b byte) bool {
	switch a {
	case '0':
		return b == '0'
	case '2':
		return b == 'f' || b == 'F' || b == 'e' || b == 'E' || b == '5'
	case '3':
		return b == 'b' || b == 'B'
	case '5':
		return b == 'c' || b == 'C'
	}
	return false
}
