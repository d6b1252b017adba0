package caddymodule

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

var (
	usageSteps   = []string{"minute", "hour", "day"}
	usageClasses = []string{"1xx", "2xx", "3xx", "4xx", "5xx", "refused"}
	usageBy      = map[string]rollup.Group{"tenant": rollup.ByTenant, "key": rollup.ByKey, "route": rollup.ByRoute,
		"class": rollup.ByClass, "flags": rollup.ByFlags}
)

// sparkWidth is how many characters a line of bars has at most.
const sparkWidth = 72

func usageCommand() *cobra.Command {
	cmd := remote(leaf("usage [--tenant <id>] [--key <id>] [--route <name>] [--class <class>] [--since <when>] [--until <when>] [--step <step>] [--by <list>] [--csv|--json]",
		"Shows requests, credits, bytes and times, by minute, hour or day", `  $ caddy keytoll usage
  $ caddy keytoll usage --tenant acme --since 7d --step day --by route
  $ caddy keytoll usage --since 1h --step minute --by tenant,class
  $ caddy keytoll usage --by flags --since 7d
  $ caddy keytoll usage --since 30d --step day --by tenant --csv`, 0, showUsage))
	cmd.Long = `Shows requests, credits, bytes and times, by minute, hour or day, in UTC. Without
--by all is one number for each step. The class of a request is that of the API's
answer, or refused. With --by flags requests stand apart that went without
credits, with a provider key of the caller's, and those that would have been
refused by a limit that is only observed.`
	f := cmd.Flags()
	f.String("tenant", "", "Only this tenant")
	f.String("key", "", "Only this key, by its id, or other for keys beyond what is kept apart")
	f.String("route", "", "Only requests of this name")
	f.String("class", "", "Only this class: "+strings.Join(usageClasses, ", "))
	f.String("since", "", "From then: a time such as 2030-01-31T00:00:00Z, or how long ago, such as 7d or 12h (default: 24h)")
	f.String("until", "", "Before then, as for --since (default: now)")
	f.String("step", "", "minute, hour or day (default: by how long it is)")
	f.StringSlice("by", nil, "What to keep apart: tenant, key, route, class and flags, separated by commas")
	f.Bool("csv", false, "Print CSV")
	return complete(cmd, map[string][]string{"step": usageSteps, "class": usageClasses, "by": {"tenant", "key", "route", "class", "flags"}})
}

func showUsage(s *session, _ []string) error {
	f, err := s.usageFilter(time.Now())
	if err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	if s.is("csv") {
		return c.UsageCSV(f, s.out)
	}
	report, err := c.Usage(f)
	if err != nil {
		return err
	}
	if s.json() {
		return s.printJSON(report)
	}
	return s.printUsage(report)
}

// usageFilter reads the flags of usage.
func (s *session) usageFilter(now time.Time) (f mgmt.UsageFilter, err error) {
	f = mgmt.UsageFilter{Tenant: s.text("tenant"), Key: s.text("key"), Route: s.text("route"), Class: s.text("class"), Step: s.text("step")}
	switch {
	case s.is("csv") && s.json():
		return f, usage("give --csv or --json, not both")
	case f.Class != "" && !slices.Contains(usageClasses, f.Class):
		return f, usage("--class %q: want one of %s", f.Class, strings.Join(usageClasses, ", "))
	case f.Step != "" && !slices.Contains(usageSteps, f.Step):
		return f, usage("--step %q: want minute, hour or day", f.Step)
	case f.Key != "":
		if _, err := rollup.ParseKey(f.Key); err != nil {
			return f, checkKeyID(f.Key)
		}
	}
	for _, word := range s.list("by") {
		if usageBy[word] == 0 {
			return f, usage("--by %q: want tenant, key, route, class or flags, with commas between them", word)
		}
	}
	f.By = strings.Join(s.list("by"), ",")
	if f.From, err = s.moment("since", now); err != nil {
		return f, err
	}
	if f.To, err = s.moment("until", now); err != nil {
		return f, err
	}
	if f.To.IsZero() {
		f.To = now
	}
	if f.From.IsZero() {
		f.From = f.To.Add(-24 * time.Hour)
	}
	if !f.From.Before(f.To) {
		return f, usage("--since is not before --until")
	}
	if f.Step == "" {
		f.Step = stepOf(f.To.Sub(f.From))
	}
	return f, nil
}

