package registrar

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// MaxGrace is the longest grace that a rotation may ask for, unless the
// policy's own is longer.
const MaxGrace = 24 * time.Hour

// Policy is the rules for keys that the configuration sets. Zero turns a rule
// off.
type Policy struct {
	MaxExpiry     time.Duration   // from its creation or change, a key lives at most so long
	DefaultExpiry time.Duration   // how long a key lives for which no expiry was given
	IdleExpiry    time.Duration   // a key unused for so long expires
	RotateGrace   time.Duration   // how long the old secret stays good unless the request says
	RotateSettle  time.Duration   // how long it stays good once the new secret was used; 0: until the grace ends
	AuditRetain   time.Duration   // how long audit entries are kept
	Notice        []time.Duration // before expiry, when api_key_expiring is sent
}

// bounds is what a key may not exceed: its tenant's, its plan's and, at a
// desk, its creator's.
type bounds struct {
	caller *access.Key // nil for the operator
	tenant *access.Tenant
	plan   *access.Plan // nil for none
	now    int64        // unix seconds
}

// beyond is the refusal of something wider than the bounds.
func (b *bounds) beyond(field, format string, args ...any) *Error {
	e := invalid(field, format, args...)
	e.Code = Conflict
	if b.caller != nil {
		e.Code = Forbidden
	}
	return e
}

// checkPermissions says why a key may not be given the names.
func (r *Registrar) checkPermissions(b *bounds, names []string) error {
	all := r.o.Permissions()
	for _, p := range names {
		switch {
		case !all.Known(p):
			return invalid("permissions", "there is no permission %q in the configuration", p)
		case b.caller != nil && !all.Holds(b.caller.Permissions(), p):
			return b.beyond("permissions", "permission %q is not held by the key that makes this request", p)
		case b.plan != nil && b.plan.Permissions != nil && !all.Holds(b.plan.Permissions, p):
			return b.beyond("permissions", "the plan does not include the permission %q", p)
		case b.tenant.Permissions != nil && !all.Holds(b.tenant.Permissions, p):
			return b.beyond("permissions", "the tenant does not hold the permission %q", p)
		}
	}
	return nil
}

// checkRate says why a key may not be given a rate of its own, which replaces
// all of the plan's.
func (b *bounds) checkRate(rate access.Rate) error {
	if b.caller == nil || rate.IsZero() {
		return nil
	}
	limits := []access.Rate{b.caller.Rate}
	if b.caller.Rate.IsZero() {
		limits = nil
		if b.plan != nil {
			limits = b.plan.Rates
		}
	}
	for _, l := range limits {
		if above(rate, l) {
			return b.beyond("rate", "the rate %s is above %s, the limit of the key that makes this request", rate, l)
		}
	}
	return nil
}

// above reports whether r lets through what limit does not.
func above(r, limit access.Rate) bool {
	h1, l1 := bits.Mul64(uint64(r.Requests), uint64(limit.Window))
	h2, l2 := bits.Mul64(uint64(limit.Requests), uint64(r.Window))
	return r.Burst > limit.Burst || h1 > h2 || h1 == h2 && l1 > l2
}

// checkAddresses says why a key may not have the networks of rights, nil for
// any address.
func (b *bounds) checkAddresses(rights *access.Rights) error {
	if b.caller == nil || len(b.caller.Addresses()) == 0 {
		return nil
	}
	if rights == nil || len(rights.Addresses) == 0 {
		return b.beyond("addresses", "the key that makes this request is bound to networks: name some within them")
	}
	for _, a := range rights.Addresses {
		inside := false
		for _, c := range b.caller.Addresses() {
			inside = inside || c.Bits() <= a.Bits() && c.Contains(a.Addr())
		}
		if !inside {
			return b.beyond("addresses", "the network %s is not within those of the key that makes this request", a)
		}
	}
	return nil
}

