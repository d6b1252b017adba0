package conformance

import (
	"encoding/json"
	"strconv"
	"unicode/utf16"
)

// yamlOfJSON returns what YAML reads as the JSON text b is meant: the two
// escapes that YAML lacks, \/ and pairs of surrogates, are written out. Lines
// stay where they are. Other text is returned as it stands.
func yamlOfJSON(b []byte) []byte {
	if !json.Valid(b) {
		return b
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' { // in JSON, a backslash is in a string
			out = append(out, b[i])
			continue
		}
		if r, ok := surrogates(b[i:]); ok {
			out, i = append(out, string(r)...), i+11
			continue
		}
		if b[i+1] != '/' {
			out = append(out, '\\')
		}
		i++
		out = append(out, b[i])
	}
	return out
}

// surrogates reads \uD83D\uDE00 at the start of b.
func surrogates(b []byte) (rune, bool) {
	if len(b) < 12 || b[1] != 'u' || b[6] != '\\' || b[7] != 'u' {
		return 0, false
	}
	high, errHigh := strconv.ParseUint(string(b[2:6]), 16, 16)
	low, errLow := strconv.ParseUint(string(b[8:12]), 16, 16)
	r := utf16.DecodeRune(rune(high), rune(low))
	return r, errHigh == nil && errLow == nil && r != '\uFFFD'
}
