package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

const (
	modelSeed  = 20260917
	modelOps   = 10_000
	opsPerTx   = 25
	compareOne = 40 // one in so many transactions is followed by a full comparison
)

// model is what the store should hold.
type model struct {
	tenants map[string]*access.Tenant
	keys    map[access.KeyID]*access.Key
	blobs   map[string]string
}

func (m *model) clone() *model {
	return &model{maps.Clone(m.tenants), maps.Clone(m.keys), maps.Clone(m.blobs)}
}

// testModel does random operations to the store and to maps, in transactions
// some of which fail, and compares; the store is reopened now and then.
func testModel(t *testing.T, open Opener) {
	t.Logf("seed %d", modelSeed)
	rnd := rand.New(rand.NewPCG(modelSeed, 0))
	dir := t.TempDir()
	s := open(t, dir)
	defer func() { _ = s.Close() }()
	m := &model{map[string]*access.Tenant{}, map[access.KeyID]*access.Key{}, map[string]string{}}
	seen := follow(t, s)
	for ops := 0; ops < modelOps; {
		next := m.clone()
		n, abort := 1+rnd.IntN(opsPerTx*2), rnd.IntN(8) == 0
		err := s.Update(context.Background(), func(tx store.Tx) error {
			for range n {
				if err := next.step(rnd, tx); err != nil {
					return err
				}
			}
			if abort {
				return errStop
			}
			return nil
		})
		ops += n
		switch {
		case err == nil:
			m = next
		case !errors.Is(err, errStop):
			t.Fatalf("after %d operations: %v", ops, err)
		}
		if rnd.IntN(compareOne) == 0 {
			m.compare(t, s, seen)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			seen = follow(t, s)
			m.compare(t, s, seen)
		}
	}
	m.compare(t, s, seen)
}

// step does one operation to both and checks that they agree on its error.
func (m *model) step(rnd *rand.Rand, tx store.Tx) error {
	tenant := fmt.Sprint("t", rnd.IntN(30))
	key := NewKey(tenant, rnd.IntN(2000))
	key.Name = fmt.Sprint(rnd.Uint64())
	key.Rate.Burst = rnd.Uint32()
	_, hasTenant := m.tenants[tenant]
	old := m.keys[key.ID]
	var err, want error
	switch op := rnd.IntN(100); {
	case op < 50:
		want = pick(!hasTenant, store.ErrNotFound, old != nil, store.ErrExists)
		err = tx.CreateKey(key)
		if want == nil {
			m.keys[key.ID] = key
		}
	case op < 80:
		want = pick(old == nil, store.ErrNotFound, false, nil)
		if old != nil {
			key.Tenant = old.Tenant
		}
		key.Status = access.Status(1 + rnd.IntN(3))
		err = tx.UpdateKey(key)
		if want == nil {
			m.keys[key.ID] = key
		}
	case op < 92:
		v := NewTenant(tenant)
		v.Name = fmt.Sprint(rnd.Uint64())
		m.tenants[tenant] = v
		err = tx.PutTenant(v)
	case op < 94:
		want = pick(!hasTenant, store.ErrNotFound, false, nil)
		err = tx.DeleteTenant(tenant)
		delete(m.tenants, tenant)
		maps.DeleteFunc(m.keys, func(_ access.KeyID, k *access.Key) bool { return k.Tenant == tenant })
	default:
		err = m.blob(rnd, tx)
	}
	if !errors.Is(err, want) || want == nil && err != nil {
		return fmt.Errorf("got error %v, want %v", err, want)
	}
	return nil
}

func (m *model) blob(rnd *rand.Rand, tx store.Tx) error {
	name := fmt.Sprint("b", rnd.IntN(4))
	if rnd.IntN(3) == 0 {
		delete(m.blobs, name)
		return tx.PutBlob(name, nil)
	}
	value := make([]byte, 1+rnd.IntN(10_000))
	value[rnd.IntN(len(value))] = byte(rnd.Uint32())
	m.blobs[name] = string(value)
	return tx.PutBlob(name, value)
}

func pick(a bool, errA error, b bool, errB error) error {
	switch {
	case a:
		return errA
	case b:
		return errB
	}
	return nil
}

// compare sees that store, follower and model hold the same.
func (m *model) compare(t *testing.T, s store.Store, seen *mirror) {
	t.Helper()
	same(t, "tenants", listTenants(t, s, ""), slices.Sorted(maps.Keys(m.tenants)))
	same(t, "number of keys", len(listKeys(t, s, "", access.KeyID{})), len(m.keys))
	same(t, "number of followed tenants", len(seen.tenants), len(m.tenants))
	same(t, "number of followed keys", len(seen.keys), len(m.keys))
	view(t, s, func(r store.Reader) error {
		for id, want := range m.tenants {
			got, err := r.Tenant(id)
			same(t, "error", err, nil)
			same(t, "tenant", got, want)
			same(t, "followed tenant", seen.tenants[id], *want)
		}
		for id, want := range m.keys {
			got, err := r.Key(id)
			same(t, "error", err, nil)
			same(t, "key", got, want)
			same(t, "followed key", seen.keys[id], want.KeyHead)
		}
		for i := range 4 {
			name := fmt.Sprint("b", i)
			got, _ := r.Blob(name)
			same(t, "blob", string(got), m.blobs[name])
		}
		return nil
	})
	for id := range m.tenants {
		n := 0
		for _, k := range m.keys {
			if k.Tenant == id {
				n++
			}
		}
		same(t, "keys of "+id, len(listKeys(t, s, id, access.KeyID{})), n)
	}
}
