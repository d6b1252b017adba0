package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// result is a row of the table.
type result struct {
	*variant
	cpu       time.Duration
	ratio     interval // zero without a base
	rate      float64
	p50, p99  time.Duration
	rss       int64
	allocs    float64
	over      float64 // allocations over the base
	limit     float64
	maxAllocs float64
}

// results makes the rows, in the order of procs.
func results(procs []*process, o *options, rng *rand.Rand) []result {
	rows := make([]result, len(procs))
	byName := make(map[string]int)
	for i, p := range procs {
		byName[p.name] = i
		slices.Sort(p.times)
		rows[i] = result{
			variant: p.variant, cpu: perRequest(p.samples),
			rate: float64(len(p.times)) / (o.round.Seconds() * float64(len(p.samples))),
			p50:  quantile(p.times, 0.5), p99: quantile(p.times, 0.99),
			rss: median(p.rss), allocs: median(p.allocs),
		}
		if p.base == "" {
			continue
		}
		base := byName[p.base]
		rows[i].ratio = ratio(p.samples, procs[base].samples, rng)
		rows[i].over = rows[i].allocs - rows[base].allocs
		rows[i].limit, rows[i].maxAllocs = p.variant.limit(o.keys), p.variant.maxAllocs()
	}
	return rows
}

// verdict says whether a row keeps its limits. Allocations do not vary and get
// no margin.
func (r *result) verdict(margin float64) (text string, ok bool) {
	switch {
	case r.maxAllocs > 0 && r.over > r.maxAllocs:
		return fmt.Sprintf("MISSED: more than %g allocations", r.maxAllocs), false
	case r.limit == 0:
		return "", true
	case r.ratio.value > r.limit*(1+margin):
		return fmt.Sprintf("MISSED %.2f", r.limit), false
	case r.ratio.value > r.limit:
		return fmt.Sprintf("%.2f within margin", r.limit), true
	}
	return fmt.Sprintf("%.2f reached", r.limit), true
}

func printHead(w io.Writer, o *options) {
	fmt.Fprintf(w, "%s %s/%s, %d CPUs; CPU clock: %s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), cpuClock())
	fmt.Fprintf(w, "%d keys, %d connections, %d rounds of %s for each variant, seed %d\n", o.keys, o.conns, o.rounds, o.round, o.seed)
}

func printTable(w io.Writer, rows []result, o *options) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "variant\tbase\tµs CPU\tratio\t95 % from\tto\treq/s\tp50 ms\tp99 ms\tRSS MiB\tallocs\tover\tlimit\t")
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(t, "%s\t%s\t%.1f\t", r.name, r.base, float64(r.cpu)/1e3)
		if r.base != "" {
			fmt.Fprintf(t, "%.3f\t%.3f\t%.3f\t", r.ratio.value, r.ratio.low, r.ratio.high)
		} else {
			fmt.Fprint(t, "\t\t\t")
		}
		fmt.Fprintf(t, "%.0f\t%.2f\t%.2f\t%.0f\t%.1f\t", r.rate, r.p50.Seconds()*1e3, r.p99.Seconds()*1e3, float64(r.rss)/(1<<20), r.allocs)
		if r.base != "" {
			fmt.Fprintf(t, "%+.1f", r.over)
		}
		verdict, _ := r.verdict(o.margin)
		fmt.Fprintf(t, "\t%s\t\n", verdict)
	}
	t.Flush()
}

func printLegend(w io.Writer, rows []result, o *options) {
	fmt.Fprintf(w, `
µs CPU   user and system time of the proxy's process per request
ratio    µs CPU over that of the base, with the interval that holds it in 95 of 100 cases
req/s    answers per second with the load, the upstream and the proxy on the same CPUs
p50 p99  time from sending a request to having its answer, half and 99 of 100 below it
RSS      resident memory after a round, in the middle
allocs   heap allocations per request; over: more than the base
limit    what the ratio is to reach; missed beyond a margin of %g %%

`, o.margin*100)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range rows {
		fmt.Fprintf(t, "%s\t%s\n", rows[i].name, rows[i].about)
	}
	t.Flush()
}
