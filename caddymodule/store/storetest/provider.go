package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// NewProviderKey returns a provider key with all fields set; n makes its ID and
// what is sealed.
func NewProviderKey(tenant, provider string, n int) *access.ProviderKey {
	return &access.ProviderKey{Tenant: tenant, Provider: provider, ID: fmt.Sprintf("pk_%016d", n), LastFour: fmt.Sprintf("%04d", n%10_000),
		CreatedAt: time.Unix(1_700_000_000+int64(n), 0).UTC(), LastUsed: 1_700_000_001, LastVerified: 1_700_000_002, Valid: n%2 == 0,
		Sealed: fmt.Appendf(nil, "sealed \x00 %d", n)}
}

// NewDataKey returns a data key with all fields set; n makes what is wrapped.
func NewDataKey(tenant string, n int) *access.DataKey {
	return &access.DataKey{Tenant: tenant, Wrapper: "master:0123456789abcdef", Wrapped: fmt.Appendf(nil, "wrapped \x00 %d", n),
		CreatedAt: time.Unix(1_700_000_000+int64(n), 0).UTC()}
}

// providersOf lists the provider keys of a tenant, or of all.
func providersOf(t *testing.T, s store.Store, tenant string) (list []*access.ProviderKey) {
	t.Helper()
	view(t, s, func(r store.Reader) error {
		return r.ProviderKeys(tenant, func(k *access.ProviderKey) bool { list = append(list, k); return true })
	})
	return list
}

func dataKeysOf(t *testing.T, s store.Store, after string) (list []*access.DataKey) {
	t.Helper()
	view(t, s, func(r store.Reader) error {
		return r.DataKeys(after, func(k *access.DataKey) bool { list = append(list, k); return true })
	})
	return list
}

// sameRecords compares what prints as its names alone.
func sameRecords[T any](t *testing.T, what string, got []*T, want ...*T) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
	for i := range got {
		same(t, fmt.Sprintf("%s: record %d, %v,", what, i, want[i]), *got[i], *want[i])
	}
}

func testProviderKeys(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	// "a" and "a.b" would mix if names were joined without a separator.
	put(t, s, NewTenant("a.b"), NewTenant("a"), NewTenant("ab"), NewTenant("b"))
	a1, a2, a3 := NewProviderKey("a", "elevenlabs", 1), NewProviderKey("a", "b", 2), NewProviderKey("a", "openai", 3)
	ab, a4 := NewProviderKey("ab", "b", 4), NewProviderKey("a.b", "b", 5)
	bare := &access.ProviderKey{Tenant: "b", Provider: strings.Repeat("z", access.MaxProvider), ID: "pk_0123456789abcdef"}
	put(t, s, a1, bare, ab, a2, NewProviderKey("a", "openai", 9), a4, a3)
	_ = s.Update(context.Background(), func(tx store.Tx) error {
		return errors.Join(tx.PutProviderKey(NewProviderKey("a", "never", 6)), tx.DeleteProviderKey("ab", "b"), errStop)
	})
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	sameRecords(t, "all", providersOf(t, s, ""), a2, a1, a3, a4, ab, bare)
	sameRecords(t, "those of a", providersOf(t, s, "a"), a2, a1, a3)
	sameRecords(t, "those of a.b", providersOf(t, s, "a.b"), a4)
	sameRecords(t, "those of nobody", providersOf(t, s, "nobody"))
	n := 0
	view(t, s, func(r store.Reader) error {
		k, err := r.ProviderKey("a", "elevenlabs")
		sameRecords(t, "one", []*access.ProviderKey{k}, a1)
		k.Sealed[0] = 'x' // the caller's own: faults if it is the store's memory
		return errors.Join(err, r.ProviderKeys("", func(*access.ProviderKey) bool { n++; return n < 2 }))
	})
	same(t, "keys before yield said no", n, 2)
	large := NewProviderKey("a", "elevenlabs", 7)
	large.Sealed = []byte(strings.Repeat("s", access.MaxProviderKey+200))
	update(t, s, func(tx store.Tx) error {
		given := *large
		given.Sealed = slices.Clone(large.Sealed)
		err := tx.PutProviderKey(&given)
		given.Sealed[0], given.ID = 'x', "changed"
		return errors.Join(err, tx.DeleteProviderKey("a", "b"))
	})
	sameRecords(t, "those of a", providersOf(t, s, "a"), large, a3)
	sameRecords(t, "those of others", providersOf(t, s, "a.b"), a4)
}

