package limit

import (
	"math/bits"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

const (
	// maxSpan is the longest time a bucket may take to fill. Valid rates stay
	// within it.
	maxSpan = int64(10 * 366 * 24 * time.Hour)
	// maxNow (73 years) leaves room for a TAT and the lock bit above any
	// reading of the clock.
	maxNow = int64(1) << 61
)

// State is one bucket as a client may be told of it.
type State struct {
	Limit     int64         // requests a full bucket holds
	Remaining int64         // requests that would pass now
	Reset     time.Duration // until the bucket is full; 0 if it is
	Next      time.Duration // until one request more is in it; 0 if it is full
}

// gauge is a rate in nanoseconds of debt.
type gauge struct {
	interval int64 // what a request costs
	span     int64 // the most a bucket may owe
	burst    int64
}

// gaugeOf returns the gauge of r. A rate that access.Rate.Validate refuses for
// want of requests, burst or a sane window lets nothing through; one with too
// long a span is cut down to whole requests within maxSpan.
func gaugeOf(r access.Rate) gauge {
	if r.Requests == 0 || r.Burst == 0 || r.Window <= 0 || r.Window > access.MaxWindow {
		return gauge{interval: maxSpan, burst: int64(r.Burst)}
	}
	g := gauge{interval: int64(r.Interval()), burst: int64(r.Burst)}
	hi, lo := bits.Mul64(uint64(g.interval), uint64(g.burst))
	if g.span = int64(lo); hi != 0 || lo > uint64(maxSpan) {
		g.span = maxSpan / g.interval * g.interval
	}
	return g
}

// excess returns how long a request must wait at the given debt; it passes if
// the result is not positive.
func (g *gauge) excess(debt int64) int64 { return debt + g.interval - g.span }

// class says which overflow bucket a rate shares: that of spans within a
// factor of two, so that no short limit waits for a long one's debt.
func (g *gauge) class() int { return bits.Len64(uint64(g.span)) }

func (g *gauge) state(now, tat int64) State {
	debt := max(tat-now, 0)
	s := State{Limit: g.burst, Reset: time.Duration(debt)}
	if debt < g.span {
		s.Remaining = (g.span - debt) / g.interval
	}
	if debt > 0 {
		s.Next = time.Duration(g.excess(debt) + s.Remaining*g.interval)
	}
	return s
}

// tighter reports whether a leaves a smaller share of its limit than b, or
// the same share for longer.
func (a State) tighter(b State) bool {
	x, y := uint64(a.Remaining)*uint64(b.Limit), uint64(b.Remaining)*uint64(a.Limit)
	return x < y || x == y && a.Reset > b.Reset
}

func clampNow(now int64) int64 { return min(max(now, 0), maxNow) }
