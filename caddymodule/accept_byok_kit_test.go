package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Two providers: a key for the first goes up as it came, unless a test says
// otherwise, and one for the second in Authorization.
const twoProviders = `
		provider elevenlabs
		provider openai {
			inject Authorization "Bearer {keytoll.provider_key}"
		}
`

const byokOptions = roomyOptions + twoProviders

// byokSite is a gate with a price and what is said of provider keys.
func byokSite(byok string) string {
	return "keytoll_api provider_keys {\n base /v1/provider-keys\n}\nkeytoll_api usage {\n base /v1/usage\n}\n" +
		"keytoll {\n charge 1\n charge_header X-Cost\n " + byok + "\n}\nreverse_proxy {upstream}"
}

// The headers of the two, and keys for them.
const (
	elevenHeader = "X-Provider-Key-Elevenlabs"
	openaiHeader = "X-Provider-Key-Openai"
	elevenKey    = "sk_eleven_0123456789abcdef"
	openaiKey    = "sk_openai_0123456789abcdef"
	storedPath   = "/v1/provider-keys"
)

// keep stores a provider key of a tenant.
func (g *gateway) keep(tenant, provider, key string) *access.ProviderKey {
	g.t.Helper()
	k, _, err := g.registrar().StoreProviderKey(context.Background(), tenant, provider, token.Wrap(key))
	if err != nil {
		g.t.Fatal(err)
	}
	return k
}

// forget deletes a stored provider key.
func (g *gateway) forget(tenant, provider string) {
	g.t.Helper()
	if err := g.registrar().DeleteProviderKey(context.Background(), tenant, provider); err != nil {
		g.t.Fatal(err)
	}
}

// bypass fails unless the answer tells that a key of the caller's was used, or
// that none was, and by which provider.
func (r reply) bypass(t testing.TB, is bool, used ...string) reply {
	t.Helper()
	var want []string
	if is {
		want = []string{"true"}
	}
	if got := r.Header["X-Usage-Bypassed"]; !slices.Equal(got, want) {
		t.Errorf("X-Usage-Bypassed %q, want %q", got, want)
	}
	if got := r.Header["X-Provider-Used"]; !slices.Equal(got, used) {
		t.Errorf("X-Provider-Used %q, want %q", got, used)
	}
	return r
}

// has fails unless the API saw exactly these values of a header.
func (s seen) has(t testing.TB, name string, values ...string) {
	t.Helper()
	if got := s.Header[http.CanonicalHeaderKey(name)]; !slices.Equal(got, values) {
		t.Errorf("the API saw %s: %q, want %q", name, got, values)
	}
}

// lacks fails if the API saw a text in any header or trailer.
func (s seen) lacks(t testing.TB, text string) {
	t.Helper()
	if all := fmt.Sprint(s.Header, s.Trailer, s.URI); strings.Contains(all, text) {
		t.Errorf("the API saw %q in %s", text, all)
	}
}

// bypassed returns how many requests are in usage as such, and how many not.
func (g *gateway) bypassed() (yes, no int64) {
	g.t.Helper()
	for _, p := range g.points(rollup.ByFlags) {
		if p.Flags&rollup.Bypassed != 0 {
			yes += p.Requests
		} else {
			no += p.Requests
		}
	}
	return yes, no
}

// shop is a provider that answers what a test wants.
type shop struct {
	url    string
	status atomic.Int32
	mu     sync.Mutex
	saw    []string // the keys that were put to it
}

// newShop runs a provider that takes a key in the header Xi-Api-Key.
func newShop(t testing.TB) *shop {
	s := new(shop)
	s.status.Store(http.StatusOK)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.saw = append(s.saw, r.Header.Get("Xi-Api-Key"))
		s.mu.Unlock()
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(s.status.Load()))
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL + "/v1/user"
	return s
}

// asked returns the keys that were put to it so far.
func (s *shop) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.saw)
}

// testKMS is a guest that wraps data keys, with one key for all who use it.
type testKMS struct{}

func init() { caddy.RegisterModule(new(testKMS)) }

// CaddyModule implements caddy.Module.
func (*testKMS) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "keytoll.kms.acceptance", New: func() caddy.Module { return new(testKMS) }}
}

// UnmarshalCaddyfile takes no options.
func (*testKMS) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Wrapper implements KMS.
func (*testKMS) Wrapper() (KeyWrapper, error) { return theKMS, nil }

var theKMS = &fakeKMS{KeyWrapper: seal.NewWrapper("acceptance:key/1", [32]byte{7})}

var errKMS = errors.New("the service is away")

// fakeKMS is the service behind. It can fail, and be slow: then each call waits
// until it is let go, or given up.
type fakeKMS struct {
	KeyWrapper
	fails atomic.Bool
	slow  atomic.Pointer[chan struct{}]
	calls atomic.Int32 // of Unwrap
}

// reset makes the service good again when the test ends.
func (k *fakeKMS) reset(t *testing.T) {
	t.Cleanup(func() {
		k.fails.Store(false)
		k.slow.Store(nil)
		k.calls.Store(0)
	})
}

func (k *fakeKMS) answer(ctx context.Context) error {
	if wait := k.slow.Load(); wait != nil {
		select {
		case <-*wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if k.fails.Load() {
		return errKMS
	}
	return nil
}

// Wrap implements KeyWrapper.
func (k *fakeKMS) Wrap(ctx context.Context, plain, aad []byte) ([]byte, error) {
	if err := k.answer(ctx); err != nil {
		return nil, err
	}
	return k.KeyWrapper.Wrap(ctx, plain, aad)
}

// Unwrap implements KeyWrapper.
func (k *fakeKMS) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	k.calls.Add(1)
	if err := k.answer(ctx); err != nil {
		return nil, err
	}
	return k.KeyWrapper.Unwrap(ctx, wrapped, aad)
}

// Interface guards
var (
	_ KMS                   = (*testKMS)(nil)
	_ caddyfile.Unmarshaler = (*testKMS)(nil)
	_ KeyWrapper            = (*fakeKMS)(nil)
)
