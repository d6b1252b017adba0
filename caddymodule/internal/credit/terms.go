package credit

import (
	"errors"
	"fmt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// Meter is what a quota counts. The numbers are stored: never change one.
type Meter uint8

// The meters. Credits are no meter: they have an Allowance.
const (
	Requests Meter = iota
	BytesIn
	BytesOut
	Seconds
	NumMeters = 4
)

var meterNames = [NumMeters]string{"requests", "bytes_in", "bytes_out", "seconds"}

// String returns the lower-case word for m, or "invalid".
func (m Meter) String() string {
	if int(m) >= NumMeters {
		return "invalid"
	}
	return meterNames[m]
}

// ParseMeter reads requests, bytes_in, bytes_out or seconds.
func ParseMeter(s string) (Meter, error) {
	for m, name := range meterNames {
		if name == s {
			return Meter(m), nil
		}
	}
	return 0, fmt.Errorf("%q is not a meter: want requests, bytes_in, bytes_out or seconds", s)
}

// Units is what a request uses of each meter. None is below zero.
type Units [NumMeters]int64

// Terms is what a plan and overrides say for one tenant or one key. It must
// not be changed once used: make another, and keep it for as long as it holds,
// as a purse is quickest if it is given the same pointer each time.
type Terms struct {
	// Credits is the allowance. Nil means that credits are neither limited nor
	// counted, and grants are not spent. A tenant with nothing but grants has
	// an allowance of 0.
	Credits *Allowance
	Quotas  []Quota // one for each meter and kind of period
	Grants  []Grant // in any order; a key has none
}

// Allowance is an amount of credits for each period.
type Allowance struct {
	Amount  access.Credits // 0 to access.MaxCredits
	Period  period.Period  // endless: a balance that never resets
	Overage access.Credits // that may be used beyond Amount and grants
	Add     bool           // unused credits are added to the next period's
	Strict  bool           // nothing is spent before it is durable
	Block   access.Credits // leased at a time if Strict; 0: 256 times the price at hand
}

// Quota is a number of units for each period.
type Quota struct {
	Meter  Meter
	Amount int64 // 0 and up
	Period period.Period
}

// Grant is an amount of credits given once.
type Grant struct {
	ID      [16]byte // no other grant of the tenant ever had it
	Amount  access.Credits
	Expires int64 // unix second from which on it cannot be spent; 0 means never
}

func (g *Grant) spendable(now int64) bool { return g.Expires == 0 || now < g.Expires }

// Check says what is wrong with t, or nil. Terms that it does not pass are
// refused by the ledger.
func (t *Terms) Check() error {
	if a := t.Credits; a != nil {
		if err := a.check(); err != nil {
			return err
		}
	}
	for i, q := range t.Quotas {
		if err := q.check(); err != nil {
			return err
		}
		for _, r := range t.Quotas[:i] {
			if r.Meter == q.Meter && r.Period.Kind == q.Period.Kind {
				return fmt.Errorf("two quotas of %s for each %s", q.Meter, q.Period.Kind)
			}
		}
	}
	return checkGrants(t.Grants)
}

func checkGrants(list []Grant) error {
	if len(list) == 0 {
		return nil
	}
	ids := make(map[[16]byte]bool, len(list))
	for _, g := range list {
		if g.Amount < 0 || g.Amount > access.MaxCredits || g.Expires < 0 {
			return fmt.Errorf("grant %x: amount or expiry out of range", g.ID)
		}
		if ids[g.ID] {
			return fmt.Errorf("grant %x is there twice", g.ID)
		}
		ids[g.ID] = true
	}
	return nil
}

func (a *Allowance) check() error {
	for _, c := range [...]access.Credits{a.Amount, a.Overage, a.Block} {
		if c < 0 || c > access.MaxCredits {
			return errors.New("credits of a period, overage and block are from 0 to 1000000000000")
		}
	}
	return a.Period.Check()
}

func (q *Quota) check() error {
	if int(q.Meter) >= NumMeters {
		return errors.New("no such meter")
	}
	if q.Amount < 0 {
		return fmt.Errorf("a quota of %s below zero", q.Meter)
	}
	return q.Period.Check()
}
