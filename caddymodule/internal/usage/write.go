package usage

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"
)

// wire is a Point as WriteJSON writes it. Names are left out where points were
// not kept apart by them.
type wire struct {
	Start    time.Time    `json:"start"`
	Tenant   string       `json:"tenant,omitempty"`
	Key      string       `json:"key,omitempty"`
	Route    string       `json:"route,omitempty"`
	Class    string       `json:"class,omitempty"`
	Bypassed bool         `json:"bypassed,omitempty"`
	Observed bool         `json:"observed,omitempty"`
	Requests int64        `json:"requests"`
	Credits  json.Number  `json:"credits"`
	BytesIn  int64        `json:"bytes_in"`
	BytesOut int64        `json:"bytes_out"`
	Seconds  json.Number  `json:"seconds"`
	P50      *json.Number `json:"p50_ms"` // upper bound; null if longer than 10 s
	P95      *json.Number `json:"p95_ms"`
	P99      *json.Number `json:"p99_ms"`
}

// WriteJSON writes {"step","from","to","points":[…]} and a line feed. Credits and
// seconds have up to six decimals; p50_ms, p95_ms and p99_ms are upper bounds.
func WriteJSON(w io.Writer, from, to time.Time, step Step, points []Point) error {
	b := bufio.NewWriter(w)
	head, err := json.Marshal(struct {
		Step string    `json:"step"`
		From time.Time `json:"from"`
		To   time.Time `json:"to"`
	}{step.String(), from.UTC(), to.UTC()})
	if err != nil {
		return err
	}
	b.Write(head[:len(head)-1])
	b.WriteString(`,"points":[`)
	for i := range points {
		p, err := json.Marshal(points[i].wire())
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(p)
	}
	b.WriteString("]}\n")
	return b.Flush()
}

func (p *Point) wire() wire {
	return wire{Start: p.Start, Tenant: p.Tenant, Key: KeyName(p.Key), Route: p.Route, Class: p.Class.String(),
		Bypassed: p.Flags&Bypassed != 0, Observed: p.Flags&Observed != 0,
		Requests: p.Requests, Credits: json.Number(decimal(p.Credits)), BytesIn: p.BytesIn, BytesOut: p.BytesOut,
		Seconds: json.Number(decimal(p.Micros)), P50: p.millis(.5), P95: p.millis(.95), P99: p.millis(.99)}
}

// millis returns a quantile in milliseconds; nil if it is beyond all bounds.
func (p *Point) millis(q float64) *json.Number {
	d := p.Quantile(q)
	if d < 0 {
		return nil
	}
	n := json.Number(strconv.FormatInt(d.Milliseconds(), 10))
	return &n
}

var columns = []string{"start", "tenant", "key", "route", "class", "bypassed", "observed", "requests",
	"credits", "bytes_in", "bytes_out", "seconds", "p50_ms", "p95_ms", "p99_ms"}

// WriteCSV writes a line of names and one for each point, as RFC 4180 has it. The
// columns are always the same. Text that a spreadsheet would take for a formula
// begins with an apostrophe. A quantile of more than ten seconds is empty.
func WriteCSV(w io.Writer, points []Point) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	if err := c.Write(columns); err != nil {
		return err
	}
	for i := range points {
		p := points[i].wire()
		err := c.Write([]string{p.Start.Format(time.RFC3339), text(p.Tenant), text(p.Key), text(p.Route), p.Class,
			strconv.FormatBool(p.Bypassed), strconv.FormatBool(p.Observed), strconv.FormatInt(p.Requests, 10), string(p.Credits),
			strconv.FormatInt(p.BytesIn, 10), strconv.FormatInt(p.BytesOut, 10), string(p.Seconds),
			optional(p.P50), optional(p.P95), optional(p.P99)})
		if err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// text guards a cell that is not ours to word.
func text(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}

func optional(n *json.Number) string {
	if n == nil {
		return ""
	}
	return string(*n)
}
