package caddymodule

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// storedBench is one gate, with two tenants: the one has a provider key stored.
type storedBench struct {
	*bareGate
	with, without string // keys
}

func newStoredBench(t testing.TB) *storedBench {
	t.Helper()
	b := &storedBench{bareGate: newBareGate(t, t.TempDir(), allocMeter+`,"providers":{"elevenlabs":{},"openai":{}}`,
		`"charges":[{"credits":1}],"usage_headers":"on","byok":{"providers":["elevenlabs"]}`)}
	b.start()
	_, b.with = b.key(registrar.CreateKeyRequest{})
	reg := b.handler.app.registrar.Load()
	if err := reg.EnsureTenant(t.Context(), registrar.CreateTenantRequest{ID: "other"}); err != nil {
		t.Fatal(err)
	}
	_, secret, err := reg.CreateKey(t.Context(), registrar.CreateKeyRequest{Tenant: "other"})
	if err != nil {
		t.Fatal(err)
	}
	b.without = secret.Reveal()
	if _, _, err := reg.StoreProviderKey(t.Context(), "acme", "elevenlabs", token.Wrap(elevenKey)); err != nil {
		t.Fatal(err)
	}
	return b
}

// serve returns what serves one request of a key, again and again, and the
// headers of the last answer.
func (b *storedBench) serve(t testing.TB, key string) (func(), http.Header) {
	r := b.request(key)
	values := r.Header["Authorization"]
	w := nullWriter{http.Header{}}
	return func() {
		clear(w.header)
		delete(r.Header, elevenHeader) // which the last turn set
		r.Header["Authorization"] = values
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		*repl = *caddy.NewEmptyReplacer()
		if err := b.handler.ServeHTTP(w, r, nextOK); err != nil {
			t.Fatal(err)
		}
	}, w.header
}

// A stored key costs a request its own copy, the header that it goes up in, the
// header that tells of it, and the note that it came along.
func TestStoredProviderKeyAllocations(t *testing.T) {
	b := newStoredBench(t)
	measure := func(key string) (float64, http.Header) {
		serve, header := b.serve(t, key)
		return testing.AllocsPerRun(2000, serve), header
	}
	without, header := measure(b.without)
	reply{&http.Response{Header: header}, ""}.bypass(t, false)
	with, header := measure(b.with)
	reply{&http.Response{Header: header}, ""}.bypass(t, true, "elevenlabs")
	t.Logf("%v allocations with a stored key, %v without", with, without)
	if with-without > 4 && !allocRace {
		t.Errorf("%v allocations more, at most 4", with-without)
	}
}

// BenchmarkStoredProviderKey is an admitted request at one gate, by a tenant
// with and one without a stored provider key. In "more" the two take turns, and
// more-ns/op is by how much the one is slower, of the fastest turns of each.
func BenchmarkStoredProviderKey(b *testing.B) {
	g := newStoredBench(b)
	with, _ := g.serve(b, g.with)
	without, _ := g.serve(b, g.without)
	with() // it is unsealed from now on
	for _, of := range []struct {
		name  string
		serve func()
	}{{"without", without}, {"with", with}} {
		b.Run(of.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				of.serve()
			}
		})
	}
	b.Run("more", func(b *testing.B) {
		const turn = 200
		fastest := [2]time.Duration{time.Hour, time.Hour}
		for b.Loop() {
			for i, serve := range []func(){without, with} {
				start := time.Now()
				for range turn {
					serve()
				}
				fastest[i] = min(fastest[i], time.Since(start))
			}
		}
		b.ReportMetric(float64(fastest[1]-fastest[0])/turn, "more-ns/op")
	})
}
