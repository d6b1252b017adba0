package dialect

import (
	"encoding/json"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// expires notes that a member gives an expiry; only one may.
func (r *reading) expires() *InputError {
	if r.expiry != "" {
		return refused(r.name, "%s and %s both say when the key expires: give one", r.expiry, r.name)
	}
	r.expiry, r.out.ExpiryName = r.name, r.name
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
	r.rate, r.out.RateName, r.out.PlanRate = r.name, r.name, v == nil
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
