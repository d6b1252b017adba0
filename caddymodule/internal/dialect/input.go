package dialect

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// maxExpiry is the longest life that may be asked for as days or seconds.
const maxExpiry = 36500 * 24 * time.Hour

// input is one compiled member of a request.
type input struct {
	field, name string
	required    bool
	read        func(r *reading, v any) *InputError
}

// reading is a request being read.
type reading struct {
	c      *Compiled
	out    *Input
	name   string // of the member at hand
	expiry string // of the member that gave an expiry
	rate   string // of the member that gave a rate
}

// inputReaders read the value of each field.
var inputReaders = map[string]func(r *reading, v any) *InputError{
	"name":        func(r *reading, v any) *InputError { return r.text(v, &r.out.Name) },
	"description": func(r *reading, v any) *InputError { return r.text(v, &r.out.Description) },
	"environment": func(r *reading, v any) *InputError { return r.text(v, &r.out.Environment) },
	"disabled": func(r *reading, v any) *InputError {
		b, ok := v.(bool)
		if !ok {
			return r.wrong(v, "true or false")
		}
		r.out.Disabled = &b
		return nil
	},
	"permissions": func(r *reading, v any) *InputError {
		list, err := r.texts(v)
		if err == nil {
			r.out.Permissions = &list
		}
		return err
	},
	"addresses":          (*reading).addresses,
	"metadata":           (*reading).metadata,
	"rate":               (*reading).rateObject,
	"rate_per_minute":    (*reading).ratePerMinute,
	"expires_at":         (*reading).expiresAt,
	"expires_in_days":    func(r *reading, v any) *InputError { return r.expiresIn(v, 24*time.Hour) },
	"expires_in_seconds": func(r *reading, v any) *InputError { return r.expiresIn(v, time.Second) },
	"grace_seconds":      (*reading).grace,
}

// Input reads the body of a create, update or rotate request. Its error is an
// *InputError. An empty body is an object without members.
func (c *Compiled) Input(action string, body []byte) (*Input, error) {
	s := c.shapes[action]
	r := reading{c: c, out: &Input{Grace: s.grace}}
	object, err := members(body)
	if err != nil {
		return nil, err
	}
	for _, in := range s.inputs {
		v, given := object[in.name]
		if in.required && (!given || v == nil || v == "") {
			return nil, refused(in.name, "%s is required", in.name)
		}
		if !given {
			continue
		}
		delete(object, in.name)
		r.name = in.name
		if err := in.read(&r, v); err != nil {
			return nil, err
		}
		if list := r.out.Permissions; in.required && in.field == "permissions" && len(*list) == 0 {
			return nil, refused(in.name, "%s is required: it must not be empty", in.name)
		}
	}
	if err := c.unknown(object); err != nil {
		return nil, err
	}
	return r.out, nil
}

// members reads a body as an object; an empty one has no members.
func members(body []byte) (map[string]any, error) {
	if len(body) == 0 {
		return map[string]any{}, nil
	}
	return parseObject(body)
}

// unknown refuses members that are none of the inputs, unless the dialect
// ignores them.
func (c *Compiled) unknown(object map[string]any) error {
	if c.d.Unknown == "ignore" {
		return nil
	}
	for _, name := range sortedKeys(object) {
		return refused(clip(name), "there is no field %q here", clip(name))
	}
	return nil
}

// wrong is the error for a value of another kind than is wanted.
func (r *reading) wrong(v any, want string) *InputError {
	return refused(r.name, "%s: want %s, not %s", r.name, want, kind(v))
}

func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "that text" // which may be a secret in the wrong place
	case json.Number:
		return clip(v.String())
	case bool:
		return strconv.FormatBool(v)
	case []any:
		return "an array"
	}
	return "an object"
}

func (r *reading) text(v any, into **string) *InputError {
	s, ok := v.(string)
	if !ok {
		return r.wrong(v, "a text")
	}
	*into = &s
	return nil
}

func (r *reading) texts(v any) ([]string, *InputError) {
	list, ok := v.([]any)
	if !ok {
		return nil, r.wrong(v, "an array of texts")
	}
	out := make([]string, len(list))
	for i, e := range list {
		if out[i], ok = e.(string); !ok {
			return nil, r.wrong(e, "texts in the array")
		}
	}
	return out, nil
}

// whole reads a whole number from 1 to most.
func (r *reading) whole(v any, most int64) (int64, *InputError) {
	number, ok := v.(json.Number)
	if !ok {
		return 0, r.wrong(v, "a whole number")
	}
	n, err := strconv.ParseInt(number.String(), 10, 64)
	if err != nil || n < 1 || n > most {
		return 0, r.wrong(v, "a whole number from 1 to "+strconv.FormatInt(most, 10))
	}
	return n, nil
}

func (r *reading) addresses(v any) *InputError {
	list, err := r.texts(v)
	if err != nil {
		return err
	}
	if len(list) > access.MaxAddresses {
		return refused(r.name, "%s: at most %d networks are allowed, not %d", r.name, access.MaxAddresses, len(list))
	}
	out := []netip.Prefix{}
	for i, s := range list {
		p, ok := parseNetwork(s)
		if !ok {
			return refused(r.name, "%s: number %d is not a network: want one such as 203.0.113.0/24 or 2001:db8::/32", r.name, i+1)
		}
		out = append(out, p)
	}
	r.out.Addresses = &out
	return nil
}

// parseNetwork reads a CIDR or a single address. IPv4 in IPv6 form becomes IPv4.
func parseNetwork(s string) (netip.Prefix, bool) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, false
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, false
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

func (r *reading) metadata(v any) *InputError {
	object, ok := v.(map[string]any)
	if !ok {
		return r.wrong(v, "an object of texts")
	}
	out := make(map[string]string, len(object))
	for _, name := range sortedKeys(object) {
		if out[name], ok = object[name].(string); !ok {
			return refused(r.name, "%s: %q must be a text, not %s", r.name, clip(name), kind(object[name]))
		}
	}
	r.out.Metadata = &out
	return nil
}
