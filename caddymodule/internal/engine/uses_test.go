package engine

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func (r *rig) last(t *testing.T, id access.KeyID) access.Use {
	t.Helper()
	u, err := r.Uses.Last(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestUses(t *testing.T) {
	r := newRig(t)
	k := r.key("k")
	if u := r.last(t, k.ID); u != (access.Use{}) {
		t.Errorf("never used: %+v", u)
	}
	r.decide("k")
	r.advance(59 - rigStart%60)
	r.decide("k")
	want := access.Use{At: rigStart, Agent: "agent/1.0"}
	if u := r.last(t, k.ID); u != want {
		t.Errorf("%+v, want %+v", u, want)
	}
	r.work(false)
	if len(r.store.uses) != 0 {
		t.Error("stored before its time")
	}
	r.work(true)
	if r.store.uses[k.ID] != want || r.last(t, k.ID) != want {
		t.Errorf("stored %+v", r.store.uses[k.ID])
	}
	r.advance(60)
	r.decide("k")
	if u := r.last(t, k.ID); u.At <= rigStart {
		t.Errorf("the next minute: %+v", u)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if r.store.uses[k.ID].At <= rigStart {
		t.Error("Close stored no use")
	}
	r.stop = make(chan struct{}) // for the rig's own Close
}

func TestUsesOfAStoreThatFails(t *testing.T) {
	r := newRig(t)
	var got map[access.KeyID]access.Use
	fail := errors.New("full")
	r.Hooks(Hooks{RecordUses: func(m map[access.KeyID]access.Use) error { got = m; return fail }})
	k, other := r.key("k"), r.key("other")
	r.decide("k")
	r.decide("other")
	r.work(true)
	if len(got) != 2 || r.Counts.StoreErrors.Load() != 1 {
		t.Fatalf("%d uses, %d errors", len(got), r.Counts.StoreErrors.Load())
	}
	r.advance(60)
	r.decide("k")
	fail = nil
	r.work(true)
	if got[k.ID].At != rigStart+60 || got[other.ID].At != rigStart {
		t.Errorf("after the failure: %+v", got)
	}
	got = nil
	if r.work(true); got != nil {
		t.Error("stored what was stored")
	}
}

func TestUsesAreBounded(t *testing.T) {
	r := newRig(t)
	var id access.KeyID
	for i := range maxUses + 10 {
		id[0], id[1], id[2] = byte(i), byte(i>>8), byte(i>>16)
		r.Uses.add(id, access.Use{At: 1})
	}
	if len(r.Uses.pending) != maxUses || !r.Uses.crowded() || len(r.jobs.wake) != 1 {
		t.Errorf("%d uses wait", len(r.Uses.pending))
	}
	r.work(r.Uses.crowded())
	if len(r.store.uses) != maxUses || r.store.txs != maxUses/usesPerTx {
		t.Errorf("%d uses in %d transactions", len(r.store.uses), r.store.txs)
	}
}

func TestTouchAndAgent(t *testing.T) {
	r := newRig(t)
	k := r.key("k")
	set, err := token.NewSet("kt_")
	if err != nil {
		t.Fatal(err)
	}
	secret, err := token.Mint("kt_", zeros{})
	if err != nil {
		t.Fatal(err)
	}
	g := &gate.Gate{Keys: set}
	req := httptest.NewRequest("GET", "/", nil)
	req.Header.Set("User-Agent", "tool "+secret.Reveal())
	r.Admitted(g, req, &gate.Call{Record: r.Index.ByID(k.ID)})
	if a := r.last(t, k.ID).Agent; strings.Contains(a, secret.Reveal()) || !strings.HasPrefix(a, "tool kt_") {
		t.Errorf("agent %q", a)
	}
	r.Admitted(g, req, new(gate.Call)) // nobody's
	r.advance(60)
	req.Header.Set("User-Agent", "x")
	g.Client = func(*http.Request) netip.Addr { return netip.MustParseAddr("192.0.2.1") }
	r.Admitted(g, req, &gate.Call{Record: r.Index.ByID(k.ID), Started: r.Limiter.Now()})
	if u := r.last(t, k.ID); u.Agent != "x" || u.Address.String() != "192.0.2.1" {
		t.Errorf("%+v", u)
	}
	for _, s := range []string{"", "a", strings.Repeat("é", 150), strings.Repeat("a", 199) + "é", strings.Repeat("a", 300), "\xff\xfe"} {
		a := ownAgent(s)
		if len(a) > access.MaxAgent || !utf8.ValidString(a) || utf8.ValidString(s) && !strings.HasPrefix(s, a) || s != "" && a == "" {
			t.Errorf("agent %q of %q", a, s)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAdmittedDoesNotAllocate(t *testing.T) {
	r := newRig(t)
	k := r.key("k")
	req := httptest.NewRequest("GET", "/", nil)
	c := &gate.Call{Record: r.Index.ByID(k.ID)}
	if n := testing.AllocsPerRun(100, func() { r.Admitted(r.gate, req, c); r.Refused(c) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t)
	k := r.key("k")
	k.Status = access.StatusDisabled
	r.put(k)
	if _, ok := r.Refusals.Last(k.ID); ok {
		t.Error("refused before any request")
	}
	r.decide("k")
	r.decide("unknown")
	if f, ok := r.Refusals.Last(k.ID); !ok || f != (Refusal{access.Disabled, rigStart}) {
		t.Errorf("%+v", f)
	}
	var id access.KeyID
	for i := range 3 * refusalShards * refusalsInShard {
		id[0], id[5], id[12] = byte(i), byte(i>>8), byte(i>>16)
		r.Refusals.put(id, Refusal{At: int64(i)})
		if f, ok := r.Refusals.Last(id); !ok || f.At != int64(i) {
			t.Fatal("the newest refusal is not there")
		}
	}
	n := 0
	for i := range r.Refusals.shards {
		n += len(r.Refusals.shards[i].last)
	}
	if n > refusalShards*refusalsInShard {
		t.Errorf("%d refusals are kept", n)
	}
}

// The first good use of a new secret is told once, a later one only if that
// failed.
func TestSettledOnce(t *testing.T) {
	r := newRig(t)
	told := 0
	fail := errors.New("later")
	r.Hooks(Hooks{OnSettled: func(access.KeyID) error { told++; return fail }})
	k := r.key("k")
	k.Previous = &access.Previous{Digest: r.Digester.Sum("old"), Alg: 1, Until: rigStart + 60}
	r.put(k)
	r.decide("old")
	r.work(false)
	if told != 0 {
		t.Fatal("the old secret settled the rotation")
	}
	r.decide("k")
	r.decide("k")
	r.work(false)
	fail = nil
	r.work(false)
	r.decide("k")
	r.work(false)
	if told != 2 {
		t.Errorf("told %d times, want once and once again after the failure", told)
	}
	fail = errors.New("never")
	r.settle(k.ID)
	for range 3 * settleTries {
		r.work(false)
	}
	if told != 2+settleTries {
		t.Errorf("told %d times of what always fails", told-2)
	}
}

// A key that is rotated again while the hook fails for it has all its tries, and
// those that come back count among those that wait.
func TestSettlingAgain(t *testing.T) {
	r := newRig(t)
	a, b := access.KeyID{1}, access.KeyID{2}
	r.Hooks(Hooks{OnSettled: func(id access.KeyID) error { r.settle(a); return errors.New("full") }})
	r.settle(a)
	r.work(false)
	if tries, ok := r.jobs.settle[a]; !ok || tries != 0 {
		t.Errorf("%d tries, %t", tries, ok)
	}
	for i := 0; len(r.jobs.settle) < maxSettling; i++ {
		r.settle(access.KeyID{3, byte(i), byte(i >> 8), byte(i >> 16)})
	}
	r.settleAgain(b, 1)
	if len(r.jobs.settle) != maxSettling {
		t.Errorf("%d wait", len(r.jobs.settle))
	}
	r.jobs.settle = map[access.KeyID]int{}
}