// stepOf returns a step of which not too many make a time.
func stepOf(d time.Duration) string {
	switch {
	case d <= 2*time.Hour:
		return "minute"
	case d <= 4*24*time.Hour:
		return "hour"
	}
	return "day"
}

// printUsage shows the sums, with a line of bars, and a table.
func (s *session) printUsage(r mgmt.UsageReport) error {
	step, err := rollup.ParseStep(r.Step)
	if err != nil {
		return fmt.Errorf("the answer is not what keytoll sends: %w", err)
	}
	points := make([]rollup.Point, len(r.Points))
	var sum rollup.Values
	for i, p := range r.Points {
		points[i] = rollupPoint(p)
		sum.Add(&points[i].Values)
	}
	bars := func(value func(*rollup.Values) int64) string {
		return rollup.Sparkline(squeeze(rollup.Fill(points, r.From, r.To, step, value)))
	}
	err = s.printRows(row{"from", stamp(&r.From)}, row{"to", stamp(&r.To)},
		row{"requests", bars(func(v *rollup.Values) int64 { return v.Requests }) + " " + strconv.FormatInt(sum.Requests, 10)},
		row{"credits", bars(func(v *rollup.Values) int64 { return v.Credits }) + " " + access.Credits(sum.Credits).String()})
	if err != nil {
		return err
	}
	if len(points) == 0 {
		note(s.err, "there was no request in this time")
		return nil
	}
	var by rollup.Group
	for _, word := range s.list("by") {
		by |= usageBy[word]
	}
	if _, err := fmt.Fprintln(s.out); err != nil {
		return err
	}
	return rollup.WriteTable(s.out, points, step, by)
}

// squeeze adds up neighbours until the values fit into one line.
func squeeze(values []int64) []int64 {
	n := (len(values) + sparkWidth - 1) / sparkWidth
	if n <= 1 {
		return values
	}
	var out []int64
	for part := range slices.Chunk(values, n) {
		var sum int64
		for _, v := range part {
			if sum > math.MaxInt64-v {
				v = math.MaxInt64 - sum
			}
			sum += v
		}
		out = append(out, sum)
	}
	return out
}

// rollupPoint turns a point of the API back into one. Of its times the mean and
// the 95th percentile are right, which is what a table shows.
func rollupPoint(p mgmt.UsagePoint) rollup.Point {
	out := rollup.Point{Start: p.Start}
	out.Tenant, out.Route = p.Tenant, p.Route
	out.Class, _ = rollup.ParseClass(p.Class) // "" is none
	out.Key, _ = rollup.ParseKey(p.Key)
	if p.Bypassed {
		out.Flags |= rollup.Bypassed
	}
	if p.Observed {
		out.Flags |= rollup.Observed
	}
	out.Values = rollup.Values{Requests: p.Requests, Credits: micros(p.Credits.String()), BytesIn: p.BytesIn, BytesOut: p.BytesOut, Micros: micros(p.Seconds.String())}
	if p.Requests == 0 {
		return out
	}
	want := time.Duration(-1)
	if p.P95 != nil {
		want = time.Duration(*p.P95) * time.Millisecond
	}
	for i := range out.Latency {
		one := rollup.Values{}
		one.Latency[i] = 1
		if one.Quantile(.95) == want {
			out.Latency = one.Latency
		}
	}
	return out
}

// micros reads a number with up to six decimals in millionths, without losing
// any: sums may be above what access.ParseCredits takes.
func micros(s string) int64 {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, _ := strings.Cut(digits, ".")
	n, err := strconv.ParseInt(whole+(fraction + "000000")[:6], 10, 64)
	if err != nil {
		return math.MaxInt64
	}
	if negative {
		return -n
	}
	return n
}
