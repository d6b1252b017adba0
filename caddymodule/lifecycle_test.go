package caddymodule

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
)

// lifeEngine is the identity of the engine of the running configuration.
func lifeEngine(t *testing.T) any {
	t.Helper()
	app, err := activeApp()
	if err != nil {
		t.Fatal(err)
	}
	return app.engine.Load()
}

func TestReloadUnderLoad(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	_, spent := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "1/366d")})
	g.do("GET", "/", "X-Api-Key: "+spent).expect(t, 200)
	first := lifeEngine(t)
	var stop atomic.Bool
	var good, resets atomic.Int64
	var wg sync.WaitGroup
	for i := range 4 {
		want, secret := 200, key
		if i == 3 {
			want, secret = 429, spent
		}
		wg.Go(func() {
			client := &http.Client{Transport: new(http.Transport)}
			defer client.CloseIdleConnections()
			for !stop.Load() {
				status, err := lifeGet(client, g.url, secret)
				switch {
				case err != nil:
					resets.Add(1) // a connection that Caddy closed unanswered; try again
				case status != want:
					t.Errorf("status %d, want %d", status, want)
				default:
					good.Add(1)
				}
			}
		})
	}
	for i := range 50 {
		before := good.Load()
		options := "default_plan a\n plan a {\n rate " + []string{"1000000/1s", "900000/1s"}[i%2] + "\n }"
		g.load(options, plainGate)
		for good.Load() < before+4 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
	}
	stop.Store(true)
	wg.Wait()
	// Caddy itself closes connections that it accepts while listeners change
	// hands; nothing of the gate has seen such a request.
	t.Logf("%d answers, %d connections closed without one", good.Load(), resets.Load())
	if lifeEngine(t) != first {
		t.Error("the database was opened anew")
	}
	g.do("GET", "/", "X-Api-Key: "+spent).expect(t, 429)
}

