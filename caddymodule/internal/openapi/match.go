package openapi

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// node is a place in the tree of path templates: each step is one segment.
type node struct {
	literals map[string]*node // lower case
	patterns []*pattern       // segments that are literal in part, the longest first
	param    *node            // a segment that is one parameter
	path     string           // of the operations here, for messages
	needs    map[string][]string
}

// pattern is a segment such as {name}.json: literals with a parameter, which
// is never empty, between any two.
type pattern struct {
	literals []string // lower case; the first and the last may be empty
	next     *node
}

// add puts an operation into the tree.
func (n *node) add(o Operation) error {
	if !slices.Contains(methods, o.Method) {
		return errors.New("unknown method")
	}
	rest, ok := strings.CutPrefix(o.Path, "/")
	if !ok {
		return errors.New("a path starts with a slash")
	}
	if strings.ContainsAny(rest, "?#") {
		return errors.New("a path template holds no query and no fragment")
	}
	segments := strings.Split(rest, "/")
	for i, segment := range segments {
		if segment == "" && i < len(segments)-1 {
			return errors.New("the path has an empty segment")
		}
		next, err := n.step(segment)
		if err != nil {
			return err
		}
		n = next
	}
	if n.needs == nil {
		n.needs, n.path = make(map[string][]string), o.Path
	}
	if n.path != o.Path {
		return fmt.Errorf("the same requests as of %s: a path is matched without regard to case and to the names of parameters", n.path)
	}
	if _, twice := n.needs[o.Method]; twice {
		return errors.New("it is there twice")
	}
	n.needs[o.Method] = o.Needs
	return nil
}

// step returns the node behind a segment, a new one if need be.
func (n *node) step(segment string) (*node, error) {
	literals, err := splitSegment(strings.ToLower(segment))
	if err != nil {
		return nil, err
	}
	switch {
	case len(literals) == 1:
		if n.literals == nil {
			n.literals = make(map[string]*node)
		}
		if n.literals[literals[0]] == nil {
			n.literals[literals[0]] = new(node)
		}
		return n.literals[literals[0]], nil
	case len(literals) == 2 && literals[0] == "" && literals[1] == "":
		if n.param == nil {
			n.param = new(node)
		}
		return n.param, nil
	}
	for _, p := range n.patterns {
		if slices.Equal(p.literals, literals) {
			return p.next, nil
		}
	}
	p := &pattern{literals: literals, next: new(node)}
	n.patterns = append(n.patterns, p)
	return p.next, nil
}

// splitSegment returns what stands before, between and behind the parameters
// of a segment.
func splitSegment(segment string) ([]string, error) {
	if segment == "." || segment == ".." || strings.ContainsAny(segment, "\\;%\x00") {
		return nil, fmt.Errorf("segment %q is in no request target of normal form", segment)
	}
	var literals []string
	for {
		before, rest, ok := strings.Cut(segment, "{")
		if strings.Contains(before, "}") {
			return nil, fmt.Errorf("segment %q: a brace is not closed or not opened", segment)
		}
		if len(literals) > 0 && ok && before == "" {
			return nil, fmt.Errorf("segment %q: two parameters stand side by side", segment)
		}
		literals = append(literals, before)
		if !ok {
			return literals, nil
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok || name == "" || strings.Contains(name, "{") {
			return nil, fmt.Errorf("segment %q: a brace is not closed, or a parameter has no name", segment)
		}
		segment = after
	}
}

// sort puts the patterns of the tree in the order in which they are tried.
func (n *node) sort() {
	for _, next := range n.literals {
		next.sort()
	}
	for _, p := range n.patterns {
		p.next.sort()
	}
	if n.param != nil {
		n.param.sort()
	}
	slices.SortFunc(n.patterns, func(a, b *pattern) int {
		return cmp.Or(b.weight()-a.weight(), slices.Compare(a.literals, b.literals))
	})
}

// weight is how much of the pattern is literal.
func (p *pattern) weight() int {
	n := 0
	for _, l := range p.literals {
		n += len(l)
	}
	return n
}

// Match returns what the operation of a request needs: one of the permissions,
// or any key if there are none. It reports false if the request is no
// operation. The path is decoded; it is matched without regard to case, by the
// template that is the most literal from the left, and then by method. HEAD is
// GET where it is no operation of its own. Match does not allocate for paths in
// ASCII of at most 512 bytes.
func (d *Document) Match(method, path string) (needs []string, ok bool) {
	if path == "" || path[0] != '/' {
		return nil, false
	}
	var buf [512]byte
	n := d.root.find(lower(buf[:0], path[1:]))
	if n == nil {
		return nil, false
	}
	needs, ok = n.needs[method]
	if !ok && method == http.MethodHead {
		needs, ok = n.needs[http.MethodGet]
	}
	return needs, ok
}

// lower appends s in lower case.
func lower(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if c >= 0x80 {
			return append(b[:0], strings.ToLower(s)...)
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

// find returns the node of the operations that a path is about, or nil.
func (n *node) find(rest []byte) *node {
	segment, tail, more := bytes.Cut(rest, slash)
	if next := n.literals[string(segment)]; next != nil {
		if found := next.ahead(tail, more); found != nil {
			return found
		}
	}
	for _, p := range n.patterns {
		if p.matches(segment) {
			if found := p.next.ahead(tail, more); found != nil {
				return found
			}
		}
	}
	if n.param != nil && len(segment) > 0 {
		return n.param.ahead(tail, more)
	}
	return nil
}

var slash = []byte{'/'}

// ahead goes on behind a segment.
func (n *node) ahead(tail []byte, more bool) *node {
	if more {
		return n.find(tail)
	}
	if n.needs == nil {
		return nil
	}
	return n
}

// matches reports whether a segment has the pattern's literals in order, with
// at least one byte for each parameter.
func (p *pattern) matches(segment []byte) bool {
	last := len(p.literals) - 1
	if len(segment) < len(p.literals[0]) || string(segment[:len(p.literals[0])]) != p.literals[0] {
		return false
	}
	segment = segment[len(p.literals[0]):]
	for _, l := range p.literals[1:last] {
		i := index(segment, l, 1)
		if i < 0 {
			return false
		}
		segment = segment[i+len(l):]
	}
	end := p.literals[last]
	return len(segment) > len(end) && string(segment[len(segment)-len(end):]) == end
}

// index returns where s first holds text, from a place on, or -1.
func index(s []byte, text string, from int) int {
	for i := from; i+len(text) <= len(s); i++ {
		if string(s[i:i+len(text)]) == text {
			return i
		}
	}
	return -1
}
