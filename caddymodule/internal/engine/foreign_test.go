package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// slow verifies a hash that is "h:" and the text, and counts.
type slow struct{ calls atomic.Int32 }

func (s *slow) verify(hash, text string) bool {
	s.calls.Add(1)
	return hash == "h:"+text
}

func TestImportedKeyIsAdopted(t *testing.T) {
	r := newRig(t)
	v := new(slow)
	var adopted []string
	r.Hooks(Hooks{Verify: v.verify, OnAdopt: func(id access.KeyID, alg uint8, was [32]byte, s token.Secret) error {
		adopted = append(adopted, fmt.Sprint(id, alg, was == r.Index.ByID(id).Digest(), s.Reveal()))
		return nil
	}})
	r.imported("sk_", "h:sk_b")
	k := r.imported("sk_", "h:sk_a")
	for range 3 {
		if c := r.decide("sk_a"); c.Reason != access.Allowed || c.Record.ID != k.ID {
			t.Fatalf("%s", c.Reason)
		}
	}
	if n := v.calls.Load(); n == 0 || n > 2 {
		t.Errorf("%d hashes for one text and two keys", n)
	}
	r.work(false)
	if want := fmt.Sprint(k.ID, 3, true, "sk_a"); len(adopted) != 1 || adopted[0] != want {
		t.Errorf("adopted %v, want %s", adopted, want)
	}
	k.Digest, k.Alg, k.Imported = r.Digester.Sum("sk_a"), 1, nil
	r.put(k)
	calls := v.calls.Load()
	if c := r.decide("sk_a"); c.Reason != access.Allowed || v.calls.Load() != calls {
		t.Error("an adopted key is verified again")
	}
	k.Digest = r.Digester.Sum("sk_new")
	r.put(k)
	if c := r.decide("sk_a"); c.Reason != access.Unknown {
		t.Errorf("after a rotation: %s", c.Reason)
	}
}

func TestWrongTextsAreRemembered(t *testing.T) {
	r := newRig(t)
	v := new(slow)
	if c := r.decide("sk_x"); c.Reason != access.Unknown {
		t.Fatal(c.Reason)
	}
	r.imported("sk_", "h:sk_a")
	if c := r.decide("sk_a"); c.Reason != access.Unknown {
		t.Errorf("without Verify: %s", c.Reason)
	}
	r.Hooks(Hooks{Verify: v.verify})
	step := func(what, text string, want access.Reason, calls int32) {
		t.Helper()
		if c := r.decide(text); c.Reason != want || v.calls.Load() != calls {
			t.Errorf("%s: %s after %d hashes, want %s after %d", what, c.Reason, v.calls.Load(), want, calls)
		}
	}
	step("another hint", "pk_x", access.Unknown, 0)
	step("wrong", "sk_x", access.Unknown, 1)
	step("wrong again", "sk_x", access.Unknown, 1)
	r.advance(60)
	step("a minute later", "sk_x", access.Unknown, 2)
	r.imported("sk_x", "h:sk_x")
	step("imported since", "sk_x", access.Allowed, 3) // the longest hint first
}

// Many requests with one text make one verification, and no more than two run
// at once, whatever the texts.
func TestVerificationsAreBounded(t *testing.T) {
	r := newRig(t)
	var running, most, calls atomic.Int32
	release, begun := make(chan struct{}), make(chan struct{}, 100)
	r.Hooks(Hooks{Verify: func(string, string) bool {
		calls.Add(1)
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		begun <- struct{}{}
		<-release
		running.Add(-1)
		return false
	}})
	r.imported("", "h")
	const texts = 10
	var wg sync.WaitGroup
	for i := range 5 * texts {
		wg.Go(func() {
			if c := r.decide(fmt.Sprint("text", i%texts)); c.Reason != access.Unknown {
				t.Error(c.Reason)
			}
		})
	}
	<-begun
	<-begun
	close(release)
	wg.Wait()
	if most.Load() > verifiers || calls.Load() != texts {
		t.Errorf("%d at once, %d for %d texts", most.Load(), calls.Load(), texts)
	}
}

// A request that comes just as the answer does takes that, and has nothing
// verified again.
func TestVerificationIsMadeOnce(t *testing.T) {
	r := newRig(t)
	v := new(slow)
	r.Hooks(Hooks{Verify: v.verify})
	r.imported("", "h")
	const texts = 2000
	for i := range texts {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { r.askForeign(t.Context(), fmt.Sprint("text", i)) })
		}
		wg.Wait()
	}
	if n := v.calls.Load(); n != texts {
		t.Errorf("%d hashes for %d texts", n, texts)
	}
}

func TestVerificationThatCannotTell(t *testing.T) {
	r := newRig(t)
	for range 10 {
		r.imported("", "slow")
	}
	calls := 0
	r.Hooks(Hooks{Verify: func(string, string) bool { calls++; r.now.Add(1); return false }})
	if c := r.decide("text"); c.Reason != access.Unavailable || calls != 3 {
		t.Errorf("%s after %d hashes of a second each", c.Reason, calls)
	}
	r.store.fail = errors.New("gone")
	if c := r.decide("text"); c.Reason != access.Unavailable || calls != 3 {
		t.Errorf("without a store: %s", c.Reason)
	}
	r.store.fail = nil
	block := make(chan struct{})
	r.Hooks(Hooks{Verify: func(string, string) bool { <-block; return true }})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range maxFlights {
		if rec, busy := r.askForeign(ctx, fmt.Sprint("waiting", i)); rec != nil || !busy {
			t.Fatal("a client that is gone was waited for")
		}
	}
	if rec, busy := r.askForeign(t.Context(), "one more"); rec != nil || !busy {
		t.Error("more texts wait than may")
	}
	close(block)
}

// A key that gets another secret while its hash is being computed is not the
// text's.
func TestKeyChangedDuringVerification(t *testing.T) {
	r := newRig(t)
	k := r.imported("", "h")
	r.Hooks(Hooks{Verify: func(hash, _ string) bool {
		k.Imported = &access.Imported{Hash: "other"}
		r.put(k)
		return hash == "h"
	}})
	if c := r.decide("text"); c.Reason != access.Unavailable {
		t.Errorf("changed: %s", c.Reason)
	}
	if c := r.decide("text"); c.Reason != access.Unknown {
		t.Errorf("then: %s", c.Reason)
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	r := newRig(t)
	var d [32]byte
	for i := range maxKnown + 100 {
		d[0], d[1], d[2] = byte(i), byte(i>>8), byte(i>>16)
		r.foreign.remember(d, verdict{until: r.clock().Add(knownFor)}, r.clock())
	}
	if len(r.foreign.known) > maxKnown {
		t.Errorf("%d texts are remembered", len(r.foreign.known))
	}
	r.foreign.remember(d, verdict{}, r.clock().Add(knownFor))
	if len(r.foreign.known) != 1 {
		t.Errorf("%d texts are remembered past their time", len(r.foreign.known))
	}
}

func TestAdoptionsWaitingAreBounded(t *testing.T) {
	r := newRig(t)
	for i := range maxAdopting + 10 {
		r.adoptLater(&index.Record{ID: access.KeyID([]byte(fmt.Sprintf("%016d", i)))}, 2, [32]byte{}, token.Wrap("x"))
	}
	if len(r.jobs.adopt) != maxAdopting {
		t.Errorf("%d wait", len(r.jobs.adopt))
	}
	r.work(false)
	if len(r.jobs.adopt) != 0 {
		t.Error("without a hook they wait on")
	}
}
