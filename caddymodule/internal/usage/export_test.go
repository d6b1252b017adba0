package usage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func exporter(t *testing.T, o ExportOptions) *Exporter {
	t.Helper()
	if o.Name == "" {
		o.Name = "billing"
	}
	o.Source = "//gw.example"
	e, err := NewExporter(t.Context(), o)
	check(t, err)
	return e
}

// three has three rows to export, and one of nobody.
func three(t *testing.T) (*Recorder, *clock, *memory) {
	c, m := newClock(), newMemory()
	r := open(t, c.options(m))
	record(r, c.at(), series("a", 1, "r", Class2xx), Sample{1_250_000, 10, 20, 1500 * time.Millisecond})
	record(r, c.at(), series("a", 2, "r", Refused), Sample{})
	s := series("b", 3, "", Class5xx)
	s.Flags = Bypassed | Observed
	record(r, c.at(), s, Sample{Credits: -1})
	record(r, c.at(), Series{Class: Refused}, Sample{})
	check(t, r.Flush(t.Context()))
	return r, c, m
}

func drain(t *testing.T, e *Exporter) {
	t.Helper()
	for more := true; more; {
		var err error
		more, err = e.Send(t.Context())
		check(t, err)
	}
}

func TestFileExport(t *testing.T) {
	r, c, _ := three(t)
	var b bytes.Buffer
	drain(t, exporter(t, ExportOptions{Recorder: r, Sink: NewFileSink(&b), Batch: 2}))
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines: %s", len(lines), b.String())
	}
	want := `{"specversion":"1.0","id":"ID","source":"//gw.example","type":"keytoll.usage","subject":"a","time":"2026-03-02T00:00:00Z",` +
		`"datacontenttype":"application/json","data":{"tenant":"a","key":"key_0000000000007919","route":"r","class":"2xx","bypassed":false,"observed":false,` +
		`"requests":1,"credits":1.25,"bytes_in":10,"bytes_out":20,"seconds":1.5}}`
	var e Event
	check(t, json.Unmarshal([]byte(lines[0]), &e))
	if got := strings.Replace(lines[0], e.ID, "ID", 1); got != want || len(e.ID) != 32 {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !strings.Contains(lines[2], `"bypassed":true,"observed":true,"requests":1,"credits":-0.000001`) {
		t.Error(lines[2])
	}
	// Another exporter of the name goes on; one of another name begins, with the same ids.
	b.Reset()
	drain(t, exporter(t, ExportOptions{Recorder: r, Sink: NewFileSink(&b)}))
	if b.Len() != 0 {
		t.Errorf("sent again: %s", b.String())
	}
	drain(t, exporter(t, ExportOptions{Name: "two", Recorder: r, Sink: NewFileSink(&b)}))
	if strings.TrimSuffix(b.String(), "\n") != strings.Join(lines, "\n") {
		t.Errorf("got %s", b.String())
	}
	// What comes later for the same minute is an event of its own.
	b.Reset()
	record(r, c.at(), series("a", 1, "r", Class2xx), Sample{})
	check(t, r.Flush(t.Context()))
	drain(t, exporter(t, ExportOptions{Recorder: r, Sink: NewFileSink(&b)}))
	var again Event
	check(t, json.Unmarshal(b.Bytes(), &again))
	if again.ID == e.ID || again.Data.Requests != 1 {
		t.Errorf("%v", again)
	}
}

// What waits for the storage in part is exported when it is whole.
func TestExportWaitsForTheFlush(t *testing.T) {
	c, m := newClock(), newMemory()
	r := open(t, c.options(m))
	for i := range 5 {
		record(r, c.at(), series("a", i, "", Class2xx), Sample{})
	}
	m.failAfter(5) // the marks, the entry and two rows
	if err := r.Flush(t.Context()); !errors.Is(err, errFault) || m.count(tagMinute) != 2 {
		t.Fatal(err, m.count(tagMinute))
	}
	m.heal()
	var b bytes.Buffer
	e := exporter(t, ExportOptions{Recorder: r, Sink: NewFileSink(&b)})
	drain(t, e)
	if b.Len() != 0 {
		t.Errorf("sent %s", b.String())
	}
	if v := total(t, r, Filter{}, Hour); v.Requests != 5 {
		t.Errorf("%d requests", v.Requests)
	}
	check(t, r.Flush(t.Context()))
	drain(t, e)
	if n := strings.Count(b.String(), "\n"); n != 5 {
		t.Errorf("%d lines", n)
	}
}

// An export that is too far behind is told of once.
func TestExportMissed(t *testing.T) {
	r, c, _ := three(t)
	var b bytes.Buffer
	e := exporter(t, ExportOptions{Recorder: r, Sink: NewFileSink(&b), Batch: 1})
	if _, err := e.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.pass(72 * time.Hour)
	if err := r.Tick(t.Context()); !errors.Is(err, ErrMissed) || !strings.Contains(err.Error(), "billing") {
		t.Errorf("%v", err)
	}
	check(t, r.Tick(t.Context()))
	record(r, c.at(), series("z", 1, "", Class2xx), Sample{})
	check(t, r.Flush(t.Context()))
	drain(t, e)
	if !strings.Contains(b.String(), `"subject":"z"`) {
		t.Error("it does not go on")
	}
}

type shortWriter struct {
	bytes.Buffer
	most int
}

func (w *shortWriter) Write(b []byte) (int, error) {
	if len(b) > w.most {
		n, _ := w.Buffer.Write(b[:w.most])
		return n, errFault
	}
	return w.Buffer.Write(b)
}

