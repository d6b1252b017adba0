package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// counted makes n requests of a tenant and flushes their usage. It returns the
// running app.
func counted(t *testing.T, g *gateway, key string, n int) *App {
	t.Helper()
	for range n {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	g.settled()
	app, err := activeApp()
	if err != nil {
		t.Fatal(err)
	}
	if err := app.metering.Usage.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return app
}

// exportsTo returns a configuration like app's that exports to a place.
func exportsTo(app *App, to exportTarget) *App {
	a := &App{logger: zap.NewNop()}
	a.engine.Store(app.engine.Load())
	a.export = &to
	return a
}

// sum adds up the requests of events, each id once.
func sumEvents(t *testing.T, events []rollup.Event) (n int64) {
	t.Helper()
	ids := make(map[string]bool)
	for _, e := range events {
		if e.SpecVersion != "1.0" || e.Type != "keytoll.usage" || e.Subject != "acme" || !strings.HasPrefix(e.Source, "urn:keytoll:") || len(e.Source) != 28 {
			t.Errorf("%+v", e)
		}
		if !ids[e.ID] {
			n += e.Data.Requests
		}
		ids[e.ID] = true
	}
	return n
}

func linesOf(t *testing.T, file string) (events []rollup.Event) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var e rollup.Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		events = append(events, e)
	}
	return events
}

// sendAll sends all there is.
func sendAll(t *testing.T, a *App, m *engine.Metering) {
	t.Helper()
	e, err := a.exporter(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	for more := true; more; {
		if more, err = e.Send(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExportToFile(t *testing.T) {
	g := newGateway(t, metricsPlan, "keytoll {\n charge 0.5\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", hourly(1000))
	file := filepath.Join(g.dir, "usage.ndjson")
	app := counted(t, g, key, 2)
	a := exportsTo(app, exportTarget{file: file})
	sendAll(t, a, app.metering)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	events := linesOf(t, file)
	if n := sumEvents(t, events); n != 2 || events[0].Data.Credits != "1" {
		t.Errorf("%d requests: %+v", n, events)
	}
	sendAll(t, a, app.metering) // nothing new
	counted(t, g, key, 3)
	sendAll(t, a, app.metering)
	if n := sumEvents(t, linesOf(t, file)); n != 5 {
		t.Errorf("%d requests, want 5", n)
	}
	// A file that was moved away is made anew, with what comes then.
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	counted(t, g, key, 1)
	sendAll(t, a, app.metering)
	if n := sumEvents(t, linesOf(t, file)); n != 1 {
		t.Errorf("%d requests after the file was moved, want 1", n)
	}
	// Something that is no file takes nothing.
	if err := (exportFile{g.dir}).Send(t.Context(), events); err == nil {
		t.Error("a directory took events")
	}
	if err := (exportFile{os.DevNull}).Send(t.Context(), events); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a device: %v", err)
	}
}

// receiver is an HTTP receiver of events that refuses while it is bad.
type receiver struct {
	mu     sync.Mutex
	bad    int // answers of 503 that are left
	events []rollup.Event
	tokens []string
	got    chan struct{}
}

func (s *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = append(s.tokens, r.Header.Get("X-Token"))
	if s.bad > 0 {
		s.bad--
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	text, _ := io.ReadAll(r.Body)
	var events []rollup.Event
	if json.Unmarshal(text, &events) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.events = append(s.events, events...)
	s.got <- struct{}{}
}

func TestExportOverHTTP(t *testing.T) {
	g := newGateway(t, metricsPlan, "keytoll {\n charge 0.5\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", hourly(1000))
	app := counted(t, g, key, 4)
	s := &receiver{bad: 1, got: make(chan struct{}, 10)}
	server := httptest.NewServer(s)
	defer server.Close()
	a := exportsTo(app, exportTarget{url: server.URL + "/hush-path", header: "X-Token", value: "hush-token"})
	stop := a.startExport(app.metering)
	<-s.got // the second try
	stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := sumEvents(t, s.events); n != 4 || len(s.tokens) < 2 || s.tokens[0] != "hush-token" {
		t.Errorf("%d requests, %q", n, s.tokens)
	}
	if a.troubled.last.Load() == 0 {
		t.Error("the failure was not logged")
	}
	if p := a.export.place(); strings.Contains(p, "hush") || !strings.Contains(p, server.Listener.Addr().String()) {
		t.Errorf("the place is %q", p)
	}
}

// Of several configurations the newest exports, one at a time; if it goes, the
// one before it does again.
func TestNewestExports(t *testing.T) {
	g := newGateway(t, metricsPlan, "keytoll {\n charge 0.5\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", hourly(1000))
	app := counted(t, g, key, 1)
	m := new(engine.Metering)
	m.Usage = app.metering.Usage

	began := make(chan string, 1)
	ended := make(chan string, 1)
	running := 0
	var mu sync.Mutex
	run := func(name string) func(context.Context) {
		return func(ctx context.Context) {
			mu.Lock()
			if running++; running != 1 {
				t.Errorf("%d exports at once", running)
			}
			mu.Unlock()
			began <- name
			<-ctx.Done()
			mu.Lock()
			running--
			mu.Unlock()
			ended <- name
		}
	}
	expect := func(c chan string, want string) {
		t.Helper()
		if got := <-c; got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	stopOne := m.Exports.Start(run("one"))
	expect(began, "one")
	stopTwo := m.Exports.Start(run("two"))
	expect(ended, "one")
	expect(began, "two")
	stopTwo() // as when the new configuration failed
	expect(ended, "two")
	expect(began, "one")
	stopTwo()
	stopNone := m.Exports.Start(nil)
	expect(ended, "one")
	stopThree := m.Exports.Start(run("three"))
	expect(began, "three")
	stopNone()
	stopOne()
	stopThree()
	expect(ended, "three")

	// And so it is with those of an app.
	first := filepath.Join(g.dir, "first")
	stop := exportsTo(app, exportTarget{file: first}).startExport(m)
	wait := func(file string) {
		t.Helper()
		eventually(t, file, func() bool {
			_, err := os.Stat(file)
			return err == nil
		})
	}
	wait(first)
	next := exportsTo(app, exportTarget{file: filepath.Join(g.dir, "second")}).startExport(m)
	wait(filepath.Join(g.dir, "second"))
	stop()
	next()
	none := exportsTo(app, exportTarget{})
	none.export = nil
	none.startExport(m)()
	none.startExport(nil)()
}
