package main

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func constant(n int, perRequest time.Duration) []sample {
	s := make([]sample, n)
	for i := range s {
		s[i] = sample{perRequest * 100, 100}
	}
	return s
}

func TestPerRequest(t *testing.T) {
	if got := perRequest([]sample{{300, 3}, {100, 1}, {600, 6}}); got != 100 {
		t.Errorf("got %d, want 100", got)
	}
	if got := perRequest(nil); got != 0 {
		t.Errorf("no rounds: got %d, want 0", got)
	}
}

// A cost that comes once in ten rounds, as a garbage collection does, counts as
// one in ten. The median of the rounds would not show it.
func TestRatioCountsRareCosts(t *testing.T) {
	base, over := constant(20, 100), constant(20, 100)
	over[3].cpu *= 2
	over[14].cpu *= 2
	got := ratio(over, base, rand.New(rand.NewPCG(1, 1)))
	if math.Abs(got.value-1.1) > 1e-9 {
		t.Errorf("ratio %g, want 1.1", got.value)
	}
	if got.low >= 1.1 || got.high <= 1.1 || got.low < 1 || got.high > 1.4 {
		t.Errorf("interval %g to %g does not fit", got.low, got.high)
	}
}

// What slows both processes in a round must not widen the interval.
func TestRatioIsPaired(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	base, over := constant(30, 100), constant(30, 105)
	for i := range base {
		slow := 1 + 3*rng.Float64()
		base[i].cpu = time.Duration(float64(base[i].cpu) * slow)
		over[i].cpu = time.Duration(float64(over[i].cpu) * slow)
	}
	got := ratio(over, base, rng)
	if math.Abs(got.value-1.05) > 1e-3 || got.high-got.low > 1e-2 {
		t.Errorf("got %+v, want 1.05 and a narrow interval", got)
	}
}

func TestRatioIntervalHoldsTheTruth(t *testing.T) {
	const trials, truth = 200, 1.07
	held := 0
	for trial := range trials {
		rng := rand.New(rand.NewPCG(3, uint64(trial)))
		base, over := constant(30, 100_000), constant(30, 107_000)
		for i := range base {
			base[i].cpu = time.Duration(float64(base[i].cpu) * (1 + 0.1*rng.NormFloat64()))
			over[i].cpu = time.Duration(float64(over[i].cpu) * (1 + 0.1*rng.NormFloat64()))
		}
		if got := ratio(over, base, rng); got.low <= truth && truth <= got.high {
			held++
		}
	}
	if held < trials*88/100 || held == trials {
		t.Errorf("the interval held the truth %d times of %d, want about 95 %%", held, trials)
	}
}

func TestRatioWithoutRounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for _, c := range [][2][]sample{{nil, nil}, {constant(2, 1), constant(3, 1)}, {make([]sample, 2), make([]sample, 2)}} {
		if got := ratio(c[0], c[1], rng); got != (interval{}) {
			t.Errorf("got %+v, want nothing", got)
		}
	}
}

func TestQuantile(t *testing.T) {
	v := []float64{1, 2, 3, 4, 5}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.625: 3.5, 1: 5} {
		if got := quantile(v, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	if got := quantile([]float64(nil), 0.5); got != 0 {
		t.Errorf("of nothing: %g, want 0", got)
	}
	if got := median([]int64{9, 1, 5}); got != 5 {
		t.Errorf("median %d, want 5", got)
	}
}
