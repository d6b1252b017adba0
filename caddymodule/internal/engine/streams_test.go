package engine

import (
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// ended is a request that tells when it is ended.
type ended struct {
	Stream
	ch chan struct{}
}

func (x *ended) End() { close(x.ch) }

func (x *ended) is() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.over
}

// open lets a request with a key in and registers it.
func (r *rig) open(t testing.TB, text string) *ended {
	t.Helper()
	x := &ended{ch: make(chan struct{})}
	c := r.decide(text)
	if c.Reason != access.Allowed {
		t.Fatalf("%s: %s", text, c.Reason)
	}
	r.Streams.Add(&x.Stream, c, x)
	return x
}

func (r *rig) decide(text string) *gate.Call {
	req := httptest.NewRequest("GET", "/", nil)
	req.Header.Set("Authorization", "Bearer "+text)
	req.Header.Set("User-Agent", "agent/1.0")
	c := &gate.Call{Started: r.Limiter.Now()}
	r.gate.Decide(&r.State, req, c, new(gate.Asks))
	if c.Reason.LetsIn() {
		r.Admitted(r.gate, req, c)
	} else {
		r.Refused(c)
	}
	return c
}

func TestStreamsEndWithTheirKey(t *testing.T) {
	for name, end := range map[string]func(*rig, *access.KeyHead){
		"revoked":  func(r *rig, k *access.KeyHead) { k.Status = access.StatusRevoked; r.put(k) },
		"disabled": func(r *rig, k *access.KeyHead) { k.Status = access.StatusDisabled; r.put(k) },
		"deleted":  func(r *rig, k *access.KeyHead) { r.store.apply(store.Change{KeyGone: k}) },
		"rotated":  func(r *rig, k *access.KeyHead) { k.Digest = r.Digester.Sum("other"); r.put(k) },
		"expired":  func(r *rig, k *access.KeyHead) { k.Expires = rigStart; r.put(k) },
		"in time": func(r *rig, k *access.KeyHead) {
			k.Expires = rigStart + 5
			r.put(k)
			r.advance(5)
			r.second()
		},
		"grace over": func(r *rig, k *access.KeyHead) {
			k.Previous = &access.Previous{Digest: k.Digest, Alg: 1, Until: rigStart + 5}
			k.Digest = r.Digester.Sum("other")
			r.put(k)
			r.advance(5)
			r.second()
		},
		"suspended": func(r *rig, _ *access.KeyHead) { r.tenant.Status = access.StatusSuspended; r.put(nil) },
		"tenant gone": func(r *rig, _ *access.KeyHead) {
			r.store.apply(store.Change{TenantGone: "acme"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			k := r.key("k")
			x, y := r.open(t, "k"), r.open(t, "k")
			y.Done()
			if r.Streams.Count() != 1 {
				t.Fatalf("%d streams", r.Streams.Count())
			}
			end(r, k)
			<-x.ch
			x.Done()
			if r.Streams.Count() != 0 {
				t.Errorf("%d streams are left", r.Streams.Count())
			}
			select {
			case <-y.ch:
				t.Error("a request that was done was ended")
			default:
			}
		})
	}
}

func TestStreamsGoOn(t *testing.T) {
	r := newRig(t)
	k, other := r.key("k"), r.key("other")
	x := r.open(t, "k")
	k.Expires = rigStart + 60
	r.put(k)
	k.Rights = access.NewRights([]string{"read"}, nil)
	k.Previous = &access.Previous{Digest: k.Digest, Alg: 1, Until: rigStart + 30}
	k.Digest = r.Digester.Sum("new")
	r.put(k)
	fresh := r.open(t, "new")
	old := r.open(t, "k")
	other.Status = access.StatusRevoked
	r.put(other)
	r.put(nil)
	r.advance(29)
	r.second()
	if r.Streams.Count() != 3 {
		t.Fatalf("%d of 3 streams", r.Streams.Count())
	}
	r.advance(1)
	r.second()
	<-x.ch
	<-old.ch
	if r.Streams.Count() != 1 || fresh.is() {
		t.Error("the stream of the new secret ended with the old one")
	}
}

// A key that goes between the decision and Add takes the stream with it.
func TestStreamAddedTooLate(t *testing.T) {
	r := newRig(t)
	k := r.key("k")
	c := r.decide("k")
	k.Status = access.StatusRevoked
	r.put(k)
	x := &ended{ch: make(chan struct{})}
	r.Streams.Add(&x.Stream, c, x)
	<-x.ch
	x.Done()
	var none Stream
	r.Streams.Add(&none, new(gate.Call), x)
	none.Done()
	if r.Streams.Count() != 0 {
		t.Error("a request without a key is registered")
	}
}

type counted struct {
	Stream
	done atomic.Bool
	n    atomic.Int32
	late *atomic.Int32
}

func (x *counted) End() {
	x.n.Add(1)
	if x.done.Load() {
		x.late.Add(1)
	}
}

// Requests come and go while their key does: none is ended twice, or after it
// is done, and in the end none of a revoked key is left.
func TestRaceStreams(t *testing.T) {
	r := newRig(t)
	keys := []*access.KeyHead{r.key("k0"), r.key("k1"), r.key("k2")}
	var late atomic.Int32
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := range 1500 {
				c := r.decide([]string{"k0", "k1", "k2"}[(i+n)%3])
				if c.Reason != access.Allowed {
					continue
				}
				x := &counted{late: &late}
				r.Streams.Add(&x.Stream, c, x)
				x.Done()
				x.done.Store(true)
				if x.n.Load() > 1 {
					t.Error("ended twice")
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 1500 {
			k := keys[i%3]
			k.Status = access.StatusActive
			if i%2 == 0 {
				k.Status = access.StatusDisabled
			}
			r.put(k)
			r.second()
		}
	})
	wg.Wait()
	if late.Load() != 0 || r.Streams.Count() != 0 {
		t.Errorf("%d were ended after they were done, %d are left", late.Load(), r.Streams.Count())
	}
}

func TestStreamsDoNotAllocate(t *testing.T) {
	r := newRig(t)
	r.key("k")
	c := r.decide("k")
	x := &counted{}
	if n := testing.AllocsPerRun(100, func() {
		r.Streams.Add(&x.Stream, c, x)
		x.Done()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkStream(b *testing.B) {
	r := newRig(b)
	r.key("k")
	c := r.decide("k")
	x := &counted{}
	b.ReportAllocs()
	for b.Loop() {
		r.Streams.Add(&x.Stream, c, x)
		x.Done()
	}
}
