package credit

import (
	"errors"
	"fmt"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Errors of the ledger. Those of slots are passed on as they are.
var (
	// ErrAmount reports a price or a number of units out of range.
	ErrAmount = errors.New("amount is out of range")
	// ErrCost reports a final cost or a number of units out of range: an error
	// of the upstream. What was reserved stands.
	ErrCost = errors.New("the cost is below zero or out of range: what was reserved stands")
	// ErrOverflow reports a cost that an account cannot hold. What was
	// reserved stands.
	ErrOverflow = errors.New("the cost is more than an account can hold: what was reserved stands")
	// ErrExhausted reports that a running cost, which was charged, is more
	// than there was.
	ErrExhausted = errors.New("credits or a quota are used up")
	// ErrOpen reports a receipt that was not settled before its next charge,
	// or a charge without a tenant.
	ErrOpen = errors.New("the receipt is in use, or the charge has no tenant")
)

// Exhausted is ErrExhausted for credits.
type Exhausted struct {
	Short access.Credits // of what was charged last, how much there was not
}

// Error describes it.
func (e *Exhausted) Error() string { return ErrExhausted.Error() }

// Is makes it ErrExhausted.
func (e *Exhausted) Is(target error) bool { return target == ErrExhausted }

// Reason is why a charge was refused.
type Reason uint8

// The reasons.
const (
	Charged             Reason = iota // it was not
	QuotaExceeded                     // answer 429
	InsufficientCredits               // answer 402
	Failed                            // see Err: answer 503
)

// Refusal is the outcome of a charge. Its zero value is that it was charged.
type Refusal struct {
	Reason Reason
	OfKey  bool  // the key's limit refused, not the tenant's
	Meter  Meter // if QuotaExceeded

	Needed    access.Credits // if InsufficientCredits: the price
	Available access.Credits // what there is, overage included

	// Resets is the unix second in which the exhausted period ends, the latest
	// if there are several quotas; 0 if it never does. Retry is the time until
	// then, at least a second.
	Resets int64
	Retry  time.Duration

	Err error // if Failed

	end int64 // as Resets, but the largest number for never
}

// OK reports whether the charge was made.
func (f *Refusal) OK() bool { return f.Reason == Charged }

// Error describes the refusal.
func (f *Refusal) Error() string {
	whose := "the tenant's"
	if f.OfKey {
		whose = "the key's"
	}
	switch f.Reason {
	case Charged:
		return "charged"
	case QuotaExceeded:
		return fmt.Sprintf("%s quota of %s is used up", whose, f.Meter)
	case InsufficientCredits:
		return fmt.Sprintf("%s credits are not enough: %s needed, %s available", whose, f.Needed, f.Available)
	}
	return fmt.Sprintf("charging failed: %v", f.Err)
}

// Unwrap returns Err.
func (f *Refusal) Unwrap() error { return f.Err }

// until sets Resets and Retry.
func (f *Refusal) until(end, now int64) {
	f.end = end
	if end <= maxUnix {
		f.Resets, f.Retry = end, time.Duration(max(end-now, 1))*time.Second
	}
}

func failed(err error, ofKey bool) Refusal { return Refusal{Reason: Failed, Err: err, OfKey: ofKey} }
