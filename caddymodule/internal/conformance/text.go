package conformance

import (
	"fmt"
	"regexp"
	"strings"
)

// kind is what a part of a text, or a whole template, stands for.
type kind uint8

const (
	literal kind = iota
	variable
	anything
	aString
	anInteger
	aNumber
	aBool
	aNull
	aTime
	timeOrNull
	matches
	absent
)

// words are the names that cannot be a variable's.
var words = map[string]kind{
	"any": anything, "string": aString, "integer": anInteger, "number": aNumber, "bool": aBool, "null": aNull,
	"time": aTime, "time_or_null": timeOrNull, "absent": absent,
	"each": literal, "contains": literal, "more": literal, "exact": literal, "match": literal,
}

// inText is what each kind looks like within a longer text.
var inText = map[kind]string{
	anything: `(?s:.*)`, aString: `(?s:.+)`, anInteger: `-?[0-9]+`, aNumber: `-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?`,
	aBool: `true|false`, aTime: `[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[-+][0-9]{2}:[0-9]{2})`,
}

var variableName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)

type part struct {
	kind kind
	text string         // the literal, or the name of the variable
	re   *regexp.Regexp // of matches
}

// text is a string with placeholders.
type text struct {
	raw   string
	parts []part
}

func parseText(s string) (text, error) {
	t := text{raw: s}
	for s != "" {
		before, rest, found := strings.Cut(s, "{{")
		if before != "" {
			t.parts = append(t.parts, part{text: before})
		}
		if !found {
			break
		}
		end := strings.Index(rest, "}}")
		if end < 0 {
			return t, fmt.Errorf("%q has {{ without }}", t.raw)
		}
		for strings.HasPrefix(rest[end+1:], "}}") { // {{match [0-9]{3}}}
			end++
		}
		p, err := parsePart(rest[:end])
		if err != nil {
			return t, err
		}
		t.parts, s = append(t.parts, p), rest[end+2:]
	}
	return t, nil
}

func parsePart(word string) (part, error) {
	if expr, ok := strings.CutPrefix(word, "match "); ok {
		re, err := regexp.Compile(`^(?:` + expr + `)$`)
		if err != nil {
			return part{}, fmt.Errorf("{{match %s}}: %w", expr, err)
		}
		return part{kind: matches, text: expr, re: re}, nil
	}
	if k, ok := words[word]; ok {
		if k == literal {
			return part{}, fmt.Errorf("{{%s}} does not stand here", word)
		}
		return part{kind: k}, nil
	}
	if !variableName.MatchString(word) {
		return part{}, fmt.Errorf("{{%s}} is neither a word of templates nor the name of a variable", word)
	}
	return part{kind: variable, text: word}, nil
}

// variables returns the names that the text needs.
func (t text) variables() []string {
	var names []string
	for _, p := range t.parts {
		if p.kind == variable {
			names = append(names, p.text)
		}
	}
	return names
}

// plain reports whether the text has no words, so that it can be sent.
func (t text) plain() bool {
	for _, p := range t.parts {
		if p.kind > variable {
			return false
		}
	}
	return true
}

// single returns the kind of a text that is one word and nothing else.
func (t text) single() (part, bool) {
	if len(t.parts) == 1 && t.parts[0].kind > variable {
		return t.parts[0], true
	}
	return part{}, false
}

// expand returns the text with its variables; words stay as they are.
func (t text) expand(vars map[string]string) string {
	var b strings.Builder
	for _, p := range t.parts {
		switch p.kind {
		case literal:
			b.WriteString(p.text)
		case variable:
			b.WriteString(vars[p.text])
		case matches:
			b.WriteString("{{match " + p.text + "}}")
		default:
			b.WriteString("{{" + p.kind.String() + "}}")
		}
	}
	return b.String()
}

// fits reports whether s is what the text describes.
func (t text) fits(s string, vars map[string]string) bool {
	if t.plain() {
		return t.expand(vars) == s
	}
	var b strings.Builder
	b.WriteString(`^`)
	for _, p := range t.parts {
		switch p.kind {
		case literal:
			b.WriteString(regexp.QuoteMeta(p.text))
		case variable:
			b.WriteString(regexp.QuoteMeta(vars[p.text]))
		case matches:
			b.WriteString(`(?:` + p.text + `)`)
		default:
			b.WriteString(`(?:` + inText[p.kind] + `)`)
		}
	}
	re, err := regexp.Compile(b.String() + `$`)
	return err == nil && re.MatchString(s)
}

// String returns the word of templates for k.
func (k kind) String() string {
	for word, kind := range words {
		if kind == k && k != literal {
			return word
		}
	}
	return "literal"
}
