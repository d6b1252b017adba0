// Package limit decides whether a request is within its rates.
//
// # Algorithm
//
// Every bucket is one number: the theoretical arrival time (TAT) of the
// generic cell rate algorithm, in nanoseconds of one monotonic clock. TAT - now
// is the bucket's debt, the time until it is full again. A request costs one
// [access.Rate.Interval] and passes while the debt it leaves is at most
// burst × interval. Intervals are rounded up, so in any window of length t a
// bucket admits at most burst + floor(rate × t) requests, whatever the
// schedule and however many goroutines ask. A bucket that owes nothing equals
// a new one, so forgetting it loses nothing.
//
// # Places
//
// A bucket is either a [Slot] that the caller keeps, or an entry in the
// limiter's own table under (class, subject). The table holds a bounded number
// of entries and takes the place of an entry only when that owes nothing. When
// no place is left, subjects that are not in the table share overflow buckets:
// they may be refused early, but they never get more than their own rate.
//
// # Many at once
//
// [Limiter.Take] consumes from all buckets of a request or from none. It locks
// what it needs in one global order (table shards ascending, then slots by
// address), so no other request sees a state in between and none deadlocks. A
// request with a single slot takes no lock: it is one compare-and-swap, or one
// load when refused.
//
// # Time
//
// All readings come from [Limiter.Now]. A reading may be older than others
// already used, as happens between goroutines; that only makes the answer
// stricter. Wall clock steps have no effect.
//
// # Changed rates
//
// The rate is an argument of each request. A bucket used with a new rate keeps
// its debt, up to an empty bucket of the new rate: nobody waits out a debt that
// the new rate could not have made. A bucket is meant to have one rate at a
// time; two limits on one subject need two classes.
package limit
