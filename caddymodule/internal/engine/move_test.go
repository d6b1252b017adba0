package engine

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// adopted makes k, which was imported, known by our digest of its secret.
func (r *rig) adopted(k access.KeyHead, text string) *access.KeyHead {
	k.Digest, k.Alg, k.Imported = r.Digester.Sum(text), token.AlgHMAC, nil
	return &k
}

// A key is the text's when its adoption comes while its hash is being read or
// computed: the store tells of it first, and the index a while later.
func TestAdoptedDuringVerification(t *testing.T) {
	store := func(r *rig, k *access.KeyHead) {
		r.store.mu.Lock()
		defer r.store.mu.Unlock()
		r.store.keys[k.ID] = access.Key{KeyHead: *k}
	}
	for name, adopt := range map[string]func(*rig, *access.KeyHead){"in the store": store, "in both": (*rig).put} {
		t.Run(name+", before the hash is read", func(t *testing.T) {
			r := newRig(t)
			v := new(slow)
			k := r.imported("", "h:sk_a")
			r.imported("b", "h")
			begun, release := make(chan struct{}, verifiers), make(chan struct{})
			r.Hooks(Hooks{Verify: func(hash, text string) bool {
				if hash == "h" {
					begun <- struct{}{}
					<-release
				}
				return v.verify(hash, text)
			}})
			var wg sync.WaitGroup
			for i := range verifiers { // all slots are taken
				wg.Go(func() { r.decide(fmt.Sprint("b", i)) })
				<-begun
			}
			wg.Go(func() {
				if c := r.decide("sk_a"); c.Reason != access.Allowed || c.Record.ID != k.ID {
					t.Errorf("%s", c.Reason)
				}
			})
			for waits := false; !waits; runtime.Gosched() {
				r.foreign.mu.Lock()
				waits = len(r.foreign.flights) > verifiers
				r.foreign.mu.Unlock()
			}
			adopt(r, r.adopted(*k, "sk_a"))
			close(release)
			wg.Wait()
		})
		t.Run(name+", while it is computed", func(t *testing.T) {
			r := newRig(t)
			k := r.imported("", "h")
			r.Hooks(Hooks{Verify: func(hash, _ string) bool {
				adopt(r, r.adopted(*k, "sk_a"))
				return hash == "h"
			}})
			if c := r.decide("sk_a"); c.Reason != access.Allowed || c.Record.ID != k.ID {
				t.Errorf("%s", c.Reason)
			}
		})
	}
}

// An adoption under another secret's digest is not the text's.
func TestAdoptedByAnotherSecret(t *testing.T) {
	r := newRig(t)
	k := r.imported("", "h")
	r.Hooks(Hooks{Verify: func(string, string) bool {
		r.put(r.adopted(*k, "sk_b"))
		return true
	}})
	if c := r.decide("sk_a"); c.Reason != access.Unavailable {
		t.Errorf("meanwhile: %s", c.Reason)
	}
	if c := r.decide("sk_a"); c.Reason != access.Unknown {
		t.Errorf("then: %s", c.Reason)
	}
}

// Who comes once a key is imported is not told what was found out before.
func TestImportedDuringVerification(t *testing.T) {
	r := newRig(t)
	r.imported("", "h")
	begun, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.Hooks(Hooks{Verify: func(hash, text string) bool {
		once.Do(func() { close(begun); <-release })
		return hash == "h:"+text
	}})
	var wg sync.WaitGroup
	wg.Go(func() { r.decide("sk_a") }) // it may be told either
	<-begun
	k := r.imported("", "h:sk_a")
	waiting := make(chan struct{})
	wg.Go(func() {
		close(waiting)
		if c := r.decide("sk_a"); c.Reason != access.Allowed || c.Record.ID != k.ID {
			t.Errorf("%s", c.Reason)
		}
	})
	<-waiting
	for range 100 { // so that it waits for the hash too; if not, it has its own
		runtime.Gosched()
	}
	close(release)
	wg.Wait()
}

// No request is refused while the key that it comes with is adopted.
func TestRaceAdoption(t *testing.T) {
	r := newRig(t)
	v := new(slow)
	r.Hooks(Hooks{Verify: v.verify})
	var newest atomic.Pointer[string]
	adopt := func(i int) {
		text := fmt.Sprint("sk_", i)
		k := r.imported("sk_", "h:"+text)
		newest.Store(&text)
		if i%2 == 0 { // it is known before it is adopted
			_, _ = r.askForeign(t.Context(), text)
		}
		runtime.Gosched()
		r.put(r.adopted(*k, text))
	}
	adopt(0)
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !done.Load() {
				text := *newest.Load()
				c := r.decide(text)
				if c.Reason != access.Allowed {
					t.Errorf("%s: %s", text, c.Reason)
					return
				}
				x := &ended{ch: make(chan struct{})}
				r.Streams.Add(&x.Stream, c, x)
				if x.Done() {
					t.Errorf("%s: a request that was let in is ended", text)
					return
				}
				runtime.Gosched()
			}
		})
	}
	for i := range 2000 {
		adopt(i + 1)
	}
	done.Store(true)
	wg.Wait()
}
