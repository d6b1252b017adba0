package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// applyProvider is the part of a mirror for provider keys.
func (m *mirror) applyProvider(t *testing.T, c store.Change) {
	switch {
	case c.ProviderKey != nil:
		k := c.ProviderKey
		if _, ok := m.tenants[k.Tenant]; !ok {
			t.Errorf("%v came before its tenant", k)
		}
		m.sealed[k.Tenant+" "+k.Provider] = *k
		m.log = append(m.log, "provider key "+k.Provider+" "+k.ID)
	case c.ProviderKeyGone != nil:
		k := c.ProviderKeyGone
		if old := m.sealed[k.Tenant+" "+k.Provider]; old.ID != k.ID || k.ID == "" {
			t.Errorf("%v is gone, was %v", k, old)
		}
		delete(m.sealed, k.Tenant+" "+k.Provider)
		m.log = append(m.log, "gone provider key "+k.Provider)
	default:
		t.Errorf("empty change")
	}
}

// unsealed is a provider key as a follower is told of it.
func unsealed(k *access.ProviderKey) access.ProviderKey {
	told := *k
	told.Sealed = nil
	return told
}

func testFollowProviders(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	for n := range 50 {
		tenant := fmt.Sprint("t", n)
		put(t, s, NewTenant(tenant), NewKey(tenant, n), NewDataKey(tenant, n), NewProviderKey(tenant, "a", n), NewProviderKey(tenant, "b", n))
	}
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	m := follow(t, s)
	same(t, "changes", len(m.log), 200)
	for i, what := range m.log {
		kind := [...]string{"tenant t", "key acti", "provider", "provider"}[i/50]
		same(t, fmt.Sprint("change ", i), what[:8], kind)
	}
	for n := range 50 {
		for _, p := range []string{"a", "b"} {
			k := NewProviderKey(fmt.Sprint("t", n), p, n)
			same(t, k.String(), m.sealed[k.Tenant+" "+p], unsealed(k))
		}
	}
	m.log = nil
	k := NewProviderKey("new", "c", 60)
	update(t, s, func(tx store.Tx) error {
		err := errors.Join(tx.PutTenant(NewTenant("new")), tx.PutDataKey(NewDataKey("new", 1)), tx.PutProviderKey(k))
		k.ID, k.LastUsed = "pk_other", 5
		return errors.Join(err, tx.PutProviderKey(k), tx.DeleteProviderKey("t1", "b"), tx.DeleteDataKey("t2"))
	})
	same(t, "changes at the return of Update", m.log,
		[]string{"tenant new", "provider key c pk_0000000000000060", "provider key c pk_other", "gone provider key b"})
	same(t, "the changed key", m.sealed["new c"], unsealed(k))
}

// provider does an operation on provider keys or data keys, and returns the
// error that it should have.
func (m *model) provider(rnd *rand.Rand, tx store.Tx, tenant string) (err, want error) {
	_, hasTenant := m.tenants[tenant]
	k := NewProviderKey(tenant, fmt.Sprint("p", rnd.IntN(4)), rnd.IntN(10_000))
	name := k.Tenant + " " + k.Provider
	switch rnd.IntN(8) {
	case 0, 1, 2:
		want = pick(!hasTenant, store.ErrNotFound, false, nil)
		if want == nil {
			m.sealed[name] = k
		}
		return tx.PutProviderKey(k), want
	case 3:
		want = pick(m.sealed[name] == nil, store.ErrNotFound, false, nil)
		delete(m.sealed, name)
		return tx.DeleteProviderKey(k.Tenant, k.Provider), want
	case 4:
		want = pick(m.seals[tenant] == nil, store.ErrNotFound, false, nil)
		delete(m.seals, tenant)
		return tx.DeleteDataKey(tenant), want
	case 5:
		old, err := tx.ProviderKey(k.Tenant, k.Provider)
		if known := m.sealed[name]; known == nil {
			want = store.ErrNotFound
		} else if err == nil && old.ID != known.ID {
			err = fmt.Errorf("got %v, want %v", old, known)
		}
		return err, want
	}
	d := NewDataKey(tenant, rnd.IntN(10_000))
	want = pick(!hasTenant, store.ErrNotFound, false, nil)
	if want == nil {
		m.seals[tenant] = d
	}
	return tx.PutDataKey(d), want
}

func (m *model) compareProviders(t *testing.T, s store.Store, seen *mirror) {
	t.Helper()
	of := map[string][]*access.ProviderKey{}
	var all []*access.ProviderKey
	for _, tenant := range slices.Sorted(maps.Keys(m.tenants)) {
		for n := range 4 { // in order
			if k := m.sealed[fmt.Sprint(tenant, " p", n)]; k != nil {
				of[tenant], all = append(of[tenant], k), append(all, k)
			}
		}
		sameRecords(t, "provider keys of "+tenant, providersOf(t, s, tenant), of[tenant]...)
	}
	sameRecords(t, "provider keys", providersOf(t, s, ""), all...)
	same(t, "number of followed provider keys", len(seen.sealed), len(m.sealed))
	for name, k := range m.sealed {
		same(t, "followed "+k.String(), seen.sealed[name], unsealed(k))
	}
	var seals []*access.DataKey
	for _, tenant := range slices.Sorted(maps.Keys(m.seals)) {
		seals = append(seals, m.seals[tenant])
	}
	sameRecords(t, "data keys", dataKeysOf(t, s, ""), seals...)
}
