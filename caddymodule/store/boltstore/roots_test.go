package boltstore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// rotated makes the database of full under a configured key, which is replaced
// by another. Both are returned, the present one first.
func rotated(t *testing.T) (path string, now, root *token.Master) {
	t.Helper()
	path = full(t)
	m, err := readMaster(filepath.Join(filepath.Dir(path), masterFile))
	if err != nil {
		t.Fatal(err)
	}
	root, now = &m, master(t)
	s := mustOpenWith(t, Options{Path: path})
	setMasters(t, s, *now)
	s.Close()
	if err := os.Remove(filepath.Join(filepath.Dir(path), masterFile)); err != nil {
		t.Fatal(err)
	}
	return path, now, root
}

func setMasters(t *testing.T, s *Store, masters ...token.Master) {
	t.Helper()
	if err := s.SetMasters(t.Context(), masters...); err != nil {
		t.Fatal(err)
	}
}

func mustOpenWith(t *testing.T, opt Options) *Store {
	t.Helper()
	s, err := openWith(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// wantOpen sees that these keys alone open the database, and that the root and
// the records stay what they were.
func wantOpen(t *testing.T, path string, root token.Master, good, bad []*token.Master) {
	t.Helper()
	for i, m := range good {
		s, err := openWith(Options{Path: path, Master: m})
		if err != nil {
			t.Fatalf("key %d: %v", i, err)
		}
		if !s.Master().Equal(root) {
			t.Fatalf("key %d: the root is another", i)
		}
		for j, list := range [][]*token.Master{good, bad} {
			for n, m := range list {
				if s.Opens(*m) != (j == 0) {
					t.Fatalf("list %d, key %d: Opens is %v", j, n, s.Opens(*m))
				}
			}
		}
		if err := s.Follow(context.Background(), func(store.Change) {}); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if r, err := Check(path, m); err != nil || len(r.Problems) > 0 || r.Keys != sampleKeys {
			t.Fatal(r.Problems, err)
		}
	}
	for i, m := range bad {
		for what, err := range map[string]error{"open": errOf(openWith(Options{Path: path, Master: m})), "check": errOf(Check(path, m))} {
			if !errors.Is(err, store.ErrMasterKey) || strings.Contains(err.Error(), m.Text()) {
				t.Fatalf("%s with bad key %d: %v", what, i, err)
			}
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestSetMasters(t *testing.T) {
	path := full(t)
	file := filepath.Join(filepath.Dir(path), masterFile)
	m, err := readMaster(file)
	if err != nil {
		t.Fatal(err)
	}
	root, next, last := &m, master(t), master(t)
	keys := func(m ...*token.Master) []*token.Master { return m }
	set := func(opened *token.Master, masters ...token.Master) {
		t.Helper()
		s := mustOpenWith(t, Options{Path: path, Master: opened})
		setMasters(t, s, masters...)
		s.Close()
	}
	wantOpen(t, path, *root, keys(root), keys(next, last))
	set(root, *next, *root) // while both are configured
	wantOpen(t, path, *root, keys(next, root), keys(last))
	set(next, *next)
	wantOpen(t, path, *root, keys(next), keys(root, last))
	set(next, *last, *next) // and once more
	wantOpen(t, path, *root, keys(next, last), keys(root))
	set(last, *last)
	wantOpen(t, path, *root, keys(last), keys(next, root))
	if _, err := tryOpen(path); !errors.Is(err, store.ErrMasterKey) || !strings.Contains(err.Error(), "was replaced and no longer opens it: set master_key to the new one") {
		t.Fatal("with the file of the first key:", err)
	}
	set(last, *root) // all the way back
	wantOpen(t, path, *root, keys(root), keys(next, last))
	mustOpen(t, path).Close() // the file is good again

	b := readFile(t, path)
	for _, m := range keys(root, next, last) {
		raw := m.Derive("root wrap")
		if bytes.Contains(b, []byte(m.Text())) || bytes.Contains(b, raw[:]) {
			t.Fatal("a key is in the database")
		}
	}
}

// What opens a store is known without opening it again, at once, whoever asks.
func TestSetMastersWhileOpen(t *testing.T) {
	path := sample(t)
	s := mustOpen(t, path)
	root, next := s.Master(), *master(t)
	if !s.Opens(root) || s.Opens(next) {
		t.Fatal("before")
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 5 {
				setMasters(t, s, next, root)
				if !s.Opens(root) || !s.Opens(next) {
					t.Error("not both")
				}
			}
		})
	}
	group.Wait()
	change(t, s, func(tx store.Tx) error { return tx.PutBlob("x", []byte("y")) })
	setMasters(t, s, next)
	if s.Opens(root) || !s.Opens(next) || !s.Master().Equal(root) {
		t.Fatal("after")
	}
	for _, n := range []int{0, maxMasters + 1} {
		if err := s.SetMasters(t.Context(), make([]token.Master, n)...); err == nil {
			t.Fatalf("%d master keys were taken", n)
		}
	}
	s.Close()
	if err := s.SetMasters(t.Context(), root); !errors.Is(err, store.ErrClosed) || !s.Opens(next) {
		t.Fatal(err)
	}
}

func TestPrevious(t *testing.T) {
	path, now, root := rotated(t)
	next, other := master(t), master(t)
	mustOpenWith(t, Options{Path: path, Master: next, Previous: now}).Close()
	mustOpenWith(t, Options{Path: path, Master: now, Previous: other}).Close()
	for what, opt := range map[string]Options{
		"neither":             {Master: next, Previous: other},
		"the root as the old": {Master: next, Previous: root},
	} {
		opt.Path = path
		if _, err := openWith(opt); !errors.Is(err, store.ErrMasterKey) || !strings.Contains(err.Error(), "was replaced") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The file beside the database is as good as a configured one, in either place.
	file := filepath.Join(filepath.Dir(path), masterFile)
	if err := os.WriteFile(file, []byte(next.Text()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpenWith(t, Options{Path: path, Previous: now})
	setMasters(t, s, *next)
	s.Close()
	mustOpen(t, path).Close()
	if _, err := openWith(Options{Path: path, Master: now}); !errors.Is(err, store.ErrMasterKey) {
		t.Error("the old key, configured, where the file has the new one:", err)
	}
	if b, err := New(Options{Path: path}); err != nil {
		t.Error(err)
	} else if m, err := b.Master(); err != nil || !m.Equal(*next) {
		t.Error("the backend's key is not the file's:", err)
	}
	if r, err := Check(path, master(t), nil); err != nil || len(r.Problems) > 0 {
		t.Error("checked with the file's as the second:", r.Problems, err)
	}
}

// A new database is under the present key alone.
func TestPreviousOfNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	now, old := master(t), master(t)
	s := mustOpenWith(t, Options{Path: path, Master: now, Previous: old})
	if !s.Master().Equal(*now) || s.Opens(*old) {
		t.Fatal("made with the old key")
	}
}

func TestOfflineRotated(t *testing.T) {
	path, now, root := rotated(t)
	backup := filepath.Join(t.TempDir(), "backup")
	var b bytes.Buffer
	s := mustOpenWith(t, Options{Path: path, Master: now})
	if _, err := s.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	next := master(t)
	setMasters(t, s, *next)
	s.Close()
	if err := os.WriteFile(backup, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Compact(path); err != nil {
		t.Fatal(err)
	}
	wantOpen(t, path, *root, []*token.Master{next}, []*token.Master{now, root})
	// The copy opens with the keys of its time: restored by the new key alone it
	// would be of no use.
	current := readFile(t, path)
	for what, masters := range map[string][]*token.Master{"new": {next}, "root": {root}, "file": nil} {
		if err := Restore(backup, path, masters...); !errors.Is(err, store.ErrMasterKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !bytes.Equal(current, readFile(t, path)) {
		t.Fatal("a restore that failed changed the database")
	}
	if err := Restore(backup, path, next, now); err != nil {
		t.Fatal(err)
	}
	wantOpen(t, path, *root, []*token.Master{now}, []*token.Master{next, root})
}

func TestDamagedRoots(t *testing.T) {
	path, now, _ := rotated(t)
	var value []byte
	rewrite(t, path, func(tx *bolt.Tx) error {
		value = bytes.Clone(tx.Bucket(bucketMeta).Get(metaRoots))
		return nil
	})
	if len(value) != rootLen+tagLen {
		t.Fatal(len(value))
	}
	try := func(v []byte) error {
		t.Helper()
		rewrite(t, path, func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(metaRoots, v) })
		s, err := openWith(Options{Path: path, Master: now})
		if err == nil {
			err = s.Close()
		}
		return err
	}
	for i := range value {
		v := bytes.Clone(value)
		v[i] ^= 1
		want := store.ErrDamaged
		if i < rootName {
			want = store.ErrMasterKey // it is listed no more
		}
		if err := try(v); !errors.Is(err, want) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	for _, v := range [][]byte{value[:1], value[:rootLen], value[:len(value)-1], append(bytes.Clone(value), 0)} {
		if err := try(v); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%d bytes: %v", len(v), err)
		}
	}
	// The root of another database, sealed under this key.
	foreign := sealRoots(*master(t), []token.Master{*now})
	if err := try(append(foreign, value[rootLen:]...)); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), "another database") {
		t.Error(err)
	}
	if err := try(value); err != nil {
		t.Fatal(err)
	}
}
