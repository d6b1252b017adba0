package conformance

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

const maxDepth = 64 // nested objects and arrays, of a file and of an answer

// FileError is what is wrong with a file and on which line.
type FileError struct {
	Line    int // from 1; 0 if not known
	Message string
}

// Error returns the line and the message.
func (e *FileError) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Message)
}

func wrong(n *yaml.Node, format string, args ...any) error {
	return &FileError{n.Line, fmt.Sprintf(format, args...)}
}

// pair is a member of a mapping.
type pair struct {
	key   *yaml.Node
	value *yaml.Node
}

// pairs returns the members of a mapping, none twice.
func pairs(n *yaml.Node, what string) ([]pair, error) {
	if n.Kind != yaml.MappingNode {
		return nil, wrong(n, "%s must be a mapping", what)
	}
	var out []pair
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			return nil, wrong(key, "a name in %s must be a text", what)
		}
		if seen[key.Value] {
			return nil, wrong(key, "%s has %s twice", what, key.Value)
		}
		seen[key.Value] = true
		out = append(out, pair{key, n.Content[i+1]})
	}
	return out, nil
}

// members returns the values of a mapping that may have these names alone.
func members(n *yaml.Node, what string, names ...string) (map[string]*yaml.Node, error) {
	list, err := pairs(n, what)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*yaml.Node, len(list))
	for _, p := range list {
		known := false
		for _, name := range names {
			known = known || name == p.key.Value
		}
		if !known {
			return nil, wrong(p.key, "%s has no member %s: it has %s", what, p.key.Value, strings.Join(names, ", "))
		}
		out[p.key.Value] = p.value
	}
	return out, nil
}

// word returns a scalar as text.
func word(n *yaml.Node, what string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", wrong(n, "%s must be a text", what)
	}
	return n.Value, nil
}

// textOf parses a scalar with placeholders.
func (l *loader) textOf(n *yaml.Node, what string) (text, error) {
	s, err := word(n, what)
	if err != nil {
		return text{}, err
	}
	t, err := parseText(s)
	if err != nil {
		return text{}, wrong(n, "%s: %v", what, err)
	}
	return t, l.known(n, t)
}

// sendable parses a scalar that is part of a request.
func (l *loader) sendable(n *yaml.Node, what string) (text, error) {
	t, err := l.textOf(n, what)
	if err == nil && !t.plain() {
		err = wrong(n, "%s: %q is for what is expected, not for what is sent", what, t.raw)
	}
	return t, err
}

// known reports a variable that nothing sets before the step.
func (l *loader) known(n *yaml.Node, t text) error {
	for _, name := range t.variables() {
		if !l.names[name] {
			return wrong(n, "{{%s}} is neither under vars nor saved by a step before", name)
		}
	}
	return nil
}

// template reads what a JSON value must be.
func (l *loader) template(n *yaml.Node, depth int) (*template, error) {
	if depth > maxDepth {
		return nil, wrong(n, "more than %d objects and arrays within each other", maxDepth)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return l.objectTemplate(n, depth)
	case yaml.SequenceNode:
		t := &template{shape: array}
		for _, e := range n.Content {
			element, err := l.template(e, depth+1)
			if err != nil {
				return nil, err
			}
			t.array = append(t.array, element)
		}
		return t, nil
	}
	v, err := scalarOf(n)
	if err != nil {
		return nil, err
	}
	if _, ok := v.(string); !ok {
		return &template{value: v}, nil
	}
	s, err := l.textOf(n, "json")
	return &template{text: &s}, err
}

func (l *loader) objectTemplate(n *yaml.Node, depth int) (*template, error) {
	list, err := pairs(n, "json")
	if err != nil {
		return nil, err
	}
	t := &template{shape: object, object: make(map[string]*template)}
	for _, p := range list {
		var to **template
		switch p.key.Value {
		case "{{more}}", "{{exact}}":
			if p.value.Tag != "!!bool" || p.value.Value != "true" {
				return nil, wrong(p.value, "%s must be true", p.key.Value)
			}
			t.more = t.more || p.key.Value == "{{more}}"
			continue
		case "{{each}}":
			to = &t.each
		case "{{contains}}":
			to = &t.contains
		}
		sub, err := l.template(p.value, depth+1)
		if err != nil {
			return nil, err
		}
		if to == nil {
			t.object[p.key.Value] = sub
			continue
		}
		*to, t.shape = sub, arrayOf
	}
	if t.shape == arrayOf && (len(t.object) > 0 || t.more) {
		return nil, wrong(n, "{{each}} and {{contains}} are for an array, which has no members")
	}
	return t, nil
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)

// scalarOf returns a string, json.Number, bool or nil. What YAML alone has,
// such as times, is a string.
func scalarOf(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!int", "!!float":
		if jsonNumber.MatchString(n.Value) {
			return json.Number(n.Value), nil
		}
		return nil, wrong(n, "%s is no number of JSON", n.Value)
	}
	return n.Value, nil
}

// value reads a JSON value that is sent. Its strings are of type text.
func (l *loader) value(n *yaml.Node, depth int) (any, error) {
	if depth > maxDepth {
		return nil, wrong(n, "more than %d objects and arrays within each other", maxDepth)
	}
	switch n.Kind {
	case yaml.MappingNode:
		list, err := pairs(n, "json")
		if err != nil {
			return nil, err
		}
		out := make(map[string]any, len(list))
		for _, p := range list {
			if out[p.key.Value], err = l.value(p.value, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case yaml.SequenceNode:
		out := make([]any, len(n.Content))
		for i, e := range n.Content {
			var err error
			if out[i], err = l.value(e, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	v, err := scalarOf(n)
	if _, ok := v.(string); err != nil || !ok {
		return v, err
	}
	return l.sendable(n, "json")
}
