//go:build linux

package caddymodule

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
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
// requests in seconds with a flush of 10,000 touched counters, and of as many
// series of usage, to that in seconds without any, in turns: at a steady rate
// far below what the machine can do, and at the pace at which a gateway flushes.
// After that, it compares what is served during a flush alone, one request after
// another, and with what is served beside work of another kind. It reports, and
// judges nothing: set KEYTOLL_SPEED=1.
func TestSpeedOfTheGateWhileCountersAreFlushed(t *testing.T) {
	if os.Getenv("KEYTOLL_SPEED") == "" {
		t.Skip("set KEYTOLL_SPEED=1")
	}
	for _, headers := range []string{"off", "on"} {
		g := newBareGate(t, t.TempDir(), allocMeter, `"charges":[{"credits":1}],"usage_headers":"`+headers+`"`)
		g.start()
		var requests []*http.Request
		for _, text := range g.fill(64, 64, false) {
			requests = append(requests, g.request(text))
		}
		e, m := g.handler.app.engine.Load(), g.handler.app.metering
		t.Run("headers "+headers+", seconds with a flush of the counters", func(t *testing.T) {
			g.withFlushes(t, requests, g.ofCounters)
		})
		t.Run("headers "+headers+", seconds with a flush of usage", func(t *testing.T) {
			g.withFlushes(t, requests, g.ofUsage)
		})
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

// withFlushes compares windows with a flush with windows without one.
func (b *bareGate) withFlushes(t *testing.T, requests []*http.Request, flushing func(t *testing.T, requests []*http.Request, without, with *windows)) {
	var without, with windows
	flushing(t, requests, &without, &with)
	for _, p := range []float64{0.5, 0.9, 0.99, 0.999} {
		from, to := compareWindows(&without, &with, p)
		a, b := without.quantile(p, without.list), with.quantile(p, with.list)
		t.Logf("p%g: %s in windows without a flush, %s with one: %.2f of it, 90%% sure from %.2f to %.2f", p*100, a, b, float64(b)/float64(a), from, to)
	}
	served, took := without.total()
	_, more := with.total()
	t.Logf("%d windows of %s without and %d with a flush, %d requests in each; a window with one takes %s more of processor time", len(without.list), flushWindow, len(with.list),
		served/len(without.list), more/time.Duration(len(with.list))-took/time.Duration(len(without.list)))
}

// ofCounters has 10,000 counters touched before each window, which the gateway
// flushes by itself in its first second, or which were flushed before.
func (b *bareGate) ofCounters(t *testing.T, requests []*http.Request, without, with *windows) {
	for i := range 2 * flushWindows {
		kind := without
		b.touch(t)
		if (i+i/2)%2 == 1 { // quiet, busy, busy, quiet
			kind = with
		} else if err := b.handler.app.metering.Counters.Flush(); err != nil {
			t.Fatal(err)
		}
		runtime.GC() // what the preparations left behind
		kind.list = append(kind.list, b.steadily(requests))
	}
}

// ofUsage has 10,000 series flushed at the gateway's pace, which takes several
// windows, between others.
func (b *bareGate) ofUsage(t *testing.T, requests []*http.Request, without, with *windows) {
	for range flushWindows / 6 {
		b.touch(t)
		if err := b.handler.app.metering.Counters.Flush(); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		for range 6 {
			without.list = append(without.list, b.steadily(requests))
		}
		done := make(chan error, 1)
		go func() { done <- b.handler.app.metering.Usage.Flush(t.Context()) }()
		for len(done) == 0 {
			with.list = append(with.list, b.steadily(requests))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// Windows are long enough for the flush of a second, which the counters begin by
// themselves.
const (
	flushWindows = 24
	flushWindow  = time.Second
	flushThink   = 100 * time.Microsecond // between two requests
)

// window is what was measured in one.
type window struct {
	counts [2048]int // of requests, by duration: each bin is a hundredth longer
	cpu    time.Duration
}

func (w *window) bin(d time.Duration) *int {
	return &w.counts[min(int(math.Log(float64(max(d, 1)))/math.Log(1.01)), len(w.counts)-1)]
}

// windows are those of one kind.
type windows struct{ list []*window }

// quantile is that of all requests in some windows.
func (*windows) quantile(p float64, of []*window) time.Duration {
	var counts [len(window{}.counts)]int
	all := 0
	for _, w := range of {
		for i, n := range w.counts {
			counts[i] += n
			all += n
		}
	}
	i := 0
	for rest := int(float64(all-1) * p); rest >= counts[i]; i++ {
		rest -= counts[i]
	}
	return time.Duration(math.Pow(1.01, float64(i)+0.5))
}

// total returns how many requests there were, and what the process took for them
// and all else.
func (k *windows) total() (requests int, cpu time.Duration) {
	for _, w := range k.list {
		for _, n := range w.counts {
			requests += n
		}
		cpu += w.cpu
	}
	return requests, cpu
}

// drawn returns as many windows as there are, any of them, some of them twice.
func (k *windows) drawn(random *rand.Rand) []*window {
	out := make([]*window, len(k.list))
	for i := range out {
		out[i] = k.list[random.IntN(len(k.list))]
	}
	return out
}

// compareWindows returns between what the ratio of the quantiles lies in nine of
// ten draws from the windows.
func compareWindows(a, b *windows, p float64) (from, to float64) {
	random := rand.New(rand.NewPCG(1, 2))
	ratios := make([]float64, 1000)
	for i := range ratios {
		ratios[i] = float64(b.quantile(p, b.drawn(random))) / float64(a.quantile(p, a.drawn(random)))
	}
	slices.Sort(ratios)
	return ratios[50], ratios[950]
}

// steadily serves for one window, with time between the requests.
func (b *bareGate) steadily(requests []*http.Request) *window {
	w := new(window)
	serve := b.inTurn(requests)
	cpu, end := usedProcessor(), time.Now().Add(flushWindow)
	think := syscall.NsecToTimespec(int64(flushThink))
	for time.Now().Before(end) {
		*w.bin(serve())++
		_ = syscall.Nanosleep(&think, nil) // time.Sleep takes a millisecond
	}
	w.cpu = usedProcessor() - cpu
	return w
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
		m.Usage.Record(&rollup.Request{Second: rollup.SecondOf(now), Tenant: fmt.Sprint("tenant-", i), Key: key, Class: uint8(rollup.Class2xx), Numbers: [...]int64{rollup.Credits: int64(access.Credit), rollup.Micros: 0}})
	}
}

// whileFlushing measures in turns.
func (b *bareGate) whileFlushing(t *testing.T, requests []*http.Request, flush func() error) {
	var still, busy []time.Duration
	var took, cpu []time.Duration
	serve := b.inTurn(requests)
	for begun := time.Now(); len(took) < 3 || len(took) < 40 && time.Since(begun) < 15*time.Second; {
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
