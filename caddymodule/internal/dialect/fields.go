package dialect

import (
	"slices"
	"strings"
)

// defaultMembers are the fields of a key in answers, in order.
var defaultMembers = []string{
	"id", "key", "name", "description", "prefix", "environment", "status", "permissions", "rate", "addresses",
	"metadata", "plan", "tenant", "created_at", "expires_at", "rotated_at", "previous_expires_at", "revoked_at",
	"last_used_at", "last_used_address", "last_used_agent",
}

// meMembers stand in the answer to me alone.
var meMembers = []string{"limits", "last_refusal"}

// defaultInputs are what a request may set. The rate per minute is not among
// them, because a rate says the same.
var defaultInputs = []string{
	"name", "description", "permissions", "rate", "expires_at", "expires_in_days", "expires_in_seconds",
	"addresses", "metadata",
}

// expiryInputs are the forms of an expiry, of which a request may use one.
var expiryInputs = []string{"expires_at", "expires_in_days", "expires_in_seconds"}

// memberFields and inputFields are all that may be listed for an action.
func memberFields(action string) []string {
	fields := append(slices.Clone(defaultMembers), "rate_per_minute")
	switch action {
	case Create, Rotate:
		return fields
	case Me:
		fields = append(fields, meMembers...)
	}
	return slices.DeleteFunc(fields, func(f string) bool { return f == "key" })
}

func inputFields(action string) []string {
	fields := append(slices.Clone(defaultInputs), "rate_per_minute")
	switch action {
	case Create:
		return append(fields, "environment")
	case Update:
		return append(fields, "disabled")
	case Rotate:
		return []string{"grace_seconds"}
	}
	return nil
}

// filterFields are the fields by which a list may be narrowed.
var filterFields = []string{"status", "name"}

// allFields are those that may be given a name.
func allFields() []string {
	fields := append(memberFields(Me), "key")
	for _, list := range providerFields {
		for _, f := range list {
			if !slices.Contains(fields, f) {
				fields = append(fields, f)
			}
		}
	}
	for _, action := range []string{Create, Update, Rotate} {
		for _, f := range inputFields(action) {
			if !slices.Contains(fields, f) {
				fields = append(fields, f)
			}
		}
	}
	return fields
}

// name returns the product's name of a canonical field.
func (d *Dialect) name(field string) string {
	if n := d.Names[field]; n != "" {
		return n
	}
	if d.Fields == "camel" {
		return camel(field)
	}
	return field
}

// camel turns expires_in_days into expiresInDays.
func camel(s string) string {
	words := strings.Split(s, "_")
	for i, w := range words[1:] {
		words[i+1] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, "")
}

// resolved returns the shape of an action with every default filled in.
func (d *Dialect) resolved(action string) *Shape {
	s := &Shape{Empty: action == Revoke}
	if set := *d.At(action); set != nil {
		s = set.clone()
	}
	switch {
	case s.Status != 0:
	case action == Create:
		s.Status = 201
	case s.Empty:
		s.Status = 204
	default:
		s.Status = 200
	}
	if action == List && !s.Array && s.Wrap == "" {
		s.Wrap = "keys"
	}
	if s.Members == nil && !s.Empty {
		s.Members = membersFor(action)
	}
	if s.Inputs == nil {
		s.Inputs = inputsFor(action)
	}
	if s.Filters == nil && action == List {
		s.Filters = filterFields
	}
	return s
}

func membersFor(action string) []string {
	if action == Revoke {
		return []string{"id", "status"}
	}
	fields := memberFields(action)
	return slices.DeleteFunc(fields, func(f string) bool { return f == "rate_per_minute" })
}

func inputsFor(action string) []string {
	fields := inputFields(action)
	return slices.DeleteFunc(fields, func(f string) bool { return f == "rate_per_minute" })
}
