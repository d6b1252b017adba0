package main

import (
	"path/filepath"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func TestSeedAndCopy(t *testing.T) {
	const n = 250
	master, err := newMaster()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := mintAll(n)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := seed(t.Context(), from, master, keys); err != nil {
		t.Fatal(err)
	}
	if err := copyStore(from, to); err != nil {
		t.Fatal(err)
	}
	b, err := boltstore.New(boltstore.Options{Path: filepath.Join(to, databaseName), Master: &master})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	digests, tenants := make(map[[32]byte]bool), 0
	err = s.Follow(t.Context(), func(c store.Change) {
		if c.Tenant != nil {
			tenants++
		}
		if c.Key != nil {
			digests[c.Key.Digest] = true
		}
	})
	if err != nil || len(digests) != n || tenants != 3 {
		t.Fatalf("%d keys, %d tenants, %v, want %d and 3", len(digests), tenants, err, n)
	}
	digester := token.NewDigester(master)
	for i := range n {
		if !digests[digester.Sum(string(keys.at(i)))] {
			t.Fatalf("key %d is not in the store", i)
		}
	}
}
