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
	object := map[string]any{}
	if len(body) > 0 {
		var err error
		if object, err = parseObject(body); err != nil {
			return nil, err
		}
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
	if c.d.Unknown != "ignore" {
		for _, name := range sortedKeys(object) {
			return nil, refused(clip(name), "there is no field %q here", clip(name))
		}
	}
	return r.out, nil
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

// expires notes that a member gives an expiry; only one may.
func (r *reading) expires() *InputError {
	if r.expiry != "" {
		return refused(r.name, "%s and %s both say when the key expires: give one", r.expiry, r.name)
	}
	r.expiry = r.name
	return nil
}

func (r *reading) expiresAt(v any) *InputError {
	if err := r.expires(); err != nil {
		return err
	}
	if v == nil {
		r.out.Never = true
		return nil
	}
	at, err := r.time(v)
	r.out.ExpiresAt = at
	return err
}

// time reads a point in time in the dialect's form, in whole seconds.
func (r *reading) time(v any) (*time.Time, *InputError) {
	const latest = 253402300799 // the last second of the year 9999
	switch r.c.d.Time {
	case "unix":
		n, err := r.whole(v, latest)
		return new(time.Unix(n, 0).UTC()), err
	case "unix_ms":
		n, err := r.whole(v, latest*1000)
		if err == nil && n < 1000 {
			err = r.wrong(v, "a point in time in milliseconds")
		}
		return new(time.Unix(n/1000, 0).UTC()), err
	}
	s, ok := v.(string)
	if ok {
		if t, err := time.Parse(time.RFC3339, s); err == nil && t.Unix() > 0 && t.Unix() <= latest {
			return new(t.UTC().Truncate(time.Second)), nil
		}
	}
	return nil, r.wrong(v, "a time such as 2030-01-31T00:00:00Z")
}

func (r *reading) expiresIn(v any, unit time.Duration) *InputError {
	if err := r.expires(); err != nil {
		return err
	}
	if v == nil {
		r.out.Never = true
		return nil
	}
	n, err := r.whole(v, int64(maxExpiry/unit))
	if err == nil {
		r.out.ExpiresIn = new(time.Duration(n) * unit)
	}
	return err
}

// rates notes that a member gives a rate; only one may.
func (r *reading) rates(v any) (done bool, err *InputError) {
	if r.rate != "" {
		return true, refused(r.name, "%s and %s both give the rate: give one", r.rate, r.name)
	}
	r.rate, r.out.PlanRate = r.name, v == nil
	return v == nil, nil
}

func (r *reading) ratePerMinute(v any) *InputError {
	if done, err := r.rates(v); done {
		return err
	}
	n, err := r.whole(v, access.MaxPerSecond*60)
	if err != nil {
		return err
	}
	return r.setRate(access.Rate{Requests: uint32(n), Burst: uint32(n), Window: time.Minute})
}

func (r *reading) rateObject(v any) *InputError {
	if done, err := r.rates(v); done {
		return err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return r.wrong(v, `an object such as {"requests":100,"window":"1m"}`)
	}
	for _, name := range sortedKeys(object) {
		if name != "requests" && name != "window" && name != "burst" && r.c.d.Unknown != "ignore" {
			at := clip(r.name + "." + name)
			return refused(at, "there is no field %q here", at)
		}
	}
	var rate access.Rate
	var err *InputError
	if rate.Requests, err = r.count(object["requests"]); err != nil {
		return err
	}
	rate.Burst = rate.Requests
	if burst, given := object["burst"]; given {
		if rate.Burst, err = r.count(burst); err != nil {
			return err
		}
	}
	window, ok := object["window"].(string)
	if !ok {
		return refused(r.name, "%s: the window must be a text such as 1m", r.name)
	}
	span, bad := access.ParseWindow(window)
	if bad != nil {
		return refused(r.name, "%s: the window must last from 1ms to 366d, such as 1m", r.name)
	}
	rate.Window = span
	return r.setRate(rate)
}

func (r *reading) count(v any) (uint32, *InputError) {
	n, err := r.whole(v, access.MaxRequests)
	return uint32(n), err
}

func (r *reading) setRate(rate access.Rate) *InputError {
	if err := rate.Validate(); err != nil {
		return refused(r.name, "%s: %s", r.name, err)
	}
	r.out.Rate = &rate
	return nil
}

func (r *reading) grace(v any) *InputError {
	if v == json.Number("0") {
		r.out.Grace = new(time.Duration)
		return nil
	}
	n, err := r.whole(v, int64(access.MaxWindow/time.Second))
	if err == nil {
		r.out.Grace = new(time.Duration(n) * time.Second)
	}
	return err
}
