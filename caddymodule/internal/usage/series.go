package usage

import (
	"errors"
	"fmt"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Names of what could not be kept apart. No tenant and no key has them.
const (
	OtherTenant = "*" // stands for tenants beyond the second bound of a minute
	otherName   = "other"
)

// OtherKey stands for the keys of a tenant beyond the bound of a minute, an hour
// or a day.
var OtherKey = access.KeyID{'*'}

// MaxRoute is how many bytes of a route's name are kept.
const MaxRoute = 128

// Class is the kind of answer a request got.
type Class uint8

// The classes. Zero is none: in a Filter it is any.
const (
	Class1xx Class = 1 + iota // of the API's status, the final one
	Class2xx
	Class3xx
	Class4xx
	Class5xx
	Refused // the gateway's own answer, whatever its status
)

var classNames = [...]string{"", "1xx", "2xx", "3xx", "4xx", "5xx", "refused"}

// ClassOf returns the class of a status of the API; Class5xx for what is no
// status.
func ClassOf(status int) Class {
	if status < 100 || status > 599 {
		return Class5xx
	}
	return Class(status / 100)
}

// String returns "2xx" and so on, "refused", or "" for none.
func (c Class) String() string {
	if int(c) >= len(classNames) {
		return ""
	}
	return classNames[c]
}

// ParseClass reads what String writes, but for "".
func ParseClass(s string) (Class, error) {
	for i, n := range classNames {
		if i > 0 && n == s {
			return Class(i), nil
		}
	}
	return 0, fmt.Errorf("unknown class %q: want 1xx, 2xx, 3xx, 4xx, 5xx or refused", s)
}

// Flags tell requests of a series from others.
type Flags uint8

// The flags.
const (
	Bypassed Flags = 1 << iota // no credits were taken: the caller brought a provider key
	Observed                   // would have been refused, but the limit is only observed
)

// Series names one row of counts. It is comparable.
type Series struct {
	Tenant string       // empty if the request had none
	Key    access.KeyID // zero if the request had none
	Route  string       // name in the configuration; may be empty
	Class  Class
	Flags  Flags
}

// ErrKey reports text that names no key.
var ErrKey = errors.New("not a key: want key_ and 16 letters or digits, or other")

// KeyName returns the id's text, "other" for OtherKey and "" for the zero id.
func KeyName(id access.KeyID) string {
	switch id {
	case access.KeyID{}:
		return ""
	case OtherKey:
		return otherName
	}
	return id.String()
}

// ParseKey reads what KeyName writes, but for "". It returns ErrKey.
func ParseKey(s string) (access.KeyID, error) {
	if s == otherName {
		return OtherKey, nil
	}
	id, err := access.ParseKeyID(s)
	if err != nil {
		return id, ErrKey
	}
	return id, nil
}

// own is s with names that nobody else has a part of.
func (s Series) own() Series {
	s.Tenant, s.Route = strings.Clone(s.Tenant), strings.Clone(s.Route)
	return s
}

// other is the series that stands for s once a minute, an hour or a day has its
// number of series.
func (s Series) other() Series {
	s.Key = OtherKey
	return s
}

// nobody is the series that stands for s once there are too many others.
func (s Series) nobody() Series {
	return Series{Tenant: OtherTenant, Key: OtherKey, Class: s.Class, Flags: s.Flags}
}
