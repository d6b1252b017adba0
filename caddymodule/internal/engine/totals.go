package engine

import "sync/atomic"

// Totals are what the metrics read of metering, since its engine was opened.
// All may be used by many goroutines.
type Totals struct {
	Charged  atomic.Int64  // micro-credits taken from accounts
	Refunded atomic.Int64  // micro-credits of these that were given back
	Refused  atomic.Int64  // micro-credits asked for by requests that were refused for want of them
	Quota    atomic.Uint64 // requests refused by a quota
	Observed atomic.Uint64 // requests that an observed rule would have refused
}

// Settle counts the difference between what was charged and what a request
// cost in the end, in micro-credits.
func (t *Totals) Settle(charged, final int64) {
	switch {
	case final > charged:
		t.Charged.Add(final - charged)
	case final < charged:
		t.Refunded.Add(charged - final)
	}
}