// A line that was cut off spoils none after it.
func TestFileSinkTornLines(t *testing.T) {
	r, _, _ := three(t)
	w := &shortWriter{most: 500}
	e := exporter(t, ExportOptions{Recorder: r, Sink: NewFileSink(w)})
	if _, err := e.Send(t.Context()); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	w.most = 1 << 20
	drain(t, e)
	path := filepath.Join(t.TempDir(), "usage.ndjson")
	check(t, os.WriteFile(path, w.Bytes()[:w.Len()-9], 0o600)) // a crash in the midst
	for _, flag := range []int{os.O_APPEND | os.O_RDWR, os.O_APPEND | os.O_RDWR, os.O_APPEND | os.O_WRONLY} {
		f, err := os.OpenFile(path, flag, 0)
		check(t, err)
		drain(t, exporter(t, ExportOptions{Name: fmt.Sprint(path, f.Fd(), time.Now()), Recorder: r, Sink: NewFileSink(f)}))
		check(t, f.Close())
	}
	text, err := os.ReadFile(path)
	check(t, err)
	whole, torn, empty := 0, 0, 0
	for line := range strings.Lines(string(text)) {
		switch {
		case json.Valid([]byte(line)):
			whole++
		case line == "\n":
			empty++
		default:
			torn++
		}
	}
	if whole != 1+2+3*3 || torn != 2 || empty != 1 {
		t.Errorf("%d whole, %d torn, %d empty lines:\n%s", whole, torn, empty, text)
	}
}

func TestHTTPExport(t *testing.T) {
	r, _, _ := three(t)
	var got [][]Event
	status, after := 200, ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if ct := q.Header.Get("Content-Type"); ct != "application/cloudevents-batch+json" || q.Method != "POST" || q.Header.Get("Authorization") != "Bearer s3cret" {
			t.Errorf("%s %s %v", q.Method, ct, q.Header)
		}
		var ee []Event
		b, _ := io.ReadAll(q.Body)
		if err := json.Unmarshal(b, &ee); err != nil {
			t.Errorf("%v: %s", err, b)
		}
		got = append(got, ee)
		if status == 413 && len(ee) == 1 {
			w.WriteHeader(204)
			return
		}
		w.Header().Set("Retry-After", after)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	defer srv.Close()
	c := newClock()
	sink, err := NewHTTPSink(HTTPOptions{URL: srv.URL + "/?token=s3cret", Header: http.Header{"Authorization": {"Bearer s3cret"}}, Now: c.Now})
	check(t, err)
	e := exporter(t, ExportOptions{Recorder: r, Sink: sink})
	for _, tt := range []struct {
		status int
		after  string
		pause  time.Duration
	}{{500, "", 1 * time.Second}, {307, "", 2 * time.Second}, {429, "30", 30 * time.Second}, {503, c.Now().Add(time.Minute).Format(http.TimeFormat), time.Minute},
		{400, "garbage", 16 * time.Second}, {401, "999999", 5 * time.Minute}} {
		status, after = tt.status, tt.after
		_, err := e.Send(t.Context())
		if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), fmt.Sprint(tt.status)) {
			t.Errorf("%d: %v", tt.status, err)
		}
		if d := e.pause(err); d != tt.pause {
			t.Errorf("%d: pause of %s, want %s", tt.status, d, tt.pause)
		}
	}
	got, status = nil, 413
	drain(t, e)
	if len(got) != 4 || len(got[0]) != 3 || len(got[3]) != 1 {
		t.Errorf("too many at once: %d requests", len(got))
	}
	srv.Close()
	if err := sink.Send(t.Context(), got[0]); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
	for _, u := range []string{"", "ftp://x", "https://", "https://u:s3cret@x/", "::s3cret"} {
		if _, err := NewHTTPSink(HTTPOptions{URL: u}); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", u, err)
		}
	}
}

func TestExporterRun(t *testing.T) {
	r, _, _ := three(t)
	sink := &flaky{fails: 3, sent: make(chan int, 10)}
	var pauses []time.Duration
	over := make(chan time.Time)
	close(over)
	e := exporter(t, ExportOptions{Recorder: r, Sink: sink, Batch: 2, After: func(d time.Duration) <-chan time.Time {
		pauses = append(pauses, d)
		return over
	}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); e.Run(ctx, make(chan time.Time)) }()
	if a, b := <-sink.sent, <-sink.sent; a != 2 || b != 1 {
		t.Errorf("sent %d and %d", a, b)
	}
	cancel()
	<-ended
	if fmt.Sprint(pauses) != "[1s 2s 4s]" {
		t.Error(pauses)
	}
}

type flaky struct {
	fails int
	sent  chan int
}

func (f *flaky) Send(_ context.Context, ee []Event) error {
	if f.fails--; f.fails >= 0 {
		return errFault
	}
	f.sent <- len(ee)
	return nil
}

func TestNewExporterRefuses(t *testing.T) {
	r, _, m := three(t)
	sink := NewFileSink(io.Discard)
	for _, o := range []ExportOptions{{}, {Name: "x", Recorder: r, Sink: sink}, {Name: "x", Recorder: r, Sink: sink, Source: "s", Batch: -1}} {
		if _, err := NewExporter(t.Context(), o); err == nil {
			t.Errorf("%v", o)
		}
	}
	check(t, m.Update(t.Context(), func(w Writer) error { return w.Put([]byte("cx"), []byte("?")) }))
	if _, err := NewExporter(t.Context(), ExportOptions{Name: "x", Recorder: r, Sink: sink, Source: "s"}); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
}
