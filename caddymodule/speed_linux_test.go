package caddymodule

import (
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/sys/unix"
)

// What the variants say: a rate for every tenant, and what a gate counts,
// charges and tells.
const (
	speedPlan    = allocThrottleOff + `,"plans":{"p":{"rates":[{"requests":1000000,"window":"1s"}]}},"default_plan":"p"`
	speedCounted = `"routes":[{"name":"all"}],"usage_headers":"off"`
	speedCharged = `"charges":[{"credits":1}],"usage_headers":"off"`
	speedTold    = `"charges":[{"credits":1}],"usage_headers":"on"`
)

// TestSpeedOfTheHandler reports the processor time of an admitted request in the
// whole handler, above the next one. Other work on the machine is the least
// trouble this way: the time is that of the thread, the variants take turns of
// a few requests, and the quickest tenth counts. A turn's requests are made
// before it, and are new, as a server's are. It judges nothing: set
// KEYTOLL_SPEED=1.
func TestSpeedOfTheHandler(t *testing.T) {
	if os.Getenv("KEYTOLL_SPEED") == "" {
		t.Skip("set KEYTOLL_SPEED=1")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	list := []*speedVariant{
		newSpeed(t, "next", allocApp, allocInject, speedPool{}),
		newSpeed(t, "5 + 3 headers, 1,000,000 keys, one in use", allocApp, allocInject, speedPool{benchmarkKeys, 1, false}),
		newSpeed(t, "5 + 3 headers, 1,000,000 keys, 1024 in use", allocApp, allocInject, speedPool{benchmarkKeys, 1 << 10, false}),
		newSpeed(t, "2 + 3 headers", speedPlan, "", speedPool{1000, 1, false}),
		newSpeed(t, "and counted", speedPlan, speedCounted, speedPool{1000, 1, false}),
		newSpeed(t, "and charged", allocMeter, speedCharged, speedPool{1000, 1, false}),
		newSpeed(t, "and told", allocMeter, speedTold, speedPool{1000, 1, false}),
	}
	for round := range 4000 {
		for i := range list {
			list[(i+round)%len(list)].turn(t)
		}
	}
	next := list[0].quick()
	for _, v := range list[1:] {
		t.Logf("%-45s %5.0f ns above next (%.0f ns)", v.name, v.quick()-next, next)
	}
}

// TestSpeedOfColdKeys compares what counting and charging add to a request where
// one of 1,000,000 keys is in use, and where 65,536 of them have their turn, of one
// tenant and of as many tenants. It measures as TestSpeedOfTheHandler does, and judges nothing: set
// KEYTOLL_SPEED=1.
func TestSpeedOfColdKeys(t *testing.T) {
	if os.Getenv("KEYTOLL_SPEED") == "" {
		t.Skip("set KEYTOLL_SPEED=1")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var list []*speedVariant
	pools := []speedPool{{benchmarkKeys, 1, false}, {benchmarkKeys, 1 << 16, false}, {benchmarkKeys, 1 << 16, true}}
	for _, keys := range pools {
		list = append(list,
			newSpeed(t, "plain", speedPlan, "", keys),
			newSpeed(t, "counted", speedPlan, speedCounted, keys),
			newSpeed(t, "charged", allocMeter, speedCharged, keys))
	}
	for round := range 5000 {
		for i := range list {
			list[(i+round)%len(list)].turn(t)
		}
	}
	for i, pool := range pools {
		plain, counted, charged := list[3*i].quick(), list[3*i+1].quick(), list[3*i+2].quick()
		t.Logf("%d keys in use, a tenant each: %-5v  plain %4.0f ns, counting adds %3.0f ns, charging %3.0f ns", pool.used, pool.alone, plain, counted-plain, charged-counted)
	}
}

// speedVariant is one way to serve.
type speedVariant struct {
	name     string
	serve    func(http.ResponseWriter, *http.Request) error
	requests []*http.Request
	headers  []http.Header
	w        nullWriter
	took     []int64 // nanoseconds of each turn
}

// speedTurn is how many requests one turn has: they fit into a cache.
const speedTurn = 64

// speedPool is what keys there are, and how many of them are used.
type speedPool struct {
	all, used int
	alone     bool // each is of a tenant of its own
}

// newSpeed makes the variant of a gate, or with no keys that of none.
func newSpeed(t *testing.T, name, app, site string, keys speedPool) *speedVariant {
	t.Helper()
	g := newBareGate(t, t.TempDir(), app, site)
	g.start()
	v := &speedVariant{name: name, w: nullWriter{http.Header{}}, serve: nextOK.ServeHTTP}
	if keys.all > 0 {
		v.serve = func(w http.ResponseWriter, r *http.Request) error { return g.handler.ServeHTTP(w, r, nextOK) }
	}
	for _, text := range g.fill(max(keys.all, 1), max(keys.used, 1), keys.alone) {
		v.headers = append(v.headers, g.request(text).Header)
	}
	for range speedTurn {
		v.requests = append(v.requests, g.request("none"))
	}
	return v
}

// prepare makes the requests of the next turn, each by another key of those in
// use.
func (v *speedVariant) prepare() {
	for i, r := range v.requests {
		from := v.headers[(len(v.took)*speedTurn+i)%len(v.headers)]
		r.Header = make(http.Header, len(from)+1) // and Host, for which net/http makes room
		for name, values := range from {
			r.Header[name] = []string{strings.Clone(values[0])} // read a moment ago, and so near
		}
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		*repl = *caddy.NewEmptyReplacer()
		repl.Map(noReplacement) // as the server has its own by now: room for another
		repl.Map(noReplacement)
	}
}

func (v *speedVariant) turn(t *testing.T) {
	v.prepare()
	start := threadTime(t)
	for _, r := range v.requests {
		clear(v.w.header)
		if err := v.serve(v.w, r); err != nil {
			t.Fatal(err)
		}
	}
	v.took = append(v.took, threadTime(t)-start)
}

// quick is what a request costs in the quickest tenth of the turns, in
// nanoseconds.
func (v *speedVariant) quick() float64 {
	slices.Sort(v.took)
	return float64(v.took[len(v.took)/10]) / speedTurn
}

// threadTime is the processor time of the thread, in nanoseconds.
func threadTime(t *testing.T) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano()
}
