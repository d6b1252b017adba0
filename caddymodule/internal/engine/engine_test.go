package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
)

func open(t testing.TB, path string) *Engine {
	t.Helper()
	b, err := boltstore.New(boltstore.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// mint creates a key in the store and returns its digest and id.
func mint(t *testing.T, e *Engine) ([32]byte, access.KeyID) {
	t.Helper()
	reg := registrar.New(registrar.Options{Store: e.Store, Digester: e.Digester, Random: rand.Reader,
		Prefixes: func() []registrar.Prefix { return []registrar.Prefix{{Text: "kt_"}} }})
	if err := reg.EnsureTenant(t.Context(), registrar.CreateTenantRequest{ID: "acme"}); err != nil {
		t.Fatal(err)
	}
	key, secret, err := reg.CreateKey(t.Context(), registrar.CreateKeyRequest{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	return e.Digester.Sum(secret.Reveal()), key.ID
}

var hourly = access.Rate{Requests: 3, Burst: 3, Window: time.Hour}

// take draws on a key's own bucket and on one of the table.
func take(e *Engine, digest [32]byte) limit.Result {
	asks := [2]limit.Ask{
		{Slot: &e.Index.Lookup(&digest).Bucket, Rate: hourly},
		{Class: 99, Subject: limit.SubjectOf("acme"), Rate: hourly},
	}
	return e.Limiter.Take(e.Limiter.Now(), asks[:])
}

// The collector must leave the headroom's room between two collections.
func TestCollectionsAreRare(t *testing.T) {
	if v := os.Getenv("GOGC"); v != "" && v != "100" {
		t.Skip("GOGC is set")
	}
	e := open(t, filepath.Join(t.TempDir(), "k.db"))
	defer e.Close()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.NextGC < 2*headroom {
		t.Errorf("the heap is collected at %d bytes, want %d or more", m.NextGC, 2*headroom)
	}
	runtime.KeepAlive(e)
}

// A restart must not refill what was used, in records and in the table.
func TestBucketsSurviveACleanStop(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.db")
	e := open(t, path)
	digest, id := mint(t, e)
	take(e, digest)
	if r := take(e, digest); !r.OK || r.Remaining != 1 {
		t.Fatalf("%+v", r)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	e = open(t, path)
	if key, err := e.Key(t.Context(), id); err != nil || key.Tenant != "acme" {
		t.Fatal(key, err)
	}
	if r := take(e, digest); !r.OK || r.Remaining != 0 {
		t.Fatalf("after a restart: %+v", r)
	}
	if r := take(e, digest); r.OK {
		t.Fatalf("a fourth request of three: %+v", r)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// A clock that was set back while the server was down is no time; one that was
// set forward is taken for time.
func TestClockStepsWhileStopped(t *testing.T) {
	for name, tt := range map[string]struct {
		stopped time.Time
		refused bool
	}{
		"set back":    {time.Now().Add(30 * 24 * time.Hour), true},
		"set forward": {time.Now().Add(-30 * 24 * time.Hour), false},
	} {
		path := filepath.Join(t.TempDir(), "k.db")
		e := open(t, path)
		digest, _ := mint(t, e)
		for range 3 {
			take(e, digest)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = open(t, path)
		restamp(t, e.Store, tt.stopped)
		if err := e.Store.Close(); err != nil { // not e.Close, which stamps anew
			t.Fatal(err)
		}
		e = open(t, path)
		if r := take(e, digest); r.OK == tt.refused {
			t.Errorf("%s: %+v", name, r)
		}
		_ = e.Close()
	}
}

func restamp(t *testing.T, st store.Store, at time.Time) {
	t.Helper()
	err := st.Update(t.Context(), func(tx store.Tx) error {
		return tx.PutBlob(blobStopped, binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{-1, 0, 250, 251, time.Microsecond, time.Hour} {
		h.Observe(d)
	}
	if h.Buckets[0].Load() != 3 || h.Buckets[1].Load() != 1 || h.Buckets[2].Load() != 1 || h.Buckets[len(Bounds)].Load() != 1 {
		t.Error("a duration is in the wrong bucket")
	}
}

type failing struct{ store.Store }

func (failing) Close() error { return nil }

type failingBackend struct{}

func (failingBackend) Identity() string                          { return "x" }
func (failingBackend) Open(context.Context) (store.Store, error) { return failing{}, nil }

// A store that does not name its master key cannot be served from.
func TestStoreWithoutMasterKey(t *testing.T) {
	if _, err := Open(t.Context(), failingBackend{}); err == nil {
		t.Error("opened")
	}
}
