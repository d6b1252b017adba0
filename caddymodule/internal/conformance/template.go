package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// template is what a JSON value must be.
type template struct {
	text     *text // a string, or a word for a type
	value    any   // json.Number, bool or nil, where text is nil
	object   map[string]*template
	more     bool // the object may have other members
	array    []*template
	each     *template
	contains *template
	shape    shape
}

type shape uint8

const (
	scalar shape = iota
	object
	array
	arrayOf // each, contains
)

// comparison gathers what differs in one answer.
type comparison struct {
	vars  map[string]string
	blind bool // values of the answer are not printed
	out   []Difference
}

func (c *comparison) add(where, want, got string) {
	c.out = append(c.out, Difference{Where: where, Want: want, Got: got})
}

// unless returns s, which is of the answer, if it may be printed.
func (c *comparison) unless(s string) string {
	if c.blind {
		return "a value that is not shown, as a secret may be in it"
	}
	return s
}

// seen shows a value of the answer.
func (c *comparison) seen(v any) string { return c.unless(show(v)) }

// compare looks at one value at the JSON pointer where.
func (c *comparison) compare(t *template, where string, got any) {
	switch t.shape {
	case object:
		m, ok := got.(map[string]any)
		if !ok {
			c.add(where, "an object", c.seen(got))
			return
		}
		c.compareObject(t, where, m)
	case array, arrayOf:
		a, ok := got.([]any)
		if !ok {
			c.add(where, "an array", c.seen(got))
			return
		}
		c.compareArray(t, where, a)
	default:
		if want, ok := c.scalar(t, got); !ok {
			c.add(where, want, c.seen(got))
		}
	}
}

func (c *comparison) compareObject(t *template, where string, got map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(t.object)) {
		want, at := t.object[name], where+"/"+escape(name)
		v, there := got[name]
		switch {
		case want.absent() && there:
			c.add(at, "no such member", c.seen(v))
		case !want.absent() && !there:
			c.add(at, c.render(want), "no such member")
		case there:
			c.compare(want, at, v)
		}
	}
	if t.more {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := t.object[name]; !ok {
			c.add(where+"/"+escape(name), "no such member", c.seen(got[name]))
		}
	}
}

func (c *comparison) compareArray(t *template, where string, got []any) {
	if t.shape == array {
		if len(got) != len(t.array) {
			c.add(where, fmt.Sprintf("an array of %d", len(t.array)), fmt.Sprintf("an array of %d", len(got)))
		}
		for i := range min(len(got), len(t.array)) {
			c.compare(t.array[i], where+"/"+strconv.Itoa(i), got[i])
		}
		return
	}
	if t.each != nil {
		for i, v := range got {
			c.compare(t.each, where+"/"+strconv.Itoa(i), v)
		}
	}
	if t.contains == nil {
		return
	}
	for _, v := range got {
		one := comparison{vars: c.vars, blind: c.blind}
		if one.compare(t.contains, where, v); len(one.out) == 0 {
			return
		}
	}
	c.add(where, "an element that is "+c.render(t.contains), c.seen(got))
}

// scalar says what is wanted and whether got is that.
func (c *comparison) scalar(t *template, got any) (string, bool) {
	if t.text == nil {
		return show(t.value), sameScalar(t.value, got)
	}
	if p, ok := t.text.single(); ok {
		return t.text.raw, p.accepts(got)
	}
	s, ok := got.(string)
	return show(t.text.expand(c.vars)), ok && t.text.fits(s, c.vars)
}

// accepts reports whether a value is of the kind that a word names.
func (p part) accepts(got any) bool {
	text, isText := got.(string)
	number, isNumber := got.(json.Number)
	_, isBool := got.(bool)
	_, err := time.Parse(time.RFC3339, text)
	switch p.kind {
	case anything:
		return true
	case aString:
		return isText
	case anInteger:
		return isNumber && !strings.ContainsAny(number.String(), ".eE")
	case aNumber:
		return isNumber
	case aBool:
		return isBool
	case aNull:
		return got == nil
	case aTime:
		return isText && err == nil
	case timeOrNull:
		return got == nil || isText && err == nil
	case matches:
		return isText && p.re.MatchString(text)
	}
	return false
}

// sameScalar compares numbers by value and all else by type and value.
func sameScalar(want, got any) bool {
	w, ok := want.(json.Number)
	if !ok {
		return want == got
	}
	g, ok := got.(json.Number)
	if !ok || w == g {
		return ok
	}
	a, errA := w.Float64()
	b, errB := g.Float64()
	// Whole numbers beyond 2^53 are equal by their digits alone.
	return errA == nil && errB == nil && a == b && (a < 1<<53 && a > -1<<53)
}

func (t *template) absent() bool {
	if t.shape != scalar || t.text == nil {
		return false
	}
	p, ok := t.text.single()
	return ok && p.kind == absent
}

// render shows a template as the file has it, with variables.
func (c *comparison) render(t *template) string {
	switch t.shape {
	case object:
		var members []string
		for _, name := range slices.Sorted(maps.Keys(t.object)) {
			members = append(members, strconv.Quote(name)+": "+c.render(t.object[name]))
		}
		return "{" + strings.Join(members, ", ") + "}"
	case array:
		var elements []string
		for _, e := range t.array {
			elements = append(elements, c.render(e))
		}
		return "[" + strings.Join(elements, ", ") + "]"
	case arrayOf:
		return "an array"
	}
	want, _ := c.scalar(t, nil)
	return want
}

// show renders a value as JSON.
func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// escape makes a member name part of a JSON pointer.
func escape(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}
