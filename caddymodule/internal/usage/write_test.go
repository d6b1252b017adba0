package usage

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

func points() []Point {
	v := Values{Requests: 2, Credits: 1_500_000, BytesIn: 1023, BytesOut: 1536, Micros: 3_000_000, Latency: Latency{4: 1, 11: 1}}
	s := series("acme", 1, "=cmd|'/c calc'!A0", Class2xx)
	s.Flags = Bypassed
	return []Point{{start, s, v}, {start.Add(2 * time.Hour), Series{Tenant: "b", Key: OtherKey, Route: "a,\"b\"\r\nc", Class: Refused}, Values{Requests: 1, Latency: Latency{1}}}}
}

func TestWriteCSV(t *testing.T) {
	var b bytes.Buffer
	check(t, WriteCSV(&b, points()))
	want := "start,tenant,key,route,class,bypassed,observed,requests,credits,bytes_in,bytes_out,seconds,p50_ms,p95_ms,p99_ms\r\n" +
		"2026-03-02T00:00:00Z,acme,key_0000000000007919,'=cmd|'/c calc'!A0,2xx,true,false,2,1.5,1023,1536,3,100,,\r\n" +
		"2026-03-02T02:00:00Z,b,other,\"a,\"\"b\"\"\r\nc\",refused,false,false,1,0,0,0,0,5,5,5\r\n"
	if b.String() != want {
		t.Errorf("got\n%q\nwant\n%q", b.String(), want)
	}
	if rows, err := csv.NewReader(&b).ReadAll(); err != nil || len(rows) != 3 {
		t.Error(rows, err)
	}
	for _, s := range []string{"=1", "+1", "-1", "@x", "\tx", "\rx", "\nx"} {
		if text(s) != "'"+s {
			t.Errorf("%q is not guarded", s)
		}
	}
	if text("a=1") != "a=1" || text("") != "" {
		t.Error("guarded for nothing")
	}
}

func TestWriteJSON(t *testing.T) {
	var b bytes.Buffer
	check(t, WriteJSON(&b, start, start.Add(time.Hour), Hour, points()))
	var got struct {
		Step     string
		From, To time.Time
		Points   []map[string]any
	}
	check(t, json.Unmarshal(b.Bytes(), &got))
	p := got.Points[0]
	if got.Step != "hour" || !got.To.Equal(start.Add(time.Hour)) || len(got.Points) != 2 || p["credits"] != 1.5 || p["key"] != "key_0000000000007919" || p["p50_ms"] != 100.0 || p["p99_ms"] != nil {
		t.Error(b.String())
	}
	b.Reset()
	check(t, WriteJSON(&b, start, start, Day, nil))
	if b.String() != `{"step":"day","from":"2026-03-02T00:00:00Z","to":"2026-03-02T00:00:00Z","points":[]}`+"\n" {
		t.Error(b.String())
	}
}

func TestWriteTable(t *testing.T) {
	var b bytes.Buffer
	check(t, WriteTable(&b, points(), Hour, ByTenant|ByRoute|ByClass|ByFlags))
	want := `
time (utc)        tenant  route              class    flags     requests  credits  in      out      mean  p95
2026-03-02 00:00  acme    =cmd|'/c calc'!A0  2xx      bypassed  2         1.5      1023 B  1.5 KiB  1.5s  >10s
2026-03-02 02:00  b       "a,\"b\"\r\nc"     refused  -         1         0        0 B     0 B      0s    ≤5ms
`
	if got := b.String(); got != want[1:] {
		t.Errorf("got\n%s", got)
	}
}

func TestSparkline(t *testing.T) {
	for want, v := range map[string][]int64{"": nil, "▁▁": {0, -5}, "▁▂▅█": {0, 1, 50, 100}, "██": {7, 7}, "▁█": {math.MinInt64, math.MaxInt64}} {
		if got := Sparkline(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	f := Fill(points(), start.Add(10*time.Minute), start.Add(150*time.Minute), Hour, func(v *Values) int64 { return v.Requests })
	if len(f) != 3 || f[0] != 2 || f[1] != 0 || f[2] != 1 {
		t.Error(f)
	}
	if Fill(nil, start, start, Hour, nil) != nil || Fill(nil, start, start.Add(time.Hour), 0, nil) != nil {
		t.Error("there is nothing to fill")
	}
}

func TestDecimal(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 1: "0.000001", 1_000_000: "1", 1_250_000: "1.25", -1: "-0.000001", -2_500_000: "-2.5",
		math.MaxInt64: "9223372036854.775807", math.MinInt64: "-9223372036854.775808"} {
		if got := decimal(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", math.MaxInt64: "8.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range []string{"1xx", "2xx", "3xx", "4xx", "5xx", "refused"} {
		if c, err := ParseClass(s); err != nil || c.String() != s {
			t.Error(s, err)
		}
	}
	for _, s := range []string{"", "6xx", "2XX"} {
		if _, err := ParseClass(s); err == nil {
			t.Errorf("%q is a class", s)
		}
	}
	for _, s := range []string{"minute", "hour", "day"} {
		if x, err := ParseStep(s); err != nil || x.String() != s || x.Duration() == 0 {
			t.Error(s, err)
		}
	}
	for _, s := range []string{"other", "key_0000000000007919"} {
		if k, err := ParseKey(s); err != nil || KeyName(k) != s {
			t.Error(s, err)
		}
	}
	if _, err := ParseKey("*"); err == nil || !strings.Contains(err.Error(), "other") {
		t.Error(err)
	}
	for status, want := range map[int]Class{101: Class1xx, 200: Class2xx, 304: Class3xx, 402: Class4xx, 599: Class5xx, 0: Class5xx, 600: Class5xx} {
		if got := ClassOf(status); got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
	}
}
