package usage

import (
	"math"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/journal"
)

// Buckets is the number of buckets of a Latency.
const Buckets = 12

// bounds are the upper bounds of all buckets but the last, in microseconds.
var bounds = [Buckets - 1]int64{5e3, 10e3, 25e3, 50e3, 100e3, 250e3, 500e3, 1e6, 2.5e6, 5e6, 10e6}

// Latency counts requests by how long they took: up to 5, 10, 25, 50, 100, 250
// and 500 ms, 1, 2.5, 5 and 10 s, and longer.
type Latency [Buckets]int64

// Values are the sums of a series. Each stays at the greatest number when the
// sum does not fit.
type Values struct {
	Requests int64
	Credits  int64 // micro-credits
	BytesIn  int64 // of request bodies
	BytesOut int64 // of response bodies
	Micros   int64 // duration, microseconds
	Latency  Latency
}

// count adds a request.
func (v *Values) count(n *[journal.Numbers]int64) {
	v.Requests = add(v.Requests, 1)
	v.Credits = add(v.Credits, n[Credits])
	v.BytesIn = add(v.BytesIn, max(n[BytesIn], 0))
	v.BytesOut = add(v.BytesOut, max(n[BytesOut], 0))
	v.Micros = add(v.Micros, max(n[Micros], 0))
	v.Latency[bucket(n[Micros])]++
}

// Add adds the sums of o.
func (v *Values) Add(o *Values) {
	v.Requests = add(v.Requests, o.Requests)
	v.Credits = add(v.Credits, o.Credits)
	v.BytesIn = add(v.BytesIn, o.BytesIn)
	v.BytesOut = add(v.BytesOut, o.BytesOut)
	v.Micros = add(v.Micros, o.Micros)
	for i := range v.Latency {
		v.Latency[i] = add(v.Latency[i], o.Latency[i])
	}
}

// Mean returns the mean duration of a request; 0 if there was none.
func (v *Values) Mean() time.Duration {
	if v.Requests == 0 {
		return 0
	}
	return time.Duration(v.Micros/v.Requests) * time.Microsecond
}

// Quantile returns the upper bound of the bucket in which the share q of the
// requests, 0 to 1, has ended: so many were no slower. It is 0 if there was
// none and -1 if it took more than the last bound, ten seconds.
func (v *Values) Quantile(q float64) time.Duration {
	var all float64
	for _, n := range v.Latency {
		all += float64(n)
	}
	if all == 0 {
		return 0
	}
	var sum float64
	for i, n := range v.Latency[:Buckets-1] {
		if sum += float64(n); sum > 0 && sum >= q*all {
			return time.Duration(bounds[i]) * time.Microsecond
		}
	}
	return -1
}

func bucket(us int64) int {
	for i, b := range bounds {
		if us <= b {
			return i
		}
	}
	return Buckets - 1
}

// add returns a+b, or the nearest number there is.
func add(a, b int64) int64 {
	c := a + b
	if (c > a) == (b > 0) {
		return c
	}
	if b > 0 {
		return math.MaxInt64
	}
	if b < 0 {
		return math.MinInt64
	}
	return c
}
