package storetest

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// mirror is a follower that keeps what it is told.
type mirror struct {
	tenants map[string]access.Tenant
	keys    map[access.KeyID]access.KeyHead
	sealed  map[string]access.ProviderKey // by tenant, a space and the provider
	log     []string
}

func newMirror() *mirror {
	return &mirror{tenants: map[string]access.Tenant{}, keys: map[access.KeyID]access.KeyHead{}, sealed: map[string]access.ProviderKey{}}
}

func (m *mirror) apply(t *testing.T) func(store.Change) {
	return func(c store.Change) {
		switch {
		case c.Tenant != nil:
			m.tenants[c.Tenant.ID] = *c.Tenant
			m.log = append(m.log, "tenant "+c.Tenant.ID)
		case c.Key != nil:
			if _, ok := m.tenants[c.Key.Tenant]; !ok {
				t.Errorf("key %s came before its tenant %s", c.Key.ID, c.Key.Tenant)
			}
			old, had := m.keys[c.Key.ID]
			if had != (c.Old != nil) || had && !reflect.DeepEqual(*c.Old, old) {
				t.Errorf("key %s: Old is %+v, want %+v", c.Key.ID, c.Old, old)
			}
			m.keys[c.Key.ID] = *c.Key
			m.log = append(m.log, "key "+c.Key.Status.String())
		case c.TenantGone != "":
			for _, k := range m.keys {
				if k.Tenant == c.TenantGone {
					t.Errorf("tenant %s is gone before its key %s", c.TenantGone, k.ID)
				}
			}
			delete(m.tenants, c.TenantGone)
			maps.DeleteFunc(m.sealed, func(_ string, k access.ProviderKey) bool { return k.Tenant == c.TenantGone })
			m.log = append(m.log, "gone "+c.TenantGone)
		case c.KeyGone != nil:
			if old := m.keys[c.KeyGone.ID]; !reflect.DeepEqual(old, *c.KeyGone) {
				t.Errorf("key %s is gone as %+v, was %+v", c.KeyGone.ID, *c.KeyGone, old)
			}
			delete(m.keys, c.KeyGone.ID)
			m.log = append(m.log, "gone key")
		default:
			m.applyProvider(t, c)
		}
	}
}

func follow(t *testing.T, s store.Store) *mirror {
	t.Helper()
	m := newMirror()
	if err := s.Follow(context.Background(), m.apply(t)); err != nil {
		t.Fatalf("follow: %v", err)
	}
	return m
}

func testFollow(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	records := []any{}
	for i := range 20 {
		records = append(records, NewTenant(fmt.Sprint("t", i)))
	}
	for i := range 3000 {
		k := NewKey(fmt.Sprint("t", i%20), i*7919)
		if i%50 == 0 {
			k = withSecrets(k)
		}
		records = append(records, k)
	}
	put(t, s, records...)
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	m := follow(t, s)
	same(t, "tenants", len(m.tenants), 20)
	same(t, "keys", len(m.keys), 3000)
	for _, r := range records {
		switch r := r.(type) {
		case *access.Tenant:
			same(t, "tenant", m.tenants[r.ID], *r)
		case *access.Key:
			same(t, "key", m.keys[r.ID], r.KeyHead)
		}
	}
	m.log = nil
	k := NewKey("t1", 5)
	update(t, s, func(tx store.Tx) error {
		_ = tx.PutTenant(NewTenant("new"))
		_ = tx.CreateKey(k)
		k.Status = access.StatusRevoked
		if err := tx.UpdateKey(k); err != nil {
			return err
		}
		return tx.PutTenant(NewTenant("t1"))
	})
	same(t, "changes at the return of Update", m.log, []string{"tenant new", "key active", "key revoked", "tenant t1"})
	if err := s.Follow(context.Background(), m.apply(t)); err == nil {
		t.Fatal("a second follower was let in")
	}
}

func testFollowFailures(t *testing.T, open Opener) {
	s := start(t, open)
	put(t, s, NewTenant("acme"))
	m := follow(t, s)
	m.log = nil
	err := s.Update(context.Background(), func(tx store.Tx) error {
		_ = tx.PutTenant(NewTenant("acme"))
		_ = tx.CreateKey(NewKey("acme", 1))
		return errStop
	})
	wantErr(t, "update", err, errStop)
	if len(m.log) > 0 {
		t.Fatalf("the follower saw changes that did not happen: %q", m.log)
	}
}

func testDeleteTenant(t *testing.T, open Opener) {
	s := start(t, open)
	put(t, s, NewTenant("acme"), NewTenant("acme2"), NewKey("acme", 1), NewKey("acme2", 2), NewKey("acme", 3))
	m := follow(t, s)
	update(t, s, func(tx store.Tx) error { return tx.DeleteTenant("acme") })
	same(t, "keys", listKeys(t, s, "", access.KeyID{}), []access.KeyID{NewKey("", 2).ID})
	same(t, "keys of the tenant", listKeys(t, s, "acme", access.KeyID{}), []access.KeyID(nil))
	same(t, "keys of the follower", m.keys, map[access.KeyID]access.KeyHead{NewKey("", 2).ID: NewKey("acme2", 2).KeyHead})
	same(t, "tenants of the follower", len(m.tenants), 1)
	put(t, s, NewTenant("acme"))
	same(t, "keys of the tenant made anew", listKeys(t, s, "acme", access.KeyID{}), []access.KeyID(nil))
}

// What is given in and out belongs to the caller.
func testOwnCopies(t *testing.T, open Opener) {
	s := start(t, open)
	tenant, key, blob := NewTenant("acme"), NewKey("acme", 1), []byte("blob")
	update(t, s, func(tx store.Tx) error {
		_ = tx.PutTenant(tenant)
		_ = tx.CreateKey(key)
		err := tx.PutBlob("b", blob)
		tenant.Metadata["region"], key.Rights.Permissions[0], key.Digest[0], blob[0] = "x", "x", 'x', 'x'
		return err
	})
	var k *access.Key
	var b []byte
	view(t, s, func(r store.Reader) (err error) {
		k, _ = r.Key(key.ID)
		b, err = r.Blob("b")
		return err
	})
	same(t, "tenant", mustTenant(t, s, "acme"), NewTenant("acme"))
	same(t, "key", k, NewKey("acme", 1))
	b[0] = 'B' // faults if it is the store's own memory
	k.Rights.Permissions[0] = "mine"
	same(t, "key", mustKey(t, s, key.ID), NewKey("acme", 1))
}

func testCancel(t *testing.T, open Opener) {
	s := start(t, open)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ran := false
	wantErr(t, "View", s.View(ctx, func(store.Reader) error { ran = true; return nil }), context.Canceled)
	wantErr(t, "Update", s.Update(ctx, func(store.Tx) error { ran = true; return nil }), context.Canceled)
	wantErr(t, "Follow", s.Follow(ctx, func(store.Change) { ran = true }), context.Canceled)
	if ran {
		t.Fatal("a function ran although the context was done")
	}
	follow(t, s) // the one that was cancelled is no follower
}

func testClosed(t *testing.T, open Opener) {
	s := open(t, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	wantErr(t, "View", s.View(ctx, func(store.Reader) error { return nil }), store.ErrClosed)
	wantErr(t, "Update", s.Update(ctx, func(store.Tx) error { return nil }), store.ErrClosed)
	wantErr(t, "Follow", s.Follow(ctx, func(store.Change) {}), store.ErrClosed)
	wantErr(t, "Close", s.Close(), store.ErrClosed)
}
