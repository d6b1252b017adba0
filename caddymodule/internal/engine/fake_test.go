package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// fakeStore is as much of a store as the engine needs.
type fakeStore struct {
	store.Store
	mu    sync.Mutex
	keys  map[access.KeyID]access.Key
	uses  map[access.KeyID]access.Use
	apply func(store.Change)
	fail  error
	txs   int
}

type fakeTx struct {
	store.Tx
	s *fakeStore
}

func (s *fakeStore) Master() token.Master {
	m, err := token.ParseMaster("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
	if err != nil {
		panic(err)
	}
	return m
}

func (s *fakeStore) Opens(m token.Master) bool { return m.Equal(s.Master()) }

func (s *fakeStore) SetMasters(context.Context, ...token.Master) error { return s.fail }

func (s *fakeStore) View(_ context.Context, fn func(store.Reader) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	return fn(fakeTx{s: s})
}

func (s *fakeStore) Update(_ context.Context, fn func(store.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.txs++
	return fn(fakeTx{s: s})
}

func (s *fakeStore) Follow(_ context.Context, apply func(store.Change)) error {
	s.apply = apply
	return nil
}

func (s *fakeStore) Close() error { return nil }

func (tx fakeTx) Blob(string) ([]byte, error) { return nil, store.ErrNotFound }

func (tx fakeTx) PutBlob(string, []byte) error { return nil }

func (tx fakeTx) Use(id access.KeyID) (access.Use, error) { return tx.s.uses[id], nil }

func (tx fakeTx) PutUse(id access.KeyID, u access.Use) error {
	tx.s.uses[id] = u
	return nil
}

func (tx fakeTx) Key(id access.KeyID) (*access.Key, error) {
	k, ok := tx.s.keys[id]
	if !ok {
		return nil, store.ErrNotFound
	}
	return &k, nil
}

// rig is an engine on a fake store, with a clock that is set by hand and
// without goroutines of its own.
type rig struct {
	*Engine
	store  *fakeStore
	now    atomic.Int64 // unix seconds
	gate   *gate.Gate
	tenant access.Tenant
	serial int
}

const rigStart = 1_800_000_000

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{
		store:  &fakeStore{keys: map[access.KeyID]access.Key{}, uses: map[access.KeyID]access.Use{}},
		tenant: access.Tenant{ID: "acme", Status: access.StatusActive},
	}
	r.now.Store(rigStart)
	e, err := load(context.Background(), r.store, r.time)
	if err != nil {
		t.Fatal(err)
	}
	r.Engine = e
	r.Limiter = limit.New(limit.Options{Now: func() int64 { return (r.now.Load() - rigStart) * int64(time.Second) }})
	r.gate = &gate.Gate{Sources: []gate.Source{{Kind: gate.Bearer}}, AllowHTTP: true, Now: r.time}
	r.put(nil)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func (r *rig) time() time.Time { return time.Unix(r.now.Load(), 0) }

func (r *rig) advance(seconds int64) { r.now.Add(seconds) }

// put stores a key, or the tenant, as an update does.
func (r *rig) put(k *access.KeyHead) {
	if k == nil {
		r.store.apply(store.Change{Tenant: &r.tenant})
		return
	}
	r.store.mu.Lock()
	r.store.keys[k.ID] = access.Key{KeyHead: *k}
	r.store.mu.Unlock()
	r.store.apply(store.Change{Key: k, Old: k})
}

func (r *rig) key(text string) *access.KeyHead {
	r.serial++
	k := &access.KeyHead{
		ID: access.KeyID([]byte(fmt.Sprintf("%016d", r.serial))), Digest: r.Digester.Sum(text), Alg: 1,
		Status: access.StatusActive, Tenant: "acme",
	}
	r.put(k)
	return k
}

func (r *rig) imported(hint, hash string) *access.KeyHead {
	k := r.key("imported " + hash)
	k.Alg, k.Imported = 3, &access.Imported{Hint: hint, Hash: hash}
	r.put(k)
	return k
}
