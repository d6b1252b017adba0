package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

// The layout is a promise: these records were written by version 1.
func TestProviderRecords(t *testing.T) {
	k := &access.ProviderKey{Tenant: "t", Provider: "p", ID: "i", LastFour: "4444", CreatedAt: time.Unix(6, 7).UTC(),
		LastUsed: 8, LastVerified: -9, Valid: true, Sealed: []byte("sealed")}
	b := "\x01\x01\x00\x00" + "\x06\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00" + "\x08\x00\x00\x00\x00\x00\x00\x00" + "\xf7\xff\xff\xff\xff\xff\xff\xff" +
		"\x01\x00t\x01\x00p\x01\x00i\x04\x004444\x06\x00sealed"
	written, err := encodeProviderKey(k)
	if err != nil || string(written) != b {
		t.Errorf("written as %q, %v", written, err)
	}
	wantRecord(t, decodeProviderKey, "t\x00p", b, k)
	d := &access.DataKey{Tenant: "t", Wrapper: "w", Wrapped: []byte("wrapped"), CreatedAt: time.Unix(6, 7).UTC()}
	b = "\x01\x00\x00\x00" + "\x06\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00" + "\x01\x00t\x01\x00w\x07\x00wrapped"
	if written, err = encodeDataKey(d); err != nil || string(written) != b {
		t.Errorf("written as %q, %v", written, err)
	}
	wantRecord(t, decodeDataKey, "t", b, d)
}

// wantRecord sees that a record is read as want and that what is not quite one
// is refused.
func wantRecord[T any](t *testing.T, decode func(id, b []byte) (*T, error), id, b string, want *T) {
	t.Helper()
	if got, err := decode([]byte(id), []byte(b)); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v, %v", got, err)
	}
	bad := map[string]string{"one byte too many": b + "x"}
	for n := range b {
		bad["cut off"] = b[:n]
		if n < 4 {
			bad["an unknown version or flag"] = b[:n] + "\x82" + b[n+1:]
		}
		for what, b := range bad {
			if _, err := decode([]byte(id), []byte(b)); err == nil {
				t.Fatalf("%s at %d: was decoded", what, n)
			}
		}
	}
	for _, other := range []string{"", id + "x", "x" + id, "\x00" + id, id + "\x00", "tp"} {
		if _, err := decode([]byte(other), []byte(b)); err == nil {
			t.Fatalf("a record was decoded under the id %q", other)
		}
	}
}

// sealed makes a database with the provider keys of two tenants and returns its
// path.
func sealed(t *testing.T) string {
	t.Helper()
	path := sample(t)
	s := mustOpen(t, path)
	change(t, s, func(tx store.Tx) error {
		return errors.Join(tx.PutTenant(storetest.NewTenant("other")),
			tx.PutDataKey(storetest.NewDataKey("acme", 1)), tx.PutDataKey(storetest.NewDataKey("other", 2)),
			tx.PutProviderKey(storetest.NewProviderKey("acme", "a", 1)), tx.PutProviderKey(storetest.NewProviderKey("acme", "b", 2)),
			tx.PutProviderKey(storetest.NewProviderKey("other", "a", 3)))
	})
	s.Close()
	return path
}

// readSealed reads the provider keys and data keys of a database of sealed.
func readSealed(path string) error {
	s, err := tryOpen(path)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.View(context.Background(), func(r store.Reader) error {
		var errs []error
		for tenant, providers := range map[string][]string{"acme": {"a", "b"}, "other": {"a"}} {
			_, err := r.DataKey(tenant)
			errs = append(errs, err)
			for _, p := range providers {
				_, err := r.ProviderKey(tenant, p)
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// A record is good in its own place alone, whole and as it was written.
func TestProvidersForged(t *testing.T) {
	swap := func(bucket []byte, a, b string) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			k := tx.Bucket(bucket)
			was := bytes.Clone(k.Get([]byte(a)))
			return errors.Join(k.Put([]byte(a), bytes.Clone(k.Get([]byte(b)))), k.Put([]byte(b), was))
		}
	}
	flip := func(bucket []byte, id string, at int) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			v := bytes.Clone(tx.Bucket(bucket).Get([]byte(id)))
			v[(at+len(v))%len(v)] ^= 1
			return tx.Bucket(bucket).Put([]byte(id), v)
		}
	}
	for what, fn := range map[string]func(*bolt.Tx) error{
		"keys of two tenants swapped":   swap(bucketProviderKeys, "acme\x00a", "other\x00a"),
		"keys of two providers swapped": swap(bucketProviderKeys, "acme\x00a", "acme\x00b"),
		"data keys swapped":             swap(bucketDataKeys, "acme", "other"),
		"sealed key changed":            flip(bucketProviderKeys, "acme\x00b", -tagLen-1),
		"valid flag changed":            flip(bucketProviderKeys, "acme\x00b", 1),
		"wrapped key changed":           flip(bucketDataKeys, "other", -tagLen-1),
		"tag of a data key changed":     flip(bucketDataKeys, "other", -1),
		"short record":                  func(tx *bolt.Tx) error { return tx.Bucket(bucketDataKeys).Put([]byte("acme"), []byte("short")) },
		"bucket missing":                func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketDataKeys) },
	} {
		path := sealed(t)
		if err := readSealed(path); err != nil {
			t.Fatal(err)
		}
		rewrite(t, path, fn)
		wantDamaged(t, what+", read", path, readSealed(path))
		_, err := readAll(path)
		wantDamaged(t, what+", followed", path, err)
		if r, err := Check(path, nil); err != nil || len(r.Problems) == 0 {
			t.Errorf("%s, checked: %v, %v", what, r.Problems, err)
		}
	}
}

