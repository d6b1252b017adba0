package dialect

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of a request body.
const (
	maxBody  = 64 << 10 // bytes
	maxDepth = 32       // nested objects and arrays
)

// parseObject reads a body as one object of JSON: its values are strings,
// json.Numbers, bools, nils, []any and map[string]any. encoding/json alone
// would take the last of two equal members and replace what is not UTF-8; both
// let two readers of one body see two different requests.
func parseObject(body []byte) (map[string]any, error) {
	switch {
	case len(body) > maxBody:
		return nil, refused("", "the body is longer than %d bytes", maxBody)
	case !utf8.Valid(body):
		return nil, refused("", "the body is not valid UTF-8")
	case !json.Valid(body):
		return nil, refused("", "the body is not valid JSON")
	}
	t := tree{dec: json.NewDecoder(bytes.NewReader(body))}
	t.dec.UseNumber()
	v, err := t.value("")
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, refused("", "the body must be a JSON object")
	}
	return object, nil
}

// tree reads a document that is known to be valid.
type tree struct {
	dec   *json.Decoder
	depth int
}

func (t *tree) value(path string) (any, error) {
	tok, err := t.dec.Token()
	if err != nil {
		return nil, refused("", "the body is not valid JSON")
	}
	switch tok {
	case json.Delim('{'):
		return t.object(path)
	case json.Delim('['):
		return t.array(path)
	}
	return tok, nil
}

func (t *tree) object(path string) (any, error) {
	object := make(map[string]any)
	err := t.nest(func() error {
		tok, err := t.dec.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return refused("", "the body is not valid JSON")
		}
		at := strings.TrimPrefix(clip(path)+"."+name, ".") // clipped: it is made for each member
		if _, twice := object[name]; twice {
			return refused(clip(at), "the field %q stands twice", clip(at))
		}
		object[name], err = t.value(at)
		return err
	})
	return object, err
}

func (t *tree) array(path string) (any, error) {
	list := []any{}
	err := t.nest(func() error {
		v, err := t.value(path)
		list = append(list, v)
		return err
	})
	return list, err
}

// nest calls each for the members of the object or array that was opened.
func (t *tree) nest(each func() error) error {
	if t.depth++; t.depth > maxDepth {
		return refused("", "the body is nested more than %d deep", maxDepth)
	}
	for t.dec.More() {
		if err := each(); err != nil {
			return err
		}
	}
	t.depth--
	if _, err := t.dec.Token(); err != nil {
		return refused("", "the body is not valid JSON")
	}
	return nil
}

func refused(field, format string, args ...any) *InputError {
	return &InputError{Field: field, Message: fmt.Sprintf(format, args...)}
}

// clip keeps an answer short whatever was sent.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
