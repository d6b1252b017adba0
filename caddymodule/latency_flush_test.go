//go:build linux

package caddymodule

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// flushed is how many counters and series a flush is of.
const flushed = 10_000

// TestSpeedOfTheGateWhileCountersAreFlushed compares the latency of charged
// requests during flushes of 10,000 touched counters and series of usage with
// that while nothing is flushed, in turns, and with that beside work of another
// kind. It reports, and judges nothing: set
// KEYTOLL_SPEED=1.
func TestSpeedOfTheGateWhileCountersAreFlushed(t *testing.T) {
	if os.Getenv("KEYTOLL_SPEED") == "" {
		t.Skip("set KEYTOLL_SPEED=1")
	}
	for _, headers := range []string{"off", "on"} {
		g := newBareGate(t, t.TempDir(), allocMeter, `"charges":[{"credits":1}],"usage_headers":"`+headers+`"`)
		g.start()
		var requests []*http.Request
		for _, text := range g.fill(64, 64) {
			requests = append(requests, g.request(text))
		}
		e, m := g.handler.app.engine.Load(), g.handler.app.metering
		for name, flush := range map[string]func() error{
			"another's work":    work,
			"usage":             func() error { return m.Usage.Flush(t.Context()) },
			"counters":          func() error { return m.Counters.Flush() },
			"fold and a backup": func() error { _, err := e.Backup(t.Context(), io.Discard); return err },
		} {
			t.Run("headers "+headers+", "+name, func(t *testing.T) { g.whileFlushing(t, requests, flush) })
		}
	}
}

// work takes as much processor time and memory as a flush does, and no lock of
// ours: what it costs requests is the machine's doing.
func work() error {
	var kept [][]byte
	for start := time.Now(); time.Since(start) < 40*time.Millisecond; {
		if kept = append(kept, make([]byte, 200)); len(kept) > flushed {
			kept = nil
		}
	}
	return nil
}

// touch uses 10,000 counters and as many series.
func (b *bareGate) touch(t *testing.T) {
	t.Helper()
	m := b.handler.app.metering
	terms := b.handler.app.meterPlans["p"]
	now := time.Now().Unix()
	for i := range flushed {
		var r credit.Receipt
		payer := credit.Payer{Purse: m.Ledger.Purse(fmt.Sprint("tenant-", i)), Terms: &credit.Terms{Credits: terms.credits}}
		if f := m.Ledger.Charge(&r, payer, credit.Payer{}, access.Credit, credit.Units{}); !f.OK() {
			t.Fatal(f.Error())
		}
		if err := r.Settle(access.Credit, credit.Units{}); err != nil {
			t.Fatal(err)
		}
		var key access.KeyID
		binary.BigEndian.PutUint64(key[:], uint64(i)*0x9e3779b97f4a7c15)
		m.Usage.Record(now, rollup.Series{Tenant: fmt.Sprint("tenant-", i), Key: key, Class: rollup.Class2xx}, rollup.Sample{Credits: int64(access.Credit)})
	}
}

// whileFlushing measures in turns.
func (b *bareGate) whileFlushing(t *testing.T, requests []*http.Request, flush func() error) {
	var still, busy []time.Duration
	var took, cpu []time.Duration
	serve := b.inTurn(requests)
	for range 40 {
		b.touch(t)
		start := time.Now()
		for time.Since(start) < 20*time.Millisecond {
			still = append(still, serve())
		}
		done := make(chan error, 1)
		before := usedProcessor()
		start = time.Now()
		go func() { done <- flush() }()
		n := len(busy)
		for ended := false; !ended; {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				ended = true
			default:
				busy = append(busy, serve())
			}
		}
		own := time.Duration(0)
		for _, d := range busy[n:] {
			own += d
		}
		took, cpu = append(took, time.Since(start)), append(cpu, max(usedProcessor()-before-own, 0))
	}
	for _, p := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
		a, b := quantile(still, p), quantile(busy, p)
		t.Logf("p%g: %s in quiet, %s during flushes (%.2f)", p*100, a, b, float64(b)/float64(a))
	}
	t.Logf("%d requests in quiet, %d during flushes; a flush takes %s, %s of processor time (medians)", len(still), len(busy), quantile(took, .5), quantile(cpu, .5))
}

// inTurn returns what serves the requests in turn, and says how long one took.
func (b *bareGate) inTurn(requests []*http.Request) func() time.Duration {
	w := nullWriter{http.Header{}}
	i := 0
	return func() time.Duration {
		r := requests[i%len(requests)]
		i++
		values := r.Header["Authorization"]
		clear(w.header)
		*r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer) = *caddy.NewEmptyReplacer()
		start := time.Now()
		_ = b.handler.ServeHTTP(w, r, nextOK)
		d := time.Since(start)
		r.Header["Authorization"] = values
		return d
	}
}

// usedProcessor returns the processor time of this process.
func usedProcessor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
