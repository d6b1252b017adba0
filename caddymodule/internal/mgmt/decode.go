package mgmt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Bounds of a request body.
const (
	maxBody  = 64 << 10 // bytes
	maxDepth = 32       // nested objects and arrays
)

// decode reads the body of r into v, a pointer to a struct. encoding/json alone
// would take the last of two equal fields, match names in any case, and
// replace what is not UTF-8; each of these lets two readers of one body see two
// different requests, so they are refused, by name.
//
// It returns the body as it came. An empty one is allowed if v is an optional.
func decode(w http.ResponseWriter, r *http.Request, v any) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, badRequest("", "the body is longer than %d bytes", maxBody)
	}
	if err != nil {
		return nil, badRequest("", "the body could not be read")
	}
	if _, ok := v.(optional); ok && len(body) == 0 {
		return nil, nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return nil, &Error{Status: http.StatusUnsupportedMediaType, Code: "invalid_request",
			Message: "the body must be JSON", Hint: "send the header Content-Type: application/json"}
	}
	return body, unmarshal(body, v)
}

// optional is a body that may be missing.
type optional interface{ mayBeMissing() }

// update is a body in which a member of null would change nothing without
// saying so.
type update interface{ refusesNull() }

// unmarshal is the part of decode that needs no request.
func unmarshal(body []byte, v any) error {
	if !utf8.Valid(body) {
		return badRequest("", "the body is not valid UTF-8")
	}
	s := scanner{dec: json.NewDecoder(bytes.NewReader(body))}
	s.dec.UseNumber()
	_, s.update = v.(update)
	if err := s.document(reflect.TypeOf(v)); err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return e
		}
		return badRequest("", "the body is not valid JSON")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return wrongType(err)
	}
	return nil
}

func wrongType(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && e.Field != "" {
		return badRequest(e.Field, "%s: a %s does not fit here", e.Field, e.Value)
	}
	return badRequest("", "the body does not fit: times are RFC 3339, such as 2030-01-31T00:00:00Z")
}

// scanner walks a document beside the type it is meant for.
type scanner struct {
	dec    *json.Decoder
	depth  int
	update bool // v is one
}

func (s *scanner) document(t reflect.Type) error {
	tok, err := s.dec.Token()
	if err != nil {
		return err
	}
	if tok != json.Delim('{') {
		return badRequest("", "the body must be a JSON object")
	}
	if err := s.object("", t); err != nil {
		return err
	}
	if _, err := s.dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest("", "the body holds more than one JSON object")
	}
	return nil
}

// value reads one value. Where t is nil or no struct, any fields may stand.
func (s *scanner) value(path string, t reflect.Type) error {
	tok, err := s.dec.Token()
	if err != nil {
		return err
	}
	if bare(t) == reflect.TypeFor[access.Credits]() {
		n, _ := tok.(json.Number)
		if _, err := access.ParseCredits(n.String()); err != nil {
			return badRequest(path, "%s: %s", path, err)
		}
	}
	switch tok := tok.(type) {
	case json.Delim:
		if tok == '{' {
			return s.object(path, t)
		}
		return s.nest(func() error { return s.value(path, nil) })
	case string:
		if bare(t) == reflect.TypeFor[time.Time]() {
			if _, err := time.Parse(time.RFC3339, tok); err != nil {
				return badRequest(path, "%s: want a time of RFC 3339, such as 2030-01-31T00:00:00Z", path)
			}
		}
	case nil:
		if s.update && s.depth == 1 && t != nil && t.Kind() == reflect.Pointer {
			return badRequest(path, "%s: null does not fit here: leave it out to keep what is there", path)
		}
	}
	return nil
}

func (s *scanner) object(path string, t reflect.Type) error {
	fields := fieldsOf(t)
	seen := map[string]bool{}
	return s.nest(func() error {
		tok, err := s.dec.Token()
		if err != nil {
			return err
		}
		name := tok.(string)                               // the decoder gives nothing else as a name
		at := strings.TrimPrefix(clip(path)+"."+name, ".") // clipped: it is made for each member
		if seen[name] {
			return badRequest(clip(at), "the field %q stands twice", clip(at))
		}
		seen[name] = true
		sub, ok := fields[name]
		if fields != nil && !ok {
			return badRequest(clip(at), "there is no field %q here", clip(at))
		}
		return s.value(at, sub)
	})
}

// nest calls each for the members of the object or array that was opened.
func (s *scanner) nest(each func() error) error {
	if s.depth++; s.depth > maxDepth {
		return badRequest("", "the body is nested more than %d deep", maxDepth)
	}
	for s.dec.More() {
		if err := each(); err != nil {
			return err
		}
	}
	s.depth--
	_, err := s.dec.Token()
	return err
}

// fieldsOf returns the JSON names of a struct and their types, or nil if t is
// none.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	t = bare(t)
	if t == nil || t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
		return nil
	}
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = f.Type
	}
	return fields
}

// bare returns the type that pointers and a Nullable hold.
func bare(t reflect.Type) reflect.Type {
	for t != nil {
		if n, ok := reflect.Zero(t).Interface().(interface{ inner() reflect.Type }); ok && t.Kind() == reflect.Struct {
			t = n.inner()
			continue
		}
		if t.Kind() != reflect.Pointer {
			break
		}
		t = t.Elem()
	}
	return t
}

func badRequest(field, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid_request", Field: field, Message: fmt.Sprintf(format, args...)}
}

// clip keeps an answer short whatever was sent.
func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
