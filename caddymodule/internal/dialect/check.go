package dialect

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// managementCodes are the codes of errors of the management API.
var managementCodes = []string{
	"not_found", "conflict", "exists", "forbidden", "invalid_request", "idempotency_mismatch", "unsupported_media_type",
	"body_too_large", "method_not_allowed", "unavailable", "internal",
}

// placeholders are the values that a text of details may hold.
var placeholders = []string{"key_id", "expired_at", "header", "permission", "retry_after", "field", "limit", "credits_needed", "credits_available"}

// Check says what is wrong with d and what to write instead, or nil.
func (d *Dialect) Check() error {
	for _, c := range []struct {
		word, value string
		options     []string
	}{
		{"errors", d.Errors, []string{"standard", "success", "problem", "flat"}},
		{"codes", d.Codes, []string{"lower", "upper"}},
		{"fields", d.Fields, []string{"snake", "camel"}},
		{"time", d.Time, []string{"rfc3339", "unix", "unix_ms"}},
		{"unknown", d.Unknown, []string{"refuse", "ignore"}},
		{"reset", d.Reset, []string{"epoch", "seconds", "iso", "off"}},
		{"rate_headers", d.RateHeaders, []string{"x", "draft", "both", "off"}},
	} {
		if c.value != "" && !slices.Contains(c.options, c.value) {
			return fmt.Errorf("%s %q: want one of %s", c.word, c.value, strings.Join(c.options, ", "))
		}
	}
	if d.Foreign != 0 && d.Foreign != 403 && d.Foreign != 404 {
		return fmt.Errorf("foreign %d: want 403 or 404", d.Foreign)
	}
	if strings.ContainsFunc(d.Realm, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) || len(d.Realm) > 64 {
		return fmt.Errorf("realm %q: want at most 64 printable ASCII characters without quotes and backslashes", d.Realm)
	}
	if err := d.checkNames(); err != nil {
		return err
	}
	if err := d.checkReasons(); err != nil {
		return err
	}
	for _, action := range Actions() {
		if err := d.checkShape(action); err != nil {
			return fmt.Errorf("%s: %w", action, err)
		}
	}
	for _, list := range providerFields {
		if err := d.checkFields("provider keys", list, list); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dialect) checkNames() error {
	fields := allFields()
	for _, field := range sortedKeys(d.Names) {
		if !slices.Contains(fields, field) {
			return fmt.Errorf("name: there is no field %s: want one of %s", field, strings.Join(fields, ", "))
		}
		if err := checkName(d.Names[field]); err != nil {
			return fmt.Errorf("name %s: %w", field, err)
		}
	}
	return nil
}

// checkName says what is wrong with the name of a member.
func checkName(s string) error {
	bad := strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
	if s == "" || len(s) > 64 || bad {
		return fmt.Errorf("%q is no name for a member: want 1 to 64 visible ASCII characters without quotes and backslashes", s)
	}
	return nil
}

func (d *Dialect) checkReasons() error {
	for _, label := range sortedKeys(d.Reasons) {
		a := d.Reasons[label]
		if _, ok := reasonOf(label); !ok && !slices.Contains(managementCodes, label) {
			return fmt.Errorf("error: there is no reason %s: want one of %s", label, strings.Join(reasonLabels(), ", "))
		}
		if a == nil {
			return fmt.Errorf("error %s: give it a status, code, message or detail, or leave it out", label)
		}
		if err := d.checkAnswer(a); err != nil {
			return fmt.Errorf("error %s: %w", label, err)
		}
	}
	return nil
}

func (d *Dialect) checkAnswer(a *Answer) error {
	if a.Status != 0 && (a.Status < 400 || a.Status > 599) {
		return fmt.Errorf("status %d: want one from 400 to 599", a.Status)
	}
	if a.Code != "" {
		if err := checkName(a.Code); err != nil {
			return fmt.Errorf("code: %w", err)
		}
	}
	if access.CheckDescription(a.Message) != nil {
		return fmt.Errorf("message: want at most %d bytes of UTF-8 without control characters", access.MaxDescription)
	}
	for _, member := range sortedKeys(a.Details) {
		if err := checkName(member); err != nil {
			return fmt.Errorf("detail: %w", err)
		}
		if slices.Contains(d.reserved(), member) {
			return fmt.Errorf("detail %s: errors %s have a member of that name already; choose another", member, d.Errors)
		}
		if err := checkTemplate(a.Details[member]); err != nil {
			return fmt.Errorf("detail %s: %w", member, err)
		}
	}
	return nil
}

// reserved are the members that stand beside the details.
func (d *Dialect) reserved() []string {
	switch d.Errors {
	case "flat":
		return []string{"code", "message"}
	case "problem":
		return []string{"type", "title", "status", "detail", "instance", "code"}
	}
	return nil
}

func checkTemplate(text string) error {
	if access.CheckDescription(text) != nil {
		return fmt.Errorf("want at most %d bytes of UTF-8 without control characters", access.MaxDescription)
	}
	for _, p := range parseTemplate(text) {
		if p.value != "" && !slices.Contains(placeholders, p.value) {
			return fmt.Errorf("there is no {%s}: want one of {%s}", p.value, strings.Join(placeholders, "}, {"))
		}
	}
	return nil
}

func (d *Dialect) checkShape(action string) error {
	set := *d.At(action)
	if set == nil {
		set = new(Shape)
	}
	if err := checkOptions(action, set); err != nil {
		return err
	}
	s := d.resolved(action)
	if err := d.checkFields("members", s.Members, memberFields(action)); err != nil {
		return err
	}
	if err := d.checkFields("input", s.Inputs, inputFields(action)); err != nil {
		return err
	}
	for _, f := range s.Required {
		if !slices.Contains(s.Inputs, f) {
			return fmt.Errorf("required %s is none of the inputs: add it to input", f)
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(s.Required), func(f string) bool { return !slices.Contains(expiryInputs, f) })); n > 1 {
		return fmt.Errorf("required: want one of %s, since a request gives one", strings.Join(expiryInputs, ", "))
	}
	if err := d.checkFields("filter", s.Filters, filterFields); err != nil {
		return err
	}
	return d.checkExtra(s)
}

// checkOptions is about options that do not fit the action or one another.
func checkOptions(action string, s *Shape) error {
	switch {
	case s.Status != 0 && (s.Status < 200 || s.Status > 299):
		return fmt.Errorf("status %d: want one from 200 to 299", s.Status)
	case s.Status == 204 && !s.Empty && action != Revoke, s.Status == 205:
		return fmt.Errorf("status %d has no body: want 200 or 201", s.Status)
	case s.Status == 204 && !s.Empty:
		return fmt.Errorf("status 204 has no body: add empty or want 200")
	case s.Array && action != List:
		return fmt.Errorf("array is for list alone")
	case s.Array && s.Wrap != "":
		return fmt.Errorf("a bare array has no member %s: leave out array or wrap", s.Wrap)
	case s.Array && len(s.Extra) > 0:
		return fmt.Errorf("a bare array has no place for member %s: leave out array or member", s.Extra[0].Name)
	case s.Empty && action != Revoke && action != Update:
		return fmt.Errorf("empty is for update and revoke alone")
	case s.Empty && (s.Wrap != "" || len(s.Members) > 0 || len(s.Extra) > 0):
		return fmt.Errorf("an empty answer has no members: leave out empty, or wrap, members and member")
	case len(s.Inputs)+len(s.Required) > 0 && inputFields(action) == nil:
		return fmt.Errorf("input is for create, update and rotate alone")
	case len(s.Filters) > 0 && action != List:
		return fmt.Errorf("filter is for list alone")
	case s.Grace != "" && action != Rotate:
		return fmt.Errorf("grace is for rotate alone")
	}
	if _, err := parseGrace(s.Grace); err != nil {
		return err
	}
	if s.Wrap != "" {
		if err := checkName(s.Wrap); err != nil {
			return fmt.Errorf("wrap: %w", err)
		}
	}
	return nil
}

// checkFields refuses unknown fields, fields listed twice and two fields of one
// name.
func (d *Dialect) checkFields(word string, fields, options []string) error {
	named := make(map[string]string)
	for _, f := range fields {
		if !slices.Contains(options, f) {
			return fmt.Errorf("%s: there is no %s here: want some of %s", word, f, strings.Join(options, ", "))
		}
		other, taken := named[d.name(f)]
		switch {
		case other == f:
			return fmt.Errorf("%s: %s is listed twice", word, f)
		case taken:
			return fmt.Errorf("%s: %s and %s are both named %s: give one another name", word, other, f, d.name(f))
		}
		named[d.name(f)] = f
	}
	return nil
}

// checkExtra refuses constant members that clash with what is beside them.
func (d *Dialect) checkExtra(s *Shape) error {
	beside := []string{s.Wrap}
	if s.Wrap == "" {
		for _, f := range s.Members {
			beside = append(beside, d.name(f))
		}
	}
	for _, m := range s.Extra {
		if err := checkName(m.Name); err != nil {
			return fmt.Errorf("member: %w", err)
		}
		if access.CheckDescription(m.Value) != nil {
			return fmt.Errorf("member %s: want at most %d bytes of UTF-8 without control characters", m.Name, access.MaxDescription)
		}
		if m.JSON && !json.Valid([]byte(m.Value)) {
			return fmt.Errorf("member %s: %q is not JSON: want such as true, 1 or null, or leave out json for a text", m.Name, m.Value)
		}
		if slices.Contains(beside, m.Name) {
			return fmt.Errorf("member %s: the answer has a member of that name already; choose another", m.Name)
		}
		beside = append(beside, m.Name)
	}
	return nil
}

// parseGrace reads the grace of a shape; nil if there is none.
func parseGrace(s string) (*time.Duration, error) {
	switch s {
	case "":
		return nil, nil
	case "0", "0s":
		return new(time.Duration), nil
	}
	grace, err := access.ParseWindow(s)
	if err != nil || grace%time.Second != 0 {
		return nil, fmt.Errorf("grace %q: want whole seconds up to 366d, such as 24h, or 0s", s)
	}
	return &grace, nil
}
