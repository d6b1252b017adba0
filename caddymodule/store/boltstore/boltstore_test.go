package boltstore

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

func TestConformance(t *testing.T) {
	open := func(t *testing.T, dir string) store.Store { return mustOpen(t, filepath.Join(dir, "keytoll.db")) }
	storetest.Run(t, open, func(t *testing.T, dir string, backup []byte) {
		file := filepath.Join(t.TempDir(), "backup")
		if err := os.WriteFile(file, backup, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Restore(file, filepath.Join(dir, "keytoll.db"), nil); err != nil {
			t.Fatal(err)
		}
	})
}

func tryOpen(path string) (*Store, error) { return openWith(Options{Path: path}) }

func openWith(opt Options) (*Store, error) {
	b, err := New(opt)
	if err != nil {
		return nil, err
	}
	s, err := b.Open(context.Background())
	if err != nil {
		return nil, err
	}
	return s.(*Store), nil
}

// mustOpen opens the database at path and closes it when the test ends.
func mustOpen(t testing.TB, path string) *Store {
	t.Helper()
	s, err := tryOpen(path)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
