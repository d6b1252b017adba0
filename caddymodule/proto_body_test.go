package caddymodule

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// heapPeak samples the heap until stop is called, which returns by how much it
// grew at most.
func heapPeak() (stop func() int64) {
	live := func() int64 {
		var m runtime.MemStats
		runtime.GC() // garbage is not held: how much there is depends on what else lives
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	base := live()
	end, peak := make(chan struct{}), make(chan int64)
	go func() {
		most := int64(0)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				most = max(most, live()-base)
			case <-end:
				peak <- most
				return
			}
		}
	}()
	return func() int64 { close(end); return <-peak }
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A14: a body passes in both directions without being held, whatever its size.
func TestA14BodyInConstantMemory(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() || raceEnabled {
		size = 64 << 20
	}
	const most = 48 << 20 // below the short size, so that a buffer shows there as well
	g := newTLSGateway(t, "", plainGate)
	_, key := g.key("acme", hourly(1000))
	got := make(chan int64, 1)
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "POST" {
			n, _ := io.Copy(io.Discard, r.Body)
			got <- n
			return true
		}
		_, _ = io.Copy(w, io.LimitReader(zeros{}, size))
		return true
	})
	g.eachProto(t, func(t *testing.T, c protoClient) {
		if c.major == 3 && size > 256<<20 {
			t.Log("a quarter of the size: QUIC is slow in one process")
			defer func(whole int64) { size = whole }(size)
			size = 256 << 20
		}
		stop := heapPeak()
		req := g.request(t, "POST", "/", io.NopCloser(io.LimitReader(zeros{}, size)), "X-Api-Key: "+key)
		req = req.WithContext(t.Context()) // as long as it takes
		req.ContentLength = -1
		c.send(t, req).expect(t, 200)
		if n := <-got; n != size {
			t.Errorf("upstream got %d bytes, want %d", n, size)
		}
		if grew := stop(); grew > most {
			t.Errorf("upload: the heap grew by %d MiB", grew>>20)
		}
		stop = heapPeak()
		resp := c.open(t, g.request(t, "GET", "/", nil, "X-Api-Key: "+key).WithContext(t.Context()))
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
			t.Errorf("client got %d bytes, want %d: %v", n, size, err)
		}
		if grew := stop(); grew > most {
			t.Errorf("download: the heap grew by %d MiB", grew>>20)
		}
	})
}

// await polls for what happens at the other end of a connection.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(hangGuard); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// A client that goes away takes its request back from the API, is logged as
// 499, harms nobody, and has paid for the request.
func TestClientAbort(t *testing.T) {
	g := newTLSGateway(t, "", "log\n"+plainGate)
	var begun, cancelled atomic.Int64
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/ok" {
			return false
		}
		if r.URL.Path == "/body" {
			_, _ = io.WriteString(w, "first part")
			w.(http.Flusher).Flush()
		}
		begun.Add(1)
		<-r.Context().Done()
		cancelled.Add(1)
		return true
	})
	g.eachProto(t, func(t *testing.T, c protoClient) {
		_, key := g.key("acme", hourly(10))
		before := cancelled.Load()
		ctx, cancel := context.WithCancel(t.Context())
		started := begun.Load()
		failed := make(chan error, 1)
		go func() {
			_, err := c.RoundTrip(g.request(t, "GET", "/head", nil, "X-Api-Key: "+key).WithContext(ctx))
			failed <- err
		}()
		await(t, "the request", func() bool { return begun.Load() > started })
		cancel()
		if err := <-failed; err == nil {
			t.Error("a request that was taken back has a response")
		}
		await(t, "the end of the upstream request", func() bool { return cancelled.Load() == before+1 })

		ctx, cancel = context.WithCancel(t.Context())
		resp := c.open(t, g.request(t, "GET", "/body", nil, "X-Api-Key: "+key).WithContext(ctx))
		if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		cancel()
		await(t, "the end of the upstream request", func() bool { return cancelled.Load() == before+2 })

		r := c.send(t, g.request(t, "GET", "/ok", nil, "X-Api-Key: "+key)).expect(t, 200)
		if left := r.Header.Get("X-Ratelimit-Remaining"); left != "7" {
			t.Errorf("%s requests remain after two that were taken back, want 7", left)
		}
	})
	await(t, "the log of status 499", func() bool { return strings.Count(g.log(), `"status":499`) == 3 })
	log := g.log()
	for _, bad := range []string{"panic", "upstream failed"} {
		if strings.Contains(log, bad) {
			t.Errorf("the log has %q", bad)
		}
	}
	counts := &openEngine(t).Counts
	if n := counts.Requests[access.Allowed].Load(); n != 9 {
		t.Errorf("%d requests counted, want 9", n)
	}
	if n := counts.Requests[access.UpstreamFailed].Load(); n != 0 {
		t.Errorf("%d counted as the upstream's failure", n)
	}
}
