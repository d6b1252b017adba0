package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

// rewrite changes the buckets as bbolt sees them.
func rewrite(t *testing.T, path string, fn func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err == nil {
		err = errors.Join(db.Update(fn), db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What bbolt finds in order and we do not.
func TestForged(t *testing.T) {
	a, b := storetest.NewKey("acme", 1).ID, storetest.NewKey("acme", 2).ID
	for what, fn := range map[string]func(*bolt.Tx) error{
		"record under another id": func(tx *bolt.Tx) error {
			k := tx.Bucket(bucketKeys)
			return k.Put(a[:], bytes.Clone(k.Get(b[:])))
		},
		"record deleted": func(tx *bolt.Tx) error { return tx.Bucket(bucketKeys).Delete(a[:]) },
		"reference lost": func(tx *bolt.Tx) error { return tx.Bucket(bucketTenantKeys).Delete(tenantKey("acme", a)) },
		"reference moved": func(tx *bolt.Tx) error {
			return errors.Join(tx.Bucket(bucketTenantKeys).Delete(tenantKey("acme", a)), tx.Bucket(bucketTenantKeys).Put(tenantKey("evil", a), nil))
		},
		"tenant deleted": func(tx *bolt.Tx) error { return tx.Bucket(bucketTenants).Delete([]byte("acme")) },
		"short record":   func(tx *bolt.Tx) error { return tx.Bucket(bucketKeys).Put(a[:], []byte("short")) },
		"blob renamed": func(tx *bolt.Tx) error {
			b := tx.Bucket(bucketBlobs)
			return errors.Join(b.Put([]byte("buckett"), bytes.Clone(b.Get([]byte("buckets")))), b.Delete([]byte("buckets")))
		},
		"bucket as record": func(tx *bolt.Tx) error { _, err := tx.Bucket(bucketKeys).CreateBucket([]byte("x")); return err },
		"bucket missing":   func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketBlobs) },
		"no schema":        func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(metaSchema) },
		"schema 0":         func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(metaSchema, make([]byte, 4)) },
		"commits forged":   func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(metaCommits, make([]byte, 24)) },
	} {
		path := sample(t)
		rewrite(t, path, fn)
		_, err := readAll(path)
		wantDamaged(t, what, path, err)
	}
}

func TestNewerSchema(t *testing.T) {
	path := sample(t)
	rewrite(t, path, func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(metaSchema, binary.BigEndian.AppendUint32(nil, schema+1))
	})
	_, err := tryOpen(path)
	if !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
}

// A file that is cut off under an open store faults when it is read.
func TestCutWhileOpen(t *testing.T) {
	path := full(t)
	s := mustOpen(t, path)
	read := func(r store.Reader) error { _, err := r.Key(storetest.NewKey("acme", 9).ID); return err }
	if err := s.View(context.Background(), read); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
		t.Skip("not here:", err)
	}
	never := func(uint64, []byte) bool { return true }
	for what, read := range map[string]func(store.Reader) error{
		"Key":       read,
		"Audit":     func(r store.Reader) error { return r.Audit(0, never) },
		"LastAudit": func(r store.Reader) error { _, _, err := r.LastAudit(); return err },
		"Usage":     func(r store.Reader) error { return r.Usage(nil, nil, func(_, _ []byte) bool { return true }) },
	} {
		wantDamaged(t, what, path, s.View(context.Background(), read))
	}
	wantDamaged(t, "Update", path, s.Update(context.Background(), func(tx store.Tx) error { return read(tx) }))
	wantDamaged(t, "Update", path, s.Update(context.Background(), func(store.Tx) error { return nil }))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A panic of the caller's own is not taken for damage, and holds nothing up.
func TestCallerPanics(t *testing.T) {
	s := mustOpen(t, sample(t))
	ctx := context.Background()
	panics := func(what string, fn func() error) {
		defer func() {
			if recover() != "mine" {
				t.Errorf("%s swallowed a panic", what)
			}
		}()
		_ = fn()
	}
	panics("View", func() error {
		return s.View(ctx, func(r store.Reader) error {
			return r.Tenants("", func(*access.Tenant) bool { panic("mine") })
		})
	})
	panics("Update", func() error {
		return s.Update(ctx, func(tx store.Tx) error { _ = tx.DeleteTenant("acme"); panic("mine") })
	})
	if err := s.Update(ctx, func(tx store.Tx) error { _, err := tx.Tenant("acme"); return err }); err != nil {
		t.Fatal(err)
	}
}
