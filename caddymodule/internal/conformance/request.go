package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// build makes the request of a step.
func (r *run) build(ctx context.Context, s *step) (*http.Request, error) {
	body, kind, err := r.body(s)
	if err != nil {
		return nil, err
	}
	path := s.path.expand(r.vars)
	if !strings.HasPrefix(path, "/") { // or the host would be another
		return nil, fmt.Errorf("the path %q does not begin with /", path)
	}
	req, err := http.NewRequestWithContext(ctx, s.method.raw, r.base+path, body)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for _, h := range s.headers {
		value := h.value.expand(r.vars)
		switch strings.ToLower(h.name) {
		case "host":
			req.Host = value
			continue
		case "authorization":
			r.hideCredential(value)
		}
		req.Header.Set(h.name, value)
	}
	return req, nil
}

// hideCredential hides the value of an Authorization header and what follows
// its scheme.
func (r *run) hideCredential(value string) {
	r.hide(value)
	if _, credential, ok := strings.Cut(value, " "); ok && len(credential) >= 4 {
		r.hide(credential)
	}
}

// body returns the body of a step and its content type.
func (r *run) body(s *step) (io.Reader, string, error) {
	switch {
	case s.hasJSON:
		b, err := json.Marshal(r.fill(s.json))
		return bytes.NewReader(b), "application/json", err
	case s.body != nil:
		return strings.NewReader(s.body.expand(r.vars)), "", nil
	case s.form != nil:
		form := make(url.Values)
		for _, f := range s.form {
			form.Set(f.name, f.value.expand(r.vars))
		}
		return strings.NewReader(form.Encode()), "application/x-www-form-urlencoded", nil
	}
	return nil, "", nil
}

// fill puts variables into a JSON value.
func (r *run) fill(v any) any {
	switch v := v.(type) {
	case text:
		return v.expand(r.vars)
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, e := range v {
			out[name] = r.fill(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = r.fill(e)
		}
		return out
	}
	return v
}

// texts returns every text of a step that may need a variable.
func (s *step) texts() []text {
	out := []text{s.path}
	for _, list := range [][]header{s.headers, s.form, s.expect} {
		for _, h := range list {
			out = append(out, h.value)
		}
	}
	for _, t := range []*text{s.body, s.wantBody} {
		if t != nil {
			out = append(out, *t)
		}
	}
	return s.want.texts(valueTexts(s.json, out))
}

func valueTexts(v any, out []text) []text {
	switch v := v.(type) {
	case text:
		return append(out, v)
	case map[string]any:
		for _, e := range v {
			out = valueTexts(e, out)
		}
	case []any:
		for _, e := range v {
			out = valueTexts(e, out)
		}
	}
	return out
}

func (t *template) texts(out []text) []text {
	if t == nil {
		return out
	}
	if t.text != nil {
		out = append(out, *t.text)
	}
	for _, m := range t.object {
		out = m.texts(out)
	}
	for _, e := range t.array {
		out = e.texts(out)
	}
	return t.contains.texts(t.each.texts(out))
}
