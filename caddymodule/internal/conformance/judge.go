package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// judge compares an answer with what the step expects. What is to be kept is
// kept first, so that a secret in it is not printed with the differences.
func (r *run) judge(s *step, a *answer) []Difference {
	var v any
	var parsed error
	if s.want != nil || slices.ContainsFunc(s.save, func(k saved) bool { return k.from[0] == '/' }) {
		v, parsed = decodeJSON(a.body)
	}
	c := &comparison{vars: r.vars}
	r.keep(s, a, v, c)
	if !slices.Contains(s.status, a.status) {
		c.add("status", joinInts(s.status), strconv.Itoa(a.status))
	}
	if a.long {
		c.add("body", fmt.Sprintf("at most %d bytes", maxAnswer), "more")
		return c.out
	}
	for _, h := range s.expect {
		c.header(h, a.header)
	}
	switch {
	case s.wantBody != nil && !s.wantBody.fits(string(a.body), r.vars):
		c.add("body", strconv.Quote(r.clean(s.wantBody.expand(r.vars))), c.unless(strconv.Quote(r.clean(string(a.body)))))
	case s.want != nil && parsed != nil:
		c.add("body", "JSON", c.unless(fmt.Sprintf("%q: %v", r.clean(string(a.body)), parsed)))
	case s.want != nil:
		c.compare(s.want, "body", v)
	case len(c.out) > 0 && !c.blind && len(a.body) > 0 && utf8.Valid(a.body):
		// Nothing is expected of the body, but it may say why the rest differs.
		c.out[0].Got += " with the body " + strings.TrimSpace(string(a.body))
	}
	return c.out
}

// header compares one header.
func (c *comparison) header(h header, got http.Header) {
	values := got.Values(h.name)
	where := "header " + h.name
	if p, ok := h.value.single(); ok && p.kind == absent {
		if len(values) > 0 {
			c.add(where, "no such header", c.unless(strings.Join(values, ", ")))
		}
		return
	}
	if slices.ContainsFunc(values, func(v string) bool { return h.value.fits(v, c.vars) }) {
		return
	}
	seen := "no such header"
	if len(values) > 0 {
		seen = c.unless(strings.Join(values, ", "))
	}
	c.add(where, h.value.expand(c.vars), seen)
}

// keep saves what later steps need.
func (r *run) keep(s *step, a *answer, v any, c *comparison) {
	for _, k := range s.save {
		value, ok := "", false
		if k.from[0] == '/' {
			value, ok = at(v, k.from)
		} else if values := a.header.Values(k.from); len(values) > 0 {
			value, ok = values[0], true
		}
		if !ok {
			c.add("save "+k.name, k.from, "no such text in the answer")
			// A secret that is not where it should be may be anywhere.
			c.blind = c.blind || a.status < 400 && slices.Contains(r.file.secrets, k.name)
			continue
		}
		r.set(k.name, value)
	}
}

// at returns the scalar at a JSON pointer as text.
func at(v any, pointer string) (string, bool) {
	for _, name := range strings.Split(pointer, "/")[1:] {
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		switch t := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = t[name]; !ok {
				return "", false
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(t) {
				return "", false
			}
			v = t[i]
		default:
			return "", false
		}
	}
	switch t := v.(type) {
	case string:
		return t, true
	case json.Number:
		return t.String(), true
	case bool:
		return strconv.FormatBool(t), true
	}
	return "", false
}

func joinInts(list []int) string {
	var out []string
	for _, n := range list {
		out = append(out, strconv.Itoa(n))
	}
	return strings.Join(out, " or ")
}

// decodeJSON reads one JSON value, with numbers as json.Number. A member that
// is there twice is an error: two readers would see two answers.
func decodeJSON(b []byte) (any, error) {
	if len(b) == 0 {
		return nil, errors.New("the body is empty")
	}
	if !utf8.Valid(b) {
		return nil, errors.New("the body is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON value")
	}
	return v, nil
}

func decodeValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d objects and arrays within each other", maxDepth)
	}
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		out := make(map[string]any)
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			if _, twice := out[name.(string)]; twice {
				return nil, fmt.Errorf("the member %q is there twice", name)
			}
			if out[name.(string)], err = decodeValue(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = dec.Token()
		return out, err
	case json.Delim('['):
		out := []any{}
		for dec.More() {
			e, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		_, err = dec.Token()
		return out, err
	}
	return t, nil
}
