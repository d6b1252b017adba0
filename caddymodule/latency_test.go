package caddymodule

import (
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// TestSpeedOfTheGateWhileKeysChange compares the gate's latency while keys are
// created and revoked, some 600 a second, with that while none are, in turns.
// It reports, and judges nothing: set KEYTOLL_SPEED=1.
func TestSpeedOfTheGateWhileKeysChange(t *testing.T) {
	if os.Getenv("KEYTOLL_SPEED") == "" {
		t.Skip("set KEYTOLL_SPEED=1")
	}
	g := newBareGate(t, t.TempDir(), allocApp, "")
	g.start()
	var requests []*http.Request
	for _, text := range g.fill(benchmarkKeys, 1<<10) {
		requests = append(requests, g.request(text))
	}
	var changes atomic.Int64
	var still, busy []time.Duration
	for changes.Load() < 2000 {
		still = append(still, g.latencies(requests)...)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
				}
				id, _ := g.key(registrar.CreateKeyRequest{})
				if _, err := g.handler.app.registrar.Load().RevokeKey(t.Context(), id); err != nil {
					t.Error(err)
				}
				changes.Add(2)
				time.Sleep(2 * time.Millisecond) // some 600 changes a second
			}
		}()
		busy = append(busy, g.latencies(requests)...)
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