// Records that are whole and fit nothing.
func TestStrayProviders(t *testing.T) {
	for what, c := range map[string]struct {
		fn     func(*bolt.Tx, *tagger) error
		follow bool // refuses it too
	}{
		"provider key pk_0000000000000009 of tenant nobody for a: the tenant is not there": {func(tx *bolt.Tx, g *tagger) error {
			b, err := encodeProviderKey(storetest.NewProviderKey("nobody", "a", 9))
			id := providerKeyID("nobody", "a")
			return errors.Join(err, tx.Bucket(bucketProviderKeys).Put(id, g.seal(bucketProviderKeys, id, b)))
		}, true},
		`data key of tenant "nobody"`: {func(tx *bolt.Tx, g *tagger) error {
			b, err := encodeDataKey(storetest.NewDataKey("nobody", 9))
			return errors.Join(err, tx.Bucket(bucketDataKeys).Put([]byte("nobody"), g.seal(bucketDataKeys, []byte("nobody"), b)))
		}, true},
		"of tenant other for a: the tenant has no data key": {func(tx *bolt.Tx, _ *tagger) error {
			return tx.Bucket(bucketDataKeys).Delete([]byte("other"))
		}, false},
	} {
		path := sealed(t)
		keys, err := offlineMasters(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		rewrite(t, path, func(tx *bolt.Tx) error { return c.fn(tx, newTagger(keys[0].Derive(tagPurpose))) })
		r, err := Check(path, nil)
		if err != nil || len(r.Problems) == 0 || !strings.Contains(strings.Join(r.Problems, "\n"), what) {
			t.Errorf("%s: %q, %v", what, r.Problems, err)
		}
		if _, err := readAll(path); c.follow {
			wantDamaged(t, what, path, err)
		} else if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A database of the second schema is read as it is and grows with a change.
func TestSchema2(t *testing.T) {
	path := full(t)
	rewrite(t, path, func(tx *bolt.Tx) error {
		return errors.Join(tx.DeleteBucket(bucketProviderKeys), tx.DeleteBucket(bucketDataKeys),
			tx.Bucket(bucketMeta).Put(metaSchema, []byte{0, 0, 0, 2}))
	})
	before, err := Check(path, nil)
	if err != nil || len(before.Problems) > 0 || before.Schema != 2 || before.Audit == 0 || before.Usage == 0 {
		t.Fatal(before, err)
	}
	s := mustOpen(t, path)
	never := func(*access.ProviderKey) bool { t.Error("there is a provider key"); return false }
	if err := s.View(context.Background(), func(r store.Reader) error {
		_, none := r.ProviderKey("acme", "a")
		_, none2 := r.DataKey("acme")
		if !errors.Is(none, store.ErrNotFound) || !errors.Is(none2, store.ErrNotFound) {
			t.Error(none, none2)
		}
		return errors.Join(r.ProviderKeys("", never), r.ProviderKeys("acme", never),
			r.DataKeys("", func(*access.DataKey) bool { t.Error("there is a data key"); return false }))
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Follow(context.Background(), func(store.Change) {}); err != nil {
		t.Fatal(err)
	}
	if v := schemaIn(t, s); v != 2 {
		t.Fatalf("reading made it one of version %d", v)
	}
	change(t, s, func(tx store.Tx) error {
		return errors.Join(tx.ProviderKeys("", never), tx.PutDataKey(storetest.NewDataKey("acme", 1)), tx.PutProviderKey(storetest.NewProviderKey("acme", "a", 1)))
	})
	s.Close()
	after, err := Check(path, nil)
	if err != nil || len(after.Problems) > 0 || after.Schema != schema || after.ProviderKeys != 1 || after.DataKeys != 1 ||
		after.Audit != before.Audit || after.Usage != before.Usage || after.Keys != before.Keys {
		t.Fatal(after, err)
	}
	rewrite(t, path, func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketUsage) })
	_, err = tryOpen(path)
	wantDamaged(t, "a bucket of version 2 missing", path, err)
}

func schemaIn(t *testing.T, s *Store) (v uint32) {
	t.Helper()
	if err := s.db.View(func(tx *bolt.Tx) error {
		v = binary.BigEndian.Uint32(tx.Bucket(bucketMeta).Get(metaSchema))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return v
}

// Provider keys go with the database through a check, a compaction, a backup
// and its restore.
func TestProvidersOffline(t *testing.T) {
	path := sealed(t)
	want := func(what string) {
		t.Helper()
		r, err := Check(path, nil)
		if err != nil || len(r.Problems) > 0 || r.ProviderKeys != 3 || r.DataKeys != 2 {
			t.Fatalf("%s: %+v, %v", what, r, err)
		}
		if err := readSealed(path); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	want("as made")
	if _, _, err := Compact(path); err != nil {
		t.Fatal(err)
	}
	want("compacted")
	backup := filepath.Join(t.TempDir(), "backup")
	backupTo(t, path, backup)
	s := mustOpen(t, path)
	change(t, s, func(tx store.Tx) error {
		return errors.Join(tx.DeleteTenant("acme"), tx.DeleteProviderKey("other", "a"))
	})
	s.Close()
	if r, err := Check(path, nil); err != nil || len(r.Problems) > 0 || r.ProviderKeys != 0 || r.DataKeys != 1 {
		t.Fatal(r, err)
	}
	if err := Restore(backup, path, nil); err != nil {
		t.Fatal(err)
	}
	want("restored")
	if b, err := os.ReadFile(path); err != nil || !bytes.Contains(b, []byte("sealed \x00 1")) {
		t.Fatal("what is sealed is not what was given:", err)
	}
}
