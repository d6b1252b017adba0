package conformance

import (
	"net/http"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// request reads what a step sends.
func (l *loader) request(s *step, n *yaml.Node) error {
	m, err := members(n, "request", "method", "path", "headers", "json", "body", "form")
	if err != nil {
		return err
	}
	if m["path"] == nil {
		return wrong(n, "request needs a path")
	}
	if s.path, err = l.sendable(m["path"], "path"); err != nil {
		return err
	}
	if !strings.HasPrefix(s.path.raw, "/") && !strings.HasPrefix(s.path.raw, "{{") {
		return wrong(m["path"], "path must begin with /")
	}
	if s.headers, err = l.texts(m["headers"], "headers", l.sendable); err != nil {
		return err
	}
	if err := l.requestBody(s, m); err != nil {
		return err
	}
	method := http.MethodGet
	if s.hasJSON || s.body != nil || s.form != nil {
		method = http.MethodPost
	}
	if v := m["method"]; v != nil {
		if err := checkMethod(v, v.Value); err != nil {
			return err
		}
		method = v.Value
	}
	s.method, err = parseText(method)
	return err
}

func (l *loader) requestBody(s *step, m map[string]*yaml.Node) error {
	given := 0
	var err error
	if v := m["json"]; v != nil {
		given++
		s.hasJSON = true
		if s.json, err = l.value(v, 0); err != nil {
			return err
		}
	}
	if v := m["body"]; v != nil {
		given++
		t, err := l.sendable(v, "body")
		if err != nil {
			return err
		}
		s.body = &t
	}
	if v := m["form"]; v != nil {
		given++
		if s.form, err = l.texts(v, "form", l.sendable); err != nil {
			return err
		}
	}
	if given > 1 {
		return wrong(m["path"], "a request has one of json, body and form")
	}
	return nil
}

// texts reads a mapping of names to texts.
func (l *loader) texts(n *yaml.Node, what string, read func(*yaml.Node, string) (text, error)) ([]header, error) {
	if n == nil {
		return nil, nil
	}
	list, err := pairs(n, what)
	if err != nil {
		return nil, err
	}
	var out []header
	for _, p := range list {
		if what == "headers" && !headerName(p.key.Value) {
			return nil, wrong(p.key, "%q is no name of a header", p.key.Value)
		}
		t, err := read(p.value, p.key.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, header{p.key.Value, t})
	}
	return out, nil
}

// expectation reads what the answer must be.
func (l *loader) expectation(s *step, n *yaml.Node) error {
	m, err := members(n, "expect", "status", "headers", "json", "body")
	if err != nil {
		return err
	}
	if m["status"] == nil {
		return wrong(n, "expect needs a status")
	}
	statuses := []*yaml.Node{m["status"]}
	if m["status"].Kind == yaml.SequenceNode {
		statuses = m["status"].Content
	}
	for _, v := range statuses {
		status, err := strconv.Atoi(v.Value)
		if err != nil || status < 100 || status > 599 {
			return wrong(v, "status must be a number from 100 to 599, or a list of such")
		}
		s.status = append(s.status, status)
	}
	if len(s.status) == 0 {
		return wrong(m["status"], "status has no number")
	}
	if s.expect, err = l.texts(m["headers"], "headers", l.pattern); err != nil {
		return err
	}
	if m["json"] != nil && m["body"] != nil {
		return wrong(m["body"], "expect has json or body, not both")
	}
	if v := m["body"]; v != nil {
		t, err := l.pattern(v, "body")
		if err != nil {
			return err
		}
		s.wantBody = &t
	}
	if v := m["json"]; v != nil {
		s.want, err = l.template(v, 0)
	}
	return err
}

// pattern reads a text that is compared with a text, which has no types.
func (l *loader) pattern(n *yaml.Node, what string) (text, error) {
	t, err := l.textOf(n, what)
	if err != nil {
		return t, err
	}
	for _, p := range t.parts {
		switch {
		case p.kind == aNull, p.kind == timeOrNull:
			return t, wrong(n, "%s: {{%s}} is for JSON", what, p.kind)
		case p.kind == absent && len(t.parts) > 1:
			return t, wrong(n, "%s: {{absent}} stands alone", what)
		}
	}
	return t, nil
}
