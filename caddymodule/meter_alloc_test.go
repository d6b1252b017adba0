package caddymodule

import (
	"net/http"
	"testing"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
)

const allocMeter = `"plans":{"p":{"rates":[{"requests":1000000,"window":"1s"}],"credits":{"amount":1000000000,"period":"month"}}},"default_plan":"p","throttle_failures":{"off":true}`

// Metering a request costs no allocation of its own, whether it is charged, its
// usage told in headers, or only counted.
func TestChargingAllocatesNothing(t *testing.T) {
	allocs := func(app, site string) float64 {
		b := newBareGate(t, t.TempDir(), app, site)
		b.start()
		r := b.request(b.fill(1, 1, false)[0])
		values := r.Header["Authorization"]
		w := nullWriter{http.Header{}}
		return testing.AllocsPerRun(2000, func() {
			clear(w.header)
			r.Header["Authorization"] = values
			if err := b.handler.ServeHTTP(w, r, nextOK); err != nil {
				t.Fatal(err)
			}
		})
	}
	plain := allocs(allocThrottleOff+`,"plans":{"p":{"rates":[{"requests":1000000,"window":"1s"}]}},"default_plan":"p"`, "")
	for site, more := range map[string]float64{
		`"charges":[{"credits":1}],"usage_headers":"off"`: 0,
		`"charges":[{"credits":1}],"usage_headers":"on"`:  2, // two are Caddy's, for the id in its log
		`"routes":[{"name":"all"}],"usage_headers":"off"`: 0,
	} {
		if metered := allocs(allocMeter, site); metered > plain+more && !allocRace {
			t.Errorf("%s: %v allocations, %v without metering", site, metered, plain)
		}
	}
}

// What a request needs is one allocation. Each of these sizes is one of the
// allocator's, less the eight bytes that it adds: a byte more takes the next one.
func TestSizesOfAnExchange(t *testing.T) {
	for _, tt := range []struct {
		what       string
		size, most uintptr
	}{
		{"exchange", unsafe.Sizeof(exchange{}), 640 - 8},
		{"with a tally", unsafe.Sizeof(exchange{}) + unsafe.Sizeof(tally{}), 704 - 8},
		{"with a bill", unsafe.Sizeof(exchange{}) + unsafe.Sizeof(bill{}), 768 - 8},
	} {
		if tt.size > tt.most {
			t.Errorf("%s: %d bytes, want at most %d", tt.what, tt.size, tt.most)
		}
	}
}

// BenchmarkCharge is an admitted request with and without a price.
func BenchmarkCharge(b *testing.B) {
	for name, conf := range map[string][2]string{
		"plain":   {allocThrottleOff + `,"plans":{"p":{"rates":[{"requests":1000000,"window":"1s"}]}},"default_plan":"p"`, ""},
		"metered": {allocMeter, `"charges":[{"credits":1}],"usage_headers":"off"`},
		"headers": {allocMeter, `"charges":[{"credits":1}],"usage_headers":"on"`},
	} {
		b.Run(name, func(b *testing.B) {
			g := newBareGate(b, b.TempDir(), conf[0], conf[1])
			g.start()
			r := g.request(g.fill(100_000, 1, false)[0]) // so that the collector has as little to do as in a server
			values := r.Header["Authorization"]
			w := nullWriter{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.header)
				r.Header["Authorization"] = values
				repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
				*repl = *caddy.NewEmptyReplacer()
				if err := g.handler.ServeHTTP(w, r, nextOK); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
