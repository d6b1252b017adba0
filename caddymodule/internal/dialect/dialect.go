// Package dialect is how an API product speaks of keys: the envelope, codes
// and messages of its errors, the names and forms of a key's members, the
// shapes of its management answers and what its requests may say. It is data,
// checked when the configuration is loaded; no product has code of its own.
package dialect

import (
	"maps"
	"slices"
)

// Dialect is one product's way of speaking. The zero value is keytoll's own.
type Dialect struct {
	// Errors is the envelope of error bodies: standard is {"error":{"code",
	// "message"}}, with "details" if there are any; success is {"success":false,
	// "error":{"code","message","details":{}}}; problem is RFC 9457; flat is
	// {"code","message"}, with details beside. Default: standard.
	Errors string `json:"errors,omitempty"`
	// Codes is the case of error codes: lower or upper. Default: lower.
	Codes string `json:"codes,omitempty"`
	// Reasons changes what is answered for a reason, by its label, such as
	// expired, or for an error of the management API, by its code, such as
	// not_found. What is not set stays as it is.
	Reasons map[string]*Answer `json:"reasons,omitempty"`
	// Fields is the case of member names: snake or camel. Default: snake.
	Fields string `json:"fields,omitempty"`
	// Names gives a field a name of the product's own, which stays as written.
	Names map[string]string `json:"names,omitempty"`
	// Time is the form of points in time, in answers and requests: rfc3339, unix
	// (seconds) or unix_ms. Default: rfc3339.
	Time string `json:"time,omitempty"`

	// The answers and requests of the management API; nil is keytoll's own.
	Create *Shape `json:"create,omitempty"`
	List   *Shape `json:"list,omitempty"`
	Get    *Shape `json:"get,omitempty"`
	Update *Shape `json:"update,omitempty"`
	Rotate *Shape `json:"rotate,omitempty"`
	Revoke *Shape `json:"revoke,omitempty"`
	Me     *Shape `json:"me,omitempty"`

	// Foreign is the status for an id that is not the caller's or that does not
	// exist: 403 or 404. Default: 404.
	Foreign int `json:"foreign,omitempty"`
	// Unknown is what becomes of a request with a member that is none of the
	// inputs: refuse, or ignore the member. Default: refuse.
	Unknown string `json:"unknown,omitempty"`
	// Realm is that of WWW-Authenticate. Default: api.
	Realm string `json:"realm,omitempty"`
	// Reset is the form of X-RateLimit-Reset: epoch (unix seconds), seconds (from
	// now), iso (RFC 3339) or off. Default: epoch.
	Reset string `json:"reset,omitempty"`
	// RateHeaders is which rate limit headers are sent: x, draft, both or off.
	// Default: what the gate says.
	RateHeaders string `json:"rate_headers,omitempty"`
}

// Answer changes the answer to one reason. A zero member stays as it is.
type Answer struct {
	Status  int    `json:"status,omitempty"` // 400 to 599
	Code    string `json:"code,omitempty"`   // as written, whatever Codes says
	Message string `json:"message,omitempty"`
	// Details are members of the error's details. A text may hold {key_id},
	// {expired_at}, {header}, {permission}, {field}, {retry_after}, {limit},
	// {credits_needed} and {credits_available}; a member of which one is not known
	// for a request is left out. A text that is one of the last four alone becomes
	// a number.
	Details map[string]string `json:"details,omitempty"`
}

// Shape is the answer to one action, and what its request may say.
type Shape struct {
	// Status of the answer. Default: 201 for create, 204 for an empty body, else
	// 200.
	Status int `json:"status,omitempty"`
	// Wrap is the member that holds the key or, for list, the keys. Default: keys
	// for list, else none: the key's members are the answer's.
	Wrap string `json:"wrap,omitempty"`
	// Array makes the list a bare array.
	Array bool `json:"array,omitempty"`
	// Empty answers without a body; update and revoke alone may be.
	Empty bool `json:"empty,omitempty"`
	// Members are the fields of the key in the answer, in order. Default: all, or
	// id and status for revoke.
	Members []string `json:"members,omitzero"`
	// Extra are constant members beside the wrapped key or keys.
	Extra []Member `json:"extra,omitempty"`
	// Inputs are the fields that a request may set; nil is keytoll's own, an empty
	// list none.
	Inputs []string `json:"inputs,omitzero"`
	// Required are those of the inputs that a request must set.
	Required []string `json:"required,omitempty"`
	// Filters are the query parameters by which a list may be narrowed: status and
	// name. Nil is both, an empty list none.
	Filters []string `json:"filters,omitzero"`
	// Grace is how long the old secret lives on after rotate if the request does
	// not say: a duration such as 24h or 0s. Default: as configured for all keys.
	Grace string `json:"grace,omitempty"`
}

// Member is a constant member of an answer.
type Member struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	JSON  bool   `json:"json,omitempty"` // Value is JSON, such as true or 1, and not a text
}

// The actions of the management API.
const (
	Create = "create"
	List   = "list"
	Get    = "get"
	Update = "update"
	Rotate = "rotate"
	Revoke = "revoke"
	Me     = "me"
)

// Actions returns the names of the actions, in the order of a key's life.
func Actions() []string { return []string{Create, List, Get, Update, Rotate, Revoke, Me} }

// At returns where the shape of an action is kept, for reading and setting; nil
// if there is no such action.
func (d *Dialect) At(action string) **Shape {
	switch action {
	case Create:
		return &d.Create
	case List:
		return &d.List
	case Get:
		return &d.Get
	case Update:
		return &d.Update
	case Rotate:
		return &d.Rotate
	case Revoke:
		return &d.Revoke
	case Me:
		return &d.Me
	}
	return nil
}

// Clone returns a copy that shares nothing with d, to be changed.
func (d *Dialect) Clone() *Dialect {
	out := *d
	out.Names = maps.Clone(d.Names)
	out.Reasons = maps.Clone(d.Reasons)
	for label, a := range out.Reasons {
		if a != nil {
			out.Reasons[label] = a.clone()
		}
	}
	for _, action := range Actions() {
		if s := out.At(action); *s != nil {
			*s = (*s).clone()
		}
	}
	return &out
}

func (a *Answer) clone() *Answer {
	out := *a
	out.Details = maps.Clone(a.Details)
	return &out
}

func (s *Shape) clone() *Shape {
	out := *s
	out.Members, out.Extra = slices.Clone(s.Members), slices.Clone(s.Extra)
	out.Inputs, out.Required, out.Filters = slices.Clone(s.Inputs), slices.Clone(s.Required), slices.Clone(s.Filters)
	return &out
}