func testDataKeys(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, NewTenant("a"), NewTenant("b"), NewTenant("c"))
	seen := follow(t, s)
	seen.log = nil
	a, b, c := NewDataKey("a", 1), NewDataKey("b", 2), NewDataKey("c", 3)
	b.Wrapper, b.CreatedAt, b.Wrapped = "kms:"+strings.Repeat("w", 252), time.Time{}, []byte(strings.Repeat("x", 10_000))
	put(t, s, c, NewDataKey("a", 9), b, a)
	_ = s.Update(context.Background(), func(tx store.Tx) error {
		return errors.Join(tx.PutDataKey(NewDataKey("a", 4)), tx.DeleteDataKey("b"), errStop)
	})
	same(t, "changes", seen.log, []string(nil))
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	sameRecords(t, "all", dataKeysOf(t, s, ""), a, b, c)
	sameRecords(t, "after a", dataKeysOf(t, s, "a"), b, c)
	sameRecords(t, "after what is not there", dataKeysOf(t, s, "bb"), c)
	sameRecords(t, "after the last", dataKeysOf(t, s, "c"))
	n := 0
	view(t, s, func(r store.Reader) error {
		k, err := r.DataKey("b")
		sameRecords(t, "one", []*access.DataKey{k}, b)
		k.Wrapped[0] = 'y' // the caller's own
		return errors.Join(err, r.DataKeys("", func(*access.DataKey) bool { n++; return false }))
	})
	same(t, "data keys before yield said no", n, 1)
	update(t, s, func(tx store.Tx) error {
		given := NewDataKey("a", 5)
		err := tx.PutDataKey(given)
		given.Wrapped[0] = 'x'
		return errors.Join(err, tx.DeleteDataKey("c"))
	})
	sameRecords(t, "left", dataKeysOf(t, s, ""), NewDataKey("a", 5), b)
}

func testProviderErrors(t *testing.T, open Opener) {
	s := start(t, open)
	put(t, s, NewTenant("acme"), NewTenant("other"), NewProviderKey("acme", "openai", 1), NewDataKey("acme", 1))
	ctx := context.Background()
	for what, fn := range map[string]func(store.Tx) error{
		"ProviderKey":                   func(tx store.Tx) error { _, err := tx.ProviderKey("acme", "none"); return err },
		"ProviderKey, another's":        func(tx store.Tx) error { _, err := tx.ProviderKey("other", "openai"); return err },
		"ProviderKey, of nobody":        func(tx store.Tx) error { _, err := tx.ProviderKey("", ""); return err },
		"DataKey":                       func(tx store.Tx) error { _, err := tx.DataKey("other"); return err },
		"DataKey, of nobody":            func(tx store.Tx) error { _, err := tx.DataKey(""); return err },
		"PutProviderKey, no tenant":     func(tx store.Tx) error { return tx.PutProviderKey(NewProviderKey("nobody", "openai", 2)) },
		"DeleteProviderKey":             func(tx store.Tx) error { return tx.DeleteProviderKey("acme", "none") },
		"DeleteProviderKey, another's":  func(tx store.Tx) error { return tx.DeleteProviderKey("other", "openai") },
		"PutDataKey, no tenant":         func(tx store.Tx) error { return tx.PutDataKey(NewDataKey("nobody", 2)) },
		"DeleteDataKey":                 func(tx store.Tx) error { return tx.DeleteDataKey("other") },
		"DeleteProviderKey, once again": func(tx store.Tx) error { return twice(func() error { return tx.DeleteProviderKey("acme", "openai") }) },
		"DeleteDataKey, once again":     func(tx store.Tx) error { return twice(func() error { return tx.DeleteDataKey("acme") }) },
	} {
		wantErr(t, what, s.Update(ctx, fn), store.ErrNotFound)
	}
	for what, change := range map[string]func(*access.ProviderKey){
		"no provider":         func(k *access.ProviderKey) { k.Provider = "" },
		"none of a form":      func(k *access.ProviderKey) { k.Provider = "a\x00b" },
		"no id":               func(k *access.ProviderKey) { k.ID = "" },
		"more than is stored": func(k *access.ProviderKey) { k.Sealed = make([]byte, 1<<16) },
	} {
		k := NewProviderKey("acme", "new", 3)
		change(k)
		if s.Update(ctx, func(tx store.Tx) error { return tx.PutProviderKey(k) }) == nil {
			t.Fatalf("a provider key with %s was stored", what)
		}
	}
	if s.Update(ctx, func(tx store.Tx) error { return tx.PutDataKey(&access.DataKey{Tenant: "acme"}) }) == nil {
		t.Fatal("a data key without a wrapper was stored")
	}
	sameRecords(t, "provider keys", providersOf(t, s, ""), NewProviderKey("acme", "openai", 1))
	sameRecords(t, "data keys", dataKeysOf(t, s, ""), NewDataKey("acme", 1))
}

