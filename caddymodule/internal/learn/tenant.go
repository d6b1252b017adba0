package learn

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// TenantFrom returns the function that finds the tenant in an answer: "header:"
// and the name of a header, or a JSON pointer (RFC 6901) to a text or a whole
// number in the body, such as /data/org/id.
func TenantFrom(where string) (func(http.Header, []byte) (string, bool), error) {
	if name, ok := strings.CutPrefix(where, "header:"); ok {
		if name == "" || strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return nil, fmt.Errorf("%q: want the name of a header behind header:", where)
		}
		return func(h http.Header, _ []byte) (string, bool) {
			values := h.Values(name)
			if len(values) != 1 {
				return "", false
			}
			return values[0], true
		}, nil
	}
	path, err := parsePointer(where)
	if err != nil {
		return nil, err
	}
	return func(_ http.Header, body []byte) (string, bool) { return lookup(body, path) }, nil
}

func parsePointer(where string) ([]string, error) {
	if !strings.HasPrefix(where, "/") {
		return nil, fmt.Errorf("%q is neither a JSON pointer, such as /org/id, nor header:<name>", where)
	}
	path := strings.Split(where[1:], "/")
	for i, p := range path {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(p), "~") {
			return nil, errors.New("in a JSON pointer '~' is written ~0, and '/' within a name ~1")
		}
		path[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	return path, nil
}

// lookup returns the text or whole number that a path leads to.
func lookup(body []byte, path []string) (string, bool) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return "", false
	}
	if _, err := dec.Token(); err != io.EOF {
		return "", false
	}
	for _, p := range path {
		switch in := v.(type) {
		case map[string]any:
			v = in[p]
		case []any:
			i, err := strconv.ParseUint(p, 10, 31)
			if err != nil || int(i) >= len(in) || strconv.FormatUint(i, 10) != p {
				return "", false
			}
			v = in[i]
		default:
			return "", false
		}
	}
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		_, err := strconv.ParseUint(v.String(), 10, 64)
		return v.String(), err == nil
	}
	return "", false
}