// checkEnd says why a key may not expire then; 0 is never.
func (b *bounds) checkEnd(field string, expires int64) error {
	if b.caller == nil || b.caller.Expires == 0 || expires != 0 && expires <= b.caller.Expires {
		return nil
	}
	return b.beyond(field, "the expiry is after that of the key that makes this request")
}

// covers says why the caller may not be handed a secret of k, nil if k can do
// nothing that the caller cannot.
func (r *Registrar) covers(b *bounds, k *access.Key) error {
	if b.caller == nil || k.ID == b.caller.ID {
		return nil
	}
	held := r.o.Permissions()
	for _, p := range k.Permissions() {
		if !held.Holds(b.caller.Permissions(), p) {
			return b.beyond("permissions", "the key has the permission %q, which the key that makes this request does not hold", p)
		}
	}
	if err := b.checkAddresses(k.Rights); err != nil {
		return err
	}
	if err := b.checkEnd("expires_at", k.Expires); err != nil {
		return err
	}
	if err := b.checkOverride(k); err != nil {
		return err
	}
	if k.Rate.IsZero() {
		return b.checkPlanRate()
	}
	return b.checkRate(k.Rate)
}

// checkPlanRate says why the caller may not be handed a secret of a key with the
// plan's rates: its own is below each of them.
func (b *bounds) checkPlanRate() error {
	if b.caller.Rate.IsZero() {
		return nil
	}
	if b.plan != nil {
		for _, l := range b.plan.Rates {
			if !above(l, b.caller.Rate) {
				return nil
			}
		}
	}
	return b.beyond("rate", "the key has the plan's rate, which is above %s, that of the key that makes this request", b.caller.Rate)
}

// span writes a time as people do: in days where they are whole.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// newExpiry returns the unix second in which a new key expires, 0 for never.
func (r *Registrar) newExpiry(b *bounds, at *time.Time, in time.Duration) (int64, error) {
	field, now, p := "expires_at", r.now(), r.o.Policy()
	switch {
	case at != nil && in != 0:
		return 0, invalid("expires_in", "expires_in and expires_at exclude each other: give one")
	case in != 0:
		if field = "expires_in"; in < time.Second {
			return 0, invalid(field, "a key lives for at least a second")
		}
		t := now.Add(in)
		at = &t
	case at == nil && p.DefaultExpiry > 0:
		t := now.Add(p.DefaultExpiry)
		if p.MaxExpiry > 0 {
			t = now.Add(min(p.DefaultExpiry, p.MaxExpiry))
		}
		return b.clampEnd(t.Unix()), nil
	case at == nil && p.MaxExpiry > 0:
		return 0, invalid(field, "a key needs an expiry: at most %s from now", span(p.MaxExpiry))
	case at == nil:
		return b.clampEnd(0), nil
	}
	return at.Unix(), r.checkExpiry(b, field, *at)
}

// clampEnd returns an expiry that nobody asked for within the caller's.
func (b *bounds) clampEnd(expires int64) int64 {
	if b.checkEnd("", expires) != nil {
		return b.caller.Expires
	}
	return expires
}

// checkExpiry checks an expiry that was asked for.
func (r *Registrar) checkExpiry(b *bounds, field string, t time.Time) error {
	if err := r.checkInstant(field, t); err != nil {
		return err
	}
	if m := r.o.Policy().MaxExpiry; m > 0 && t.Unix() > r.now().Add(m).Unix() {
		return invalid(field, "the expiry is too late: at most %s from now", span(m))
	}
	return b.checkEnd(field, t.Unix())
}

func (r *Registrar) checkInstant(field string, t time.Time) error {
	switch {
	case t.Unix() <= r.o.Now().Unix():
		return invalid(field, "the expiry %s is in the past", t.UTC().Format(time.RFC3339))
	case !t.Before(maxExpiry):
		return invalid(field, "the expiry is after the year 9999: leave it out for a key that never expires")
	}
	return nil
}