func lifeGet(c *http.Client, url, key string) (int, error) {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-API-Key", key)
	resp, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func TestA50ReloadWithAnotherRate(t *testing.T) {
	plan := func(rate string) string { return "default_plan a\n plan a {\n rate " + rate + "\n }" }
	g := newGateway(t, plan("10/1d"), plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for range 9 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	// 9 of 10 are owed for: nine tenths of a day, as long as 18 of 20 a day.
	g.load(plan("20/1d"), plainGate)
	r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if got := limitNumbers(r.Header); got != "20/1" {
		t.Errorf("after the reload %s", got)
	}
	g.load(plan("10/1d"), plainGate)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
}

func TestFailedReloadLeavesTheOldConfiguration(t *testing.T) {
	g := newGateway(t, "plan a {\n rate 100/1d\n }", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	if _, err := g.registrar().SetTenantPlan(context.Background(), "acme", "a"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEYTOLL_TEST_MASTER", "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=")
	other := "plan a {\n rate 1/1d\n }\n"
	good := g.text(other, plainGate)
	first := lifeEngine(t)
	for _, c := range []struct{ name, text, want string }{
		{"path", strings.Replace(good, g.dir+"/keytoll.db", g.dir+"/caddy.log/keytoll.db", 1), "caddy.log"},
		{"directory", strings.Replace(good, g.dir+"/keytoll.db", g.dir, 1), "is not a file"},
		{"wrong master key", g.text(other+"master_key {env.KEYTOLL_TEST_MASTER}\n", plainGate), "with another master key"},
		{"no master key", g.text(other+"master_key {env.KEYTOLL_TEST_NONE}\n", plainGate), "there is no such value"},
		{"plan taken away", g.text("", plainGate), "tenant acme is on plan a, which this configuration does not define"},
		{"Caddyfile", g.text(other, "keytoll {\n nonsense\n }"), "unrecognized subdirective"},
		{"listener", strings.Replace(good, g.url+" {", g.url+" {\n bind 203.0.113.1\n", 1), "203.0.113.1"},
	} {
		err := g.tryLoad(c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
		r := g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		if r.Header.Get("X-RateLimit-Limit") != "100" {
			t.Errorf("%s: limit %s: the new configuration is in force", c.name, r.Header.Get("X-RateLimit-Limit"))
		}
		if lifeEngine(t) != first {
			t.Errorf("%s: another engine", c.name)
		}
	}
	// What failed holds no share of the engine: Stop must close the database.
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	lifeOpen(t, filepath.Join(g.dir, "keytoll.db"), nil)
}

// lifeOpen opens the database at once, which needs nobody else to hold it.
func lifeOpen(t *testing.T, path string, look func(store.Reader) error) {
	t.Helper()
	b, err := boltstore.New(boltstore.Options{Path: path, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	st, err := b.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if look != nil {
		err = st.View(context.Background(), look)
	}
	if err := errors.Join(err, st.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestValidateWhileTheServerRuns(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	cfg, err := adapt(g.config)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := adaptProvision(cfg); err != nil {
			t.Fatal(err)
		}
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
}

func TestRequestBeforeStart(t *testing.T) {
	dir := t.TempDir()
	b := newBareGate(t, dir, "", "")
	serve := func(g *bareGate, key string) *lifeWriter {
		w := &lifeWriter{header: http.Header{}}
		if err := g.handler.ServeHTTP(w, g.request(key), nextOK); err != nil {
			t.Error(err)
		}
		return w
	}
	if w := serve(b, ""); w.status != 401 {
		t.Errorf("before Start: %d", w.status)
	}
	b.start() // joins what the request opened
	_, key := b.key(registrar.CreateKeyRequest{})
	early := newBareGate(t, dir, "", "")
	if w := serve(early, key); w.status != 200 {
		t.Errorf("good key before Start: %d", w.status)
	}
	if err := early.handler.app.Cleanup(); err != nil {
		t.Error(err)
	}
	if w := serve(b, key); w.status != 200 {
		t.Errorf("after the other is gone: %d", w.status)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "keytoll.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	down := newBareGate(t, broken, "", "")
	for range 2 {
		w := serve(down, key)
		if w.status != 503 || w.header.Get("Retry-After") != "1" || w.header.Get("Cache-Control") != "no-store" {
			t.Errorf("no store: %d %v", w.status, w.header)
		}
	}
	if err := down.handler.app.Start(); err == nil {
		t.Error("Start found nothing wrong")
	}
	if err := down.handler.app.Cleanup(); err != nil {
		t.Error(err)
	}
}

// lifeWriter is a writer that remembers the status alone.
type lifeWriter struct {
	header http.Header
	status int
}

func (w *lifeWriter) Header() http.Header         { return w.header }
func (w *lifeWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *lifeWriter) WriteHeader(status int)      { w.status = status }

func TestA49CleanRestart(t *testing.T) {
	site := "keytoll {\n limit /t 2/366d per tenant\n }\n reverse_proxy {upstream}"
	g := newGateway(t, "", site)
	id, key := g.key("acme", registrar.CreateKeyRequest{Name: "laptop", Rate: limitRate(t, "5/366d")})
	for range 3 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	g.do("GET", "/t", "X-Api-Key: "+key).expect(t, 200)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	lifeOpen(t, filepath.Join(g.dir, "keytoll.db"), func(r store.Reader) error {
		k, err := r.Key(id)
		if err == nil && (k.Name != "laptop" || k.Status != access.StatusActive) {
			t.Errorf("key %+v", k)
		}
		return err
	})
	g.load("", site)
	r := g.do("GET", "/t", "X-Api-Key: "+key).expect(t, 200)
	if got := limitNumbers(r.Header); got != "5/0" && got != "2/0" {
		t.Errorf("after the restart %s", got)
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
	_, second := g.key("acme", registrar.CreateKeyRequest{})
	g.do("GET", "/t", "X-Api-Key: "+second).expect(t, 429)
}

func TestStopLeaksNothing(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	cycle := func() {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		lifeOpen(t, filepath.Join(g.dir, "keytoll.db"), nil)
		g.load("", plainGate)
	}
	for range 10 {
		cycle()
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		left := lifeGoroutines()
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still running after Stop:\n%s", left)
		}
	}
}

// lifeGoroutines returns the stacks of goroutines in the code of the gate and
// of its database; Caddy and its logs keep some of their own.
func lifeGoroutines() (left string) {
	buf := make([]byte, 4<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		for _, of := range []string{"go.etcd.io/bbolt", "caddymodule/internal/", "caddymodule/store/", "caddymodule.(*App)", "caddymodule.(*Handler)"} {
			if strings.Contains(stack, of) {
				left += stack + "\n\n"
				break
			}
		}
	}
	return left
}

func TestTwoSitesShareOneEngine(t *testing.T) {
	other := freeAddr(t)
	g := newGateway(t, "", plainGate+"}\nhttp://"+other+" {\n keytoll\n reverse_proxy {upstream}\n")
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "2/1d")})
	for i, want := range []int{200, 200, 429, 429} {
		url := []string{g.url, "http://" + other}[i%2]
		if got, err := lifeGet(http.DefaultClient, url, key); err != nil || got != want {
			t.Errorf("request %d: %d, want %d, %v", i+1, got, want, err)
		}
	}
}

func TestA53StopAnswersWhatIsInFlight(t *testing.T) {
	g := newGateway(t, "}\n grace_period 30s\n servers {\n", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{Rate: limitRate(t, "1000/1d")})
	arrived, release := make(chan struct{}, 20), make(chan struct{})
	g.upstream.respond(func(http.ResponseWriter, *http.Request) bool {
		arrived <- struct{}{}
		<-release
		return false
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			if got, err := lifeGet(client, g.url, key); err != nil || got != 200 {
				t.Errorf("in flight: %d, %v", got, err)
			}
		})
	}
	for range 20 {
		<-arrived
	}
	stopped := make(chan error, 1)
	go func() { stopped <- caddy.Stop() }()
	for { // until the listener is gone
		if _, err := lifeGet(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}, g.url+"/late", "none"); err != nil {
			break
		}
	}
	close(release)
	wg.Wait()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	lifeOpen(t, filepath.Join(g.dir, "keytoll.db"), nil)
}

// A store that is not whole is an error at load that says what to do, and never
// an open gate or an empty store.
func TestUnusableStoreIsALoadError(t *testing.T) {
	g := newGateway(t, "", plainGate)
	g.key("acme", registrar.CreateKeyRequest{})
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	db, master := filepath.Join(g.dir, "keytoll.db"), filepath.Join(g.dir, "master.key")
	for _, c := range []struct {
		name, file, want string
		spoil            func([]byte) []byte
	}{
		{"no master key", master, "has no master key: set master_key to the key it was made with, or put the file", nil},
		{"another master key", master, "master key", func([]byte) []byte { return []byte("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=\n") }},
		{"master key cut", master, "master", func(b []byte) []byte { return b[:10] }},
		{"empty", db, "restore", func([]byte) []byte { return []byte{} }},
		{"cut", db, "restore", func(b []byte) []byte { return b[:3*os.Getpagesize()] }},
		{"not a database", db, "restore", func(b []byte) []byte { return []byte(strings.Repeat("x", len(b))) }},
		{"gone", db, "is gone", nil},
	} {
		lifeSpoil(t, c.file, c.spoil, func() {
			err := g.tryLoad(g.text("", plainGate))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.want)
			}
			if err == nil {
				_ = caddy.Stop()
			}
			if status, err := lifeGet(http.DefaultClient, g.url, "x"); err == nil {
				t.Errorf("%s: somebody answers with %d", c.name, status)
			}
		})
	}
	g.load("", plainGate) // everything is back in its place
}

// lifeSpoil changes a file, or removes it if change is nil, while it runs do.
func lifeSpoil(t *testing.T, file string, change func([]byte) []byte, do func()) {
	t.Helper()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if change == nil {
		err = os.Remove(file)
	} else {
		err = os.WriteFile(file, change(append([]byte(nil), whole...)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	do()
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
}