// twice returns what the second call of fn does, after one that has to succeed.
func twice(fn func() error) error {
	if err := fn(); err != nil {
		return fmt.Errorf("the first time: %v", err)
	}
	return fn()
}

func testDeleteTenantProviders(t *testing.T, open Opener) {
	s := start(t, open)
	put(t, s, NewTenant("acme"), NewTenant("acme2"), NewDataKey("acme", 1), NewDataKey("acme2", 2),
		NewProviderKey("acme", "a", 1), NewProviderKey("acme", "b", 2), NewProviderKey("acme2", "a", 3))
	m := follow(t, s)
	m.log = nil
	update(t, s, func(tx store.Tx) error { return tx.DeleteTenant("acme") })
	same(t, "changes", m.log, []string{"gone acme"})
	sameRecords(t, "provider keys", providersOf(t, s, ""), NewProviderKey("acme2", "a", 3))
	sameRecords(t, "data keys", dataKeysOf(t, s, ""), NewDataKey("acme2", 2))
	put(t, s, NewTenant("acme"))
	sameRecords(t, "provider keys of the tenant made anew", providersOf(t, s, "acme"))
	wantErr(t, "its data key", s.View(context.Background(), func(r store.Reader) error { _, err := r.DataKey("acme"); return err }), store.ErrNotFound)
}

// All that one data key sealed can be sealed anew as it is listed.
func testRewriteProviders(t *testing.T, open Opener) {
	s := start(t, open)
	var want []*access.ProviderKey
	for n := range 60 {
		tenant := fmt.Sprintf("t%02d", n)
		put(t, s, NewTenant(tenant), NewDataKey(tenant, n), NewProviderKey(tenant, "a", n), NewProviderKey(tenant, "b", n))
	}
	grow := func(k *access.ProviderKey) {
		k.Sealed = slices.Concat(k.Sealed, make([]byte, 500)) // the pages split
		want = append(want, k)
	}
	update(t, s, func(tx store.Tx) (failed error) {
		want = nil
		err := tx.DataKeys("", func(d *access.DataKey) bool {
			d.Wrapper = "kms:new"
			put := tx.PutDataKey(d)
			listed := tx.ProviderKeys(d.Tenant, func(k *access.ProviderKey) bool {
				grow(k)
				put = errors.Join(put, tx.PutProviderKey(k))
				return put == nil
			})
			failed = errors.Join(put, listed)
			return failed == nil
		})
		return errors.Join(err, failed)
	})
	same(t, "keys visited", len(want), 120)
	sameRecords(t, "provider keys", providersOf(t, s, ""), want...)
	for _, d := range dataKeysOf(t, s, "") {
		same(t, "wrapper", d.Wrapper, "kms:new")
	}
}
