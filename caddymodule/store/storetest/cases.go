package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

func testDurability(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	tenant, key := NewTenant("acme"), NewKey("acme", 1)
	bare := &access.Key{KeyHead: access.KeyHead{ID: access.KeyID([]byte("zzzzzzzzzzzzzzzz")), Status: access.StatusDisabled, Tenant: "acme"}}
	bare.CreatedAt = time.Unix(1, 0).UTC()
	secrets := withSecrets(NewKey("acme", 2))
	put(t, s, tenant, key, bare, secrets)
	key.Status, key.RevokedAt = access.StatusRevoked, time.Unix(1_800_000_000, 1).UTC()
	update(t, s, func(tx store.Tx) error { return tx.UpdateKey(key) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	same(t, "tenant", mustTenant(t, s, "acme"), tenant)
	same(t, "key", mustKey(t, s, key.ID), key)
	same(t, "bare key", mustKey(t, s, bare.ID), bare)
	same(t, "key with other secrets", mustKey(t, s, secrets.ID), secrets)
	if !mustKey(t, s, bare.ID).RevokedAt.IsZero() {
		t.Fatal("the zero time was not kept")
	}
}

func testAtomicity(t *testing.T, open Opener) {
	s := start(t, open)
	put(t, s, NewTenant("acme"), NewKey("acme", 1))
	err := s.Update(context.Background(), func(tx store.Tx) error {
		_ = tx.PutTenant(NewTenant("other"))
		_ = tx.CreateKey(NewKey("other", 2))
		_ = tx.DeleteTenant("acme")
		_ = tx.PutBlob("b", []byte("x"))
		return errStop
	})
	wantErr(t, "update", err, errStop)
	same(t, "tenants", listTenants(t, s, ""), []string{"acme"})
	same(t, "keys", listKeys(t, s, "", access.KeyID{}), []access.KeyID{NewKey("", 1).ID})
	same(t, "keys of the tenant", listKeys(t, s, "acme", access.KeyID{}), []access.KeyID{NewKey("", 1).ID})
	err = s.View(context.Background(), func(r store.Reader) error { _, err := r.Blob("b"); return err })
	wantErr(t, "blob", err, store.ErrNotFound)
}

// A View goes on seeing what was there when it began, and a transaction sees
// its own writes.
func testIsolation(t *testing.T, open Opener) {
	s := start(t, open)
	put(t, s, NewTenant("acme"))
	began, written := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.View(context.Background(), func(r store.Reader) error {
			close(began)
			<-written
			if _, err := r.Tenant("acme"); err != nil {
				return err
			}
			_, err := r.Tenant("late")
			return err
		})
	}()
	<-began
	update(t, s, func(tx store.Tx) error {
		if err := tx.PutTenant(NewTenant("late")); err != nil {
			return err
		}
		if err := tx.DeleteTenant("acme"); err != nil {
			return err
		}
		_, err := tx.Tenant("late")
		return err
	})
	close(written)
	wantErr(t, "tenant made after the view began", <-done, store.ErrNotFound)
	same(t, "tenants", listTenants(t, s, ""), []string{"late"})
}

func testErrors(t *testing.T, open Opener) {
	s := start(t, open)
	put(t, s, NewTenant("acme"), NewTenant("other"), NewKey("acme", 1))
	ctx := context.Background()
	absent := NewKey("acme", 2)
	for what, c := range map[string]struct {
		fn   func(store.Tx) error
		want error
	}{
		"Tenant":                 {func(tx store.Tx) error { _, err := tx.Tenant("nobody"); return err }, store.ErrNotFound},
		"Tenant, empty":          {func(tx store.Tx) error { _, err := tx.Tenant(""); return err }, store.ErrNotFound},
		"Key":                    {func(tx store.Tx) error { _, err := tx.Key(absent.ID); return err }, store.ErrNotFound},
		"Blob":                   {func(tx store.Tx) error { _, err := tx.Blob("none"); return err }, store.ErrNotFound},
		"UpdateKey":              {func(tx store.Tx) error { return tx.UpdateKey(absent) }, store.ErrNotFound},
		"DeleteTenant":           {func(tx store.Tx) error { return tx.DeleteTenant("nobody") }, store.ErrNotFound},
		"CreateKey, no tenant":   {func(tx store.Tx) error { return tx.CreateKey(NewKey("nobody", 3)) }, store.ErrNotFound},
		"CreateKey, id is taken": {func(tx store.Tx) error { return tx.CreateKey(NewKey("other", 1)) }, store.ErrExists},
	} {
		wantErr(t, what, s.Update(ctx, c.fn), c.want)
	}
	moved := NewKey("other", 1)
	if s.Update(ctx, func(tx store.Tx) error { return tx.UpdateKey(moved) }) == nil {
		t.Fatal("UpdateKey moved a key to another tenant")
	}
	if s.Update(ctx, func(tx store.Tx) error { return tx.PutTenant(&access.Tenant{Status: access.StatusActive}) }) == nil {
		t.Fatal("PutTenant stored a tenant without an id")
	}
	same(t, "key", mustKey(t, s, moved.ID), NewKey("acme", 1))
}

func testListing(t *testing.T, open Opener) {
	s := start(t, open)
	// "a" and "a.b" would mix if ids were joined without a separator.
	put(t, s, NewTenant("b"), NewTenant("a.b"), NewTenant("a"), NewTenant("ab"))
	put(t, s, NewKey("a", 5), NewKey("a.b", 4), NewKey("a", 3), NewKey("ab", 2), NewKey("a", 1))
	id := func(n int) access.KeyID { return NewKey("", n).ID }
	none := access.KeyID{}
	same(t, "tenants", listTenants(t, s, ""), []string{"a", "a.b", "ab", "b"})
	same(t, "tenants after a.b", listTenants(t, s, "a.b"), []string{"ab", "b"})
	same(t, "tenants after what is not there", listTenants(t, s, "aa"), []string{"ab", "b"})
	same(t, "tenants after the last", listTenants(t, s, "b"), []string(nil))
	same(t, "keys", listKeys(t, s, "", none), []access.KeyID{id(1), id(2), id(3), id(4), id(5)})
	same(t, "keys after 3", listKeys(t, s, "", id(3)), []access.KeyID{id(4), id(5)})
	same(t, "keys of a", listKeys(t, s, "a", none), []access.KeyID{id(1), id(3), id(5)})
	same(t, "keys of a after 2", listKeys(t, s, "a", id(2)), []access.KeyID{id(3), id(5)})
	same(t, "keys of a after 5", listKeys(t, s, "a", id(5)), []access.KeyID(nil))
	same(t, "keys of b", listKeys(t, s, "b", none), []access.KeyID(nil))
	same(t, "keys of nobody", listKeys(t, s, "nobody", none), []access.KeyID(nil))
	n := 0
	view(t, s, func(r store.Reader) error {
		return r.Keys("", none, func(*access.Key) bool { n++; return n < 2 })
	})
	same(t, "keys before yield said no", n, 2)
}

// Within one transaction all keys of a tenant can be changed as they are listed.
func testWriteWhileListing(t *testing.T, open Opener) {
	s := start(t, open)
	records := []any{NewTenant("acme")}
	for i := range 500 {
		records = append(records, NewKey("acme", i))
	}
	put(t, s, records...)
	n := 0
	update(t, s, func(tx store.Tx) (err error) {
		n = 0
		e := tx.Keys("acme", access.KeyID{}, func(k *access.Key) bool {
			n++
			k.Status = access.StatusRevoked
			k.Name += " which grew by some text that makes the pages split"
			err = tx.UpdateKey(k)
			return err == nil
		})
		if err == nil {
			err = e
		}
		return err
	})
	same(t, "keys visited", n, 500)
	view(t, s, func(r store.Reader) error {
		return r.Keys("", access.KeyID{}, func(k *access.Key) bool {
			same(t, "status of "+k.ID.String(), k.Status, access.StatusRevoked)
			return true
		})
	})
}

func testBlobs(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	big := make([]byte, 300_000)
	for i := range big {
		big[i] = byte(i * 7)
	}
	update(t, s, func(tx store.Tx) error {
		_ = tx.PutBlob("gone", []byte("x"))
		_ = tx.PutBlob("big", []byte("small"))
		_ = tx.PutBlob("empty", []byte{})
		if err := tx.PutBlob("big", big); err != nil {
			return err
		}
		_ = tx.PutBlob("never", nil)
		return tx.PutBlob("gone", nil)
	})
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	view(t, s, func(r store.Reader) error {
		b, err := r.Blob("big")
		same(t, "blob", b, big)
		_, gone := r.Blob("gone")
		wantErr(t, "deleted blob", gone, store.ErrNotFound)
		e, err2 := r.Blob("empty")
		if err2 != nil || len(e) != 0 {
			t.Fatalf("empty blob: %q, %v", e, err2)
		}
		return err
	})
}
