package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// stubbornKMS hangs while it is told to, whatever its context says.
type stubbornKMS struct {
	KeyWrapper
	hangs atomic.Pointer[chan struct{}]
	under atomic.Int32 // calls that are under way
	asked atomic.Int32
	most  atomic.Int32
}

var stubborn = &stubbornKMS{KeyWrapper: seal.NewWrapper("review:key/1", [32]byte{9})}

func (k *stubbornKMS) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	k.asked.Add(1)
	n := k.under.Add(1)
	defer k.under.Add(-1)
	for most := k.most.Load(); n > most && !k.most.CompareAndSwap(most, n); most = k.most.Load() {
	}
	if wait := k.hangs.Load(); wait != nil {
		<-*wait
	}
	return k.KeyWrapper.Unwrap(ctx, wrapped, aad)
}

// reviewKMS is the guest of it.
type reviewKMS struct{}

func init() { caddy.RegisterModule(new(reviewKMS)) }

func (*reviewKMS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "keytoll.kms.review", New: func() caddy.Module { return new(reviewKMS) }}
}

func (*reviewKMS) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }

func (*reviewKMS) Wrapper() (KeyWrapper, error) { return stubborn, nil }

// Requests of one tenant ask a KMS that hangs once, give up with their clients,
// and all go on when it answers.
func TestBYOKRequestsAskAKMSOnce(t *testing.T) {
	g := newGateway(t, "provider elevenlabs\nkms review", "keytoll {\nbyok\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", hourly(10000))
	if _, _, err := g.registrar().StoreProviderKey(t.Context(), "acme", "elevenlabs", token.Wrap("sk_of_acme_0123456789")); err != nil {
		t.Fatal(err)
	}
	wait := make(chan struct{})
	var once sync.Once
	release := func() { once.Do(func() { close(wait) }) }
	stubborn.hangs.Store(&wait)
	stubborn.asked.Store(0)
	t.Cleanup(func() { release(); stubborn.hangs.Store(nil) })

	ctx, giveUp := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		r, _ := http.NewRequestWithContext(ctx, "GET", g.url+"/", nil)
		r.Header.Set("X-Api-Key", key)
		_, err := http.DefaultTransport.RoundTrip(r)
		gone <- err
	}()
	eventually(t, "the KMS is asked", func() bool { return stubborn.asked.Load() == 1 })
	giveUp()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	var all []<-chan int
	for range 50 {
		all = append(all, g.background("GET", "/", "X-Api-Key: "+key))
	}
	release()
	for _, done := range all {
		if got := <-done; got != 200 {
			t.Errorf("status %d", got)
		}
	}
	if got := g.upstream.last(t).Header.Get("X-Provider-Key-Elevenlabs"); got != "sk_of_acme_0123456789" {
		t.Errorf("the API got %q", got)
	}
	if got := stubborn.asked.Load(); got != 1 {
		t.Errorf("the KMS was asked %d times for one key", got)
	}
}

// A KMS that hangs and heeds no context has a bounded number of calls, and who
// asks is let go in time.
func TestBYOKCallsOfAKMSAreBounded(t *testing.T) {
	k := newPatientKMS(stubborn)
	wait := make(chan struct{})
	stubborn.hangs.Store(&wait)
	stubborn.asked.Store(0)
	stubborn.most.Store(0)
	t.Cleanup(func() { stubborn.hangs.Store(nil) })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 * kmsCalls {
		wg.Go(func() {
			if _, err := k.Unwrap(ctx, []byte("wrapped"), nil); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		})
	}
	eventually(t, "the KMS is full", func() bool { return stubborn.under.Load() == kmsCalls })
	cancel()
	wg.Wait() // though the KMS still hangs
	close(wait)
	eventually(t, "the calls end", func() bool { return len(k.slots) == 0 })
	if most := stubborn.most.Load(); most != kmsCalls {
		t.Errorf("%d calls at a time", most)
	}
	stubborn.hangs.Store(nil)
	wrapped, err := k.Wrap(t.Context(), []byte("plain"), []byte("for"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := k.Unwrap(t.Context(), wrapped, []byte("for")); err != nil || string(plain) != "plain" {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := k.Unwrap(t.Context(), wrapped, []byte("another")); !errors.Is(err, seal.ErrSealed) {
		t.Errorf("%v", err)
	}
}

// panickyKMS panics with what it was given.
type panickyKMS struct{ KeyWrapper }

func (panickyKMS) Wrap(_ context.Context, plain, _ []byte) ([]byte, error) {
	panic(fmt.Sprintf("cannot wrap %s", plain))
}

// A KMS that panics ends no server, and shows no data key.
func TestBYOKPanicOfAKMS(t *testing.T) {
	_, err := newPatientKMS(panickyKMS{stubborn}).Wrap(t.Context(), []byte("a data key"), nil)
	if err == nil || strings.Contains(err.Error(), "a data key") {
		t.Errorf("%v", err)
	}
}

// A stored key that took long to fail is not asked for again by each request.
func TestBYOKHangingKMSIsNotAskedByEachRequest(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a timeout of five seconds")
	}
	g := newGateway(t, "provider elevenlabs\nkms review", "keytoll {\nbyok\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", hourly(10000))
	if _, _, err := g.registrar().StoreProviderKey(t.Context(), "acme", "elevenlabs", token.Wrap("sk_of_acme_0123456789")); err != nil {
		t.Fatal(err)
	}
	wait := make(chan struct{})
	stubborn.hangs.Store(&wait)
	stubborn.asked.Store(0)
	t.Cleanup(func() { close(wait); stubborn.hangs.Store(nil) })
	start := time.Now()
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, http.StatusServiceUnavailable)
	for range 5 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, http.StatusServiceUnavailable)
	}
	if n := stubborn.asked.Load(); n > 1+int32(time.Since(start)/unsealTimeout) {
		t.Errorf("asked %d times", n)
	}
	if g.upstream.count() > 0 {
		t.Error("a request went on without its provider key")
	}
}

// The way back from a KMS to the master key: without it the keys under a KMS
// would be lost with it.
func TestBYOKAKMSCanBeLeft(t *testing.T) {
	const site = "keytoll {\nbyok\n}\nreverse_proxy {upstream}"
	g := newGateway(t, "provider elevenlabs\nkms review", site)
	_, key := g.key("acme", hourly(10000))
	if _, _, err := g.registrar().StoreProviderKey(t.Context(), "acme", "elevenlabs", token.Wrap("sk_of_acme_0123456789")); err != nil {
		t.Fatal(err)
	}
	opens := func(want int) {
		t.Helper()
		app, err := activeApp()
		if err != nil {
			t.Fatal(err)
		}
		app.engine.Load().Unsealed.Wipe()
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, want)
	}
	opens(200)
	g.load("provider elevenlabs", site)
	opens(503)
	app, err := activeApp()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := app.rekey(t.Context()); r.Pending != 1 || !strings.Contains(fmt.Sprint(err), "review:key/1") {
		t.Errorf("%+v, %v", r, err)
	}
	g.load("provider elevenlabs\nprevious_kms review", site)
	opens(200)
	rekeyAll(t)
	g.load("provider elevenlabs", site)
	opens(200)
	if _, err := adapt(g.text("kms review\nkms review", site)); err == nil || !strings.Contains(err.Error(), "kms is given twice") {
		t.Errorf("%v", err)
	}
}
