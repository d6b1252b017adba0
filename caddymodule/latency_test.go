package caddymodule

import (
	"io"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// TestSpeedOfTheGateWhileKeysChange compares the gate's latency while keys are
// created and revoked, some 80 a second, with that while none are, in turns.
// It reports, and judges nothing: set KEYTOLL_SPEED=1.
func TestSpeedOfTheGateWhileKeysChange(t *testing.T) {
	if os.Getenv("KEYTOLL_SPEED") == "" {
		t.Skip("set KEYTOLL_SPEED=1")
	}
	g := newBareGate(t, t.TempDir(), allocApp, "")
	g.start()
	var requests []*http.Request
	for _, text := range g.fill(benchmarkKeys, 1<<10, false) {
		requests = append(requests, g.request(text))
	}
	g.whileKeysChange(t, func() []time.Duration { return g.latencies(requests) })
}

// TestSpeedOfAnswersWhileKeysChange is the same for whole answers over one
// connection, with a fixed API behind.
func TestSpeedOfAnswersWhileKeysChange(t *testing.T) {
	if os.Getenv("KEYTOLL_SPEED") == "" {
		t.Skip("set KEYTOLL_SPEED=1")
	}
	g := newGateway(t, "throttle_failures off", "keytoll\nreverse_proxy "+cannedUpstream(t))
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	req, err := http.NewRequest("GET", g.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", key)
	client := &http.Client{Transport: &http.Transport{}}
	compareWhile(t, func() {
		id, _ := g.key("acme", registrar.CreateKeyRequest{})
		if _, err := g.registrar().RevokeKey(t.Context(), id); err != nil {
			t.Error(err)
		}
	}, func() []time.Duration {
		out := make([]time.Duration, 0, 2000)
		for range cap(out) {
			start := time.Now()
			resp, err := client.Do(req)
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			out = append(out, time.Since(start))
		}
		return out
	})
}

func (b *bareGate) whileKeysChange(t *testing.T, measure func() []time.Duration) {
	compareWhile(t, func() {
		id, _ := b.key(registrar.CreateKeyRequest{})
		if _, err := b.handler.app.registrar.Load().RevokeKey(t.Context(), id); err != nil {
			t.Error(err)
		}
	}, measure)
}

// compareWhile measures in turns, without changes and with.
func compareWhile(t *testing.T, change func(), measure func() []time.Duration) {
	var changes atomic.Int64
	var still, busy []time.Duration
	for changes.Load() < 1000 {
		still = append(still, measure()...)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
				}
				change()
				changes.Add(2)
				time.Sleep(20 * time.Millisecond) // some 80 changes a second
			}
		}()
		busy = append(busy, measure()...)
		close(stop)
		<-stopped
	}
	for _, p := range []float64{0.5, 0.99, 0.999} {
		a, b := quantile(still, p), quantile(busy, p)
		t.Logf("p%g: %s without changes, %s with (%.2f)", p*100, a, b, float64(b)/float64(a))
	}
	t.Logf("%d changes", changes.Load())
}

// latencies sends requests one after another and returns how long each took.
func (b *bareGate) latencies(requests []*http.Request) []time.Duration {
	w := nullWriter{http.Header{}}
	out := make([]time.Duration, 0, 100_000)
	for i := range cap(out) {
		r := requests[i%len(requests)]
		values := r.Header["Authorization"]
		clear(w.header)
		start := time.Now()
		_ = b.handler.ServeHTTP(w, r, nextOK)
		out = append(out, time.Since(start))
		r.Header["Authorization"] = values
	}
	return out
}

func quantile(d []time.Duration, p float64) time.Duration {
	slices.Sort(d)
	return d[int(float64(len(d)-1)*p)]
}
