package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of a file.
const (
	maxFile   = 4 << 20 // bytes
	maxRepeat = 100_000 // sends of one step
)

// File is a list of steps that is ready to run. It is never changed and may be
// run by several goroutines at once.
type File struct {
	Name   string // of the run
	Source string // title of the document; may be empty

	vars    map[string]string // defaults, as the file has them
	secrets []string
	steps   []step
}

type step struct {
	name, sentence, later string

	method, path text
	headers      []header
	json         any // with text for its strings; see hasJSON
	hasJSON      bool
	body         *text
	form         []header

	status   []int
	expect   []header
	want     *template
	wantBody *text
	save     []saved
	repeat   int
	attempts int
}

type header struct {
	name  string
	value text
}

// saved is a variable and where its value is: a JSON pointer or a header name.
type saved struct{ name, from string }

type loader struct {
	names map[string]bool // variables that are set before the step at hand
	all   map[string]bool // those and the ones that later steps save
}

// Load reads a file. An error is a *FileError that names the line, or what the
// reader returned.
func Load(r io.Reader) (*File, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the file: %w", err)
	}
	if len(b) > maxFile {
		return nil, &FileError{0, fmt.Sprintf("the file is longer than %d bytes", maxFile)}
	}
	dec := yaml.NewDecoder(bytes.NewReader(yamlOfJSON(b)))
	var doc, rest yaml.Node
	if err := dec.Decode(&doc); err != nil {
		return nil, syntaxError(err)
	}
	if err := dec.Decode(&rest); !errors.Is(err, io.EOF) {
		return nil, &FileError{rest.Line, "the file has more than one document"}
	}
	if err := noAliases(&doc, 0); err != nil {
		return nil, err
	}
	l := &loader{names: make(map[string]bool), all: make(map[string]bool)}
	return l.file(doc.Content[0])
}

var yamlLine = regexp.MustCompile(`^yaml: line ([0-9]+): `)

// syntaxError takes the line out of what the YAML parser says.
func syntaxError(err error) error {
	if errors.Is(err, io.EOF) {
		return &FileError{0, "the file is empty"}
	}
	message, line := strings.TrimPrefix(err.Error(), "yaml: "), 0
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = strings.TrimPrefix(err.Error(), m[0])
	}
	return &FileError{line, message}
}

// noAliases refuses what would make a small file a large one.
func noAliases(n *yaml.Node, depth int) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return wrong(n, "anchors and aliases are not read here: write the value out")
	}
	if depth > 2*maxDepth {
		return wrong(n, "nested too deep")
	}
	for _, c := range n.Content {
		if err := noAliases(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) file(n *yaml.Node) (*File, error) {
	m, err := members(n, "the file", "name", "source", "vars", "secrets", "steps")
	if err != nil {
		return nil, err
	}
	f := &File{vars: make(map[string]string)}
	for name, to := range map[string]*string{"name": &f.Name, "source": &f.Source} {
		if v := m[name]; v != nil {
			if *to, err = word(v, name); err != nil {
				return nil, err
			}
		}
	}
	if err := l.variables(f, m["vars"]); err != nil {
		return nil, err
	}
	if m["steps"] == nil || m["steps"].Kind != yaml.SequenceNode || len(m["steps"].Content) == 0 {
		return nil, wrong(n, "the file needs steps, a list")
	}
	for i, e := range m["steps"].Content {
		s, err := l.step(e, i)
		if err != nil {
			return nil, err
		}
		f.steps = append(f.steps, s)
	}
	return f, l.secrets(f, m["secrets"])
}

func (l *loader) variables(f *File, n *yaml.Node) error {
	if n == nil {
		return nil
	}
	list, err := pairs(n, "vars")
	if err != nil {
		return err
	}
	for _, p := range list {
		if err := nameable(p.key); err != nil {
			return err
		}
		if f.vars[p.key.Value], err = word(p.value, p.key.Value); err != nil {
			return err
		}
		l.names[p.key.Value], l.all[p.key.Value] = true, true
	}
	return nil
}

func nameable(key *yaml.Node) error {
	_, taken := words[key.Value]
	if taken || !variableName.MatchString(key.Value) {
		return wrong(key, "%s cannot name a variable: want letters, digits and _, and no word of templates", key.Value)
	}
	return nil
}

func (l *loader) secrets(f *File, n *yaml.Node) error {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		return wrong(n, "secrets must be a list of variables")
	}
	for _, e := range n.Content {
		if !l.all[e.Value] {
			return wrong(e, "secrets: there is no variable %s", e.Value)
		}
		f.secrets = append(f.secrets, e.Value)
	}
	return nil
}

func (l *loader) step(n *yaml.Node, i int) (step, error) {
	what := fmt.Sprintf("step %d", i+1)
	m, err := members(n, what, "name", "sentence", "request", "expect", "save", "repeat", "attempts", "later")
	if err != nil {
		return step{}, err
	}
	s := step{repeat: 1, attempts: 1}
	for name, to := range map[string]*string{"name": &s.name, "sentence": &s.sentence, "later": &s.later} {
		if v := m[name]; v != nil {
			if *to, err = word(v, name); err != nil {
				return s, err
			}
		}
	}
	switch {
	case s.name == "":
		return s, wrong(n, "%s needs a name", what)
	case m["later"] != nil && s.later == "":
		return s, wrong(n, "%s: later must say where it belongs", what)
	case s.later == "" && (m["request"] == nil || m["expect"] == nil):
		return s, wrong(n, "%s needs request and expect, or later", what)
	}
	if err := l.counts(&s, m); err != nil {
		return s, err
	}
	if m["request"] != nil {
		if err := l.request(&s, m["request"]); err != nil {
			return s, err
		}
	}
	if m["expect"] != nil {
		if err := l.expectation(&s, m["expect"]); err != nil {
			return s, err
		}
	}
	return s, l.saves(&s, m["save"])
}

func (l *loader) counts(s *step, m map[string]*yaml.Node) error {
	for name, to := range map[string]*int{"repeat": &s.repeat, "attempts": &s.attempts} {
		v := m[name]
		if v == nil {
			continue
		}
		n, err := strconv.Atoi(v.Value)
		if err != nil || n < 1 || n > maxRepeat {
			return wrong(v, "%s must be a whole number from 1 to %d", name, maxRepeat)
		}
		*to = n
	}
	if m["repeat"] != nil && m["attempts"] != nil {
		return wrong(m["attempts"], "a step has repeat or attempts, not both")
	}
	return nil
}

func (l *loader) saves(s *step, n *yaml.Node) error {
	if n == nil {
		return nil
	}
	list, err := pairs(n, "save")
	if err != nil {
		return err
	}
	for _, p := range list {
		if err := nameable(p.key); err != nil {
			return err
		}
		from, err := word(p.value, "save")
		if err != nil {
			return err
		}
		if !strings.HasPrefix(from, "/") && !headerName(from) {
			return wrong(p.value, "save: %q is neither a JSON pointer nor the name of a header", from)
		}
		s.save = append(s.save, saved{p.key.Value, from})
		l.all[p.key.Value] = true
		if s.later == "" {
			l.names[p.key.Value] = true
		}
	}
	return nil
}

func headerName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	})
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

func checkMethod(n *yaml.Node, m string) error {
	if !slices.Contains(methods, m) {
		return wrong(n, "method %q: want %s", m, strings.Join(methods, ", "))
	}
	return nil
}
