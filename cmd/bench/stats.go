package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

// sample is what one round cost one process.
type sample struct {
	cpu      time.Duration
	requests int
}

// interval is an estimate and the bounds that hold it in 95 of 100 cases.
type interval struct{ value, low, high float64 }

// resamples is the number of bootstrap draws: the 2.5 % tails hold 50 each.
const resamples = 2000

// perRequest returns the total CPU time over the total requests, 0 for none.
func perRequest(s []sample) time.Duration {
	var cpu time.Duration
	n := 0
	for _, x := range s {
		cpu += x.cpu
		n += x.requests
	}
	if n == 0 {
		return 0
	}
	return cpu / time.Duration(n)
}

// ratio compares the cost per request of two processes that were measured in
// the same rounds, which are drawn together: what slowed one slowed the other.
// It returns the zero interval if there are no rounds or their number differs.
func ratio(over, base []sample, rng *rand.Rand) interval {
	n := len(over)
	if n == 0 || n != len(base) {
		return interval{}
	}
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	est := interval{value: ratioOf(over, base, all)}
	draws := make([]float64, resamples)
	pick := make([]int, n)
	for d := range draws {
		for i := range pick {
			pick[i] = rng.IntN(n)
		}
		draws[d] = ratioOf(over, base, pick)
	}
	slices.Sort(draws)
	est.low, est.high = quantile(draws, 0.025), quantile(draws, 0.975)
	return est
}

func ratioOf(over, base []sample, rounds []int) float64 {
	var overCPU, overN, baseCPU, baseN float64
	for _, i := range rounds {
		overCPU += float64(over[i].cpu)
		overN += float64(over[i].requests)
		baseCPU += float64(base[i].cpu)
		baseN += float64(base[i].requests)
	}
	if overN == 0 || baseCPU == 0 {
		return 0
	}
	return overCPU / overN / (baseCPU / baseN)
}

// quantile returns the value below which the share q of sorted lies, between
// neighbours in proportion. It returns 0 for no values.
func quantile[T ~float64 | ~int64 | ~uint64](sorted []T, q float64) T {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	part := at - float64(i)
	return T(float64(sorted[i])*(1-part) + float64(sorted[i+1])*part)
}

// median sorts values and returns their middle.
func median[T ~float64 | ~int64 | ~uint64](values []T) T {
	slices.Sort(values)
	return quantile(values, 0.5)
}
