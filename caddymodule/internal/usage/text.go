package usage

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// bars are what a Sparkline is drawn of.
var bars = []rune("▁▂▃▄▅▆▇█")

// Sparkline draws a bar for each value, the greatest of them the full height. The
// lowest bar is for 0 and less alone.
func Sparkline(values []int64) string {
	var most int64
	for _, v := range values {
		most = max(most, v)
	}
	out := make([]rune, len(values))
	for i, v := range values {
		out[i] = bars[0]
		if v > 0 {
			n := len(bars) - 1
			out[i] = bars[min(1+int(float64(v)/float64(most)*float64(n-1)+.5), n)]
		}
	}
	return string(out)
}

// Fill returns a value for each step from from, before to, of all points in it; 0
// where there is none. It is what a Sparkline wants. Steps past MaxSteps are left
// out.
func Fill(points []Point, from, to time.Time, step Step, value func(*Values) int64) []int64 {
	d := step.Duration()
	if d == 0 || !from.Before(to) {
		return nil
	}
	from = from.Truncate(d)
	n := min(int64((to.Sub(from)+d-1)/d), MaxSteps)
	out := make([]int64, n)
	for i := range points {
		if at := points[i].Start.Sub(from); at >= 0 && int64(at/d) < n {
			out[at/d] = add(out[at/d], value(&points[i].Values))
		}
	}
	return out
}

// WriteTable writes points for people to read, with the columns of what they were
// kept apart by.
func WriteTable(w io.Writer, points []Point, step Step, by Group) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := []string{"time (utc)"}
	for _, c := range groupColumns {
		if by&c.group != 0 {
			head = append(head, c.name)
		}
	}
	head = append(head, "requests", "credits", "in", "out", "mean", "p95")
	line(t, head)
	layout := "2006-01-02 15:04"
	if step == Day {
		layout = time.DateOnly
	}
	for i := range points {
		p := &points[i]
		cells := []string{p.Start.UTC().Format(layout)}
		for _, c := range groupColumns {
			if by&c.group != 0 {
				cells = append(cells, printable(c.value(&p.Series)))
			}
		}
		line(t, append(cells, strconv.FormatInt(p.Requests, 10), decimal(p.Credits), size(p.BytesIn), size(p.BytesOut),
			span(p.Mean()), bound(p.Quantile(.95))))
	}
	return t.Flush()
}

var groupColumns = []struct {
	group Group
	name  string
	value func(*Series) string
}{
	{ByTenant, "tenant", func(s *Series) string { return s.Tenant }},
	{ByKey, "key", func(s *Series) string { return KeyName(s.Key) }},
	{ByRoute, "route", func(s *Series) string { return s.Route }},
	{ByClass, "class", func(s *Series) string { return s.Class.String() }},
	{ByFlags, "flags", func(s *Series) string { return s.Flags.String() }},
}

// String returns "bypassed", "observed", both with a comma, or "".
func (f Flags) String() string {
	var out []string
	if f&Bypassed != 0 {
		out = append(out, "bypassed")
	}
	if f&Observed != 0 {
		out = append(out, "observed")
	}
	return strings.Join(out, ",")
}

func line(w io.Writer, cells []string) {
	fmt.Fprintln(w, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
}

// printable keeps the terminal and the columns in order.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		return strconv.Quote(s)
	}
	return s
}

// size writes bytes in units of 1024.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, i := float64(n)/1024, 0
	for f >= 1023.95 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

func span(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.String()
}

// bound writes a quantile, which is an upper bound.
func bound(d time.Duration) string {
	switch {
	case d < 0:
		return ">10s"
	case d == 0:
		return "-"
	}
	return "≤" + d.String()
}
