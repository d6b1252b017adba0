package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

const sampleKeys = 400

// sample makes a database with sampleKeys keys of one tenant, the first half
// of them made in a transaction of their own, and returns its path.
func sample(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keytoll.db")
	s := mustOpen(t, path)
	for half := range 2 {
		err := s.Update(context.Background(), func(tx store.Tx) error {
			if err := tx.PutTenant(storetest.NewTenant("acme")); err != nil {
				return err
			}
			for i := range sampleKeys / 2 {
				if err := tx.CreateKey(storetest.NewKey("acme", half*sampleKeys/2+i)); err != nil {
					return err
				}
			}
			return tx.PutBlob("buckets", bytes.Repeat([]byte("x"), 20_000))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// readAll opens the database and reads all that is in it.
func readAll(path string) (keys int, err error) {
	s, err := tryOpen(path)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if err := s.Follow(context.Background(), func(c store.Change) {
		if c.Key != nil {
			keys++
		}
	}); err != nil {
		return 0, err
	}
	return keys, s.View(context.Background(), func(r store.Reader) error {
		_, err := r.Blob("buckets")
		return err
	})
}

// damage writes a changed copy of the database over it and reads that.
func damage(t *testing.T, path string, good []byte, change func(b []byte) []byte) (int, error) {
	t.Helper()
	if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
		t.Fatal(err)
	}
	return readAll(path)
}

func wantDamaged(t *testing.T, what, path string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrDamaged) {
		t.Fatalf("%s: got error %v, want ErrDamaged", what, err)
	}
	if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") && !strings.Contains(err.Error(), "delete") {
		t.Fatalf("%s: %q does not name the file and say what to do", what, err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// used returns the length of the part of a database that holds pages.
func used(t *testing.T, path string) int {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	n := 0
	_ = db.View(func(tx *bolt.Tx) error { n = int(tx.Size()); return nil })
	return n
}

func TestTruncated(t *testing.T) {
	path := sample(t)
	good, end := readFile(t, path), used(t, path)
	page := os.Getpagesize()
	for size := 0; size < end; size += page/2 + 1 {
		_, err := damage(t, path, good, func(b []byte) []byte { return b[:size] })
		wantDamaged(t, fmt.Sprintf("cut off at %d of %d", size, end), path, err)
	}
	if n, err := damage(t, path, good, func(b []byte) []byte { return b }); n != sampleKeys || err != nil {
		t.Fatal("the whole file:", n, err)
	}
}

// A page of zeros is noticed unless it is one that holds nothing.
func TestZeroedPages(t *testing.T) {
	path := sample(t)
	good, end := readFile(t, path), used(t, path)
	page, noticed := os.Getpagesize(), 0
	for at := 0; at < end; at += page {
		n, err := damage(t, path, good, func(b []byte) []byte { clear(b[at : at+page]); return b })
		if err == nil {
			if n != sampleKeys {
				t.Fatalf("page %d: %d keys and no error", at/page, n)
			}
			continue
		}
		noticed++
		wantDamaged(t, fmt.Sprint("page ", at/page), path, err)
	}
	if noticed < end/page/2 {
		t.Fatalf("%d pages of %d were noticed", noticed, end/page)
	}
}

// Whatever byte is flipped: an error, or all keys as they were.
func TestFlippedBytes(t *testing.T) {
	path := sample(t)
	good, end := readFile(t, path), used(t, path)
	rnd := rand.New(rand.NewPCG(7, 7))
	rounds := 500
	if testing.Short() {
		rounds = 100
	}
	noticed := 0
	for range rounds {
		at, bit := rnd.IntN(end), byte(1)<<rnd.IntN(8)
		n, err := damage(t, path, good, func(b []byte) []byte { b[at] ^= bit; return b })
		switch {
		case err == nil && n != sampleKeys:
			t.Fatalf("byte %d: %d keys and no error", at, n)
		case err != nil && !errors.Is(err, store.ErrDamaged) && !errors.Is(err, store.ErrMasterKey) && !errors.Is(err, store.ErrNewer):
			t.Fatalf("byte %d: %v", at, err)
		case err != nil:
			noticed++
		}
	}
	t.Logf("%d of %d flips were noticed; the rest hit unused space", noticed, rounds)
	if noticed < rounds/4 {
		t.Fatal("too few")
	}
}

// Every bit of a record counts.
func TestFlippedRecord(t *testing.T) {
	path := sample(t)
	good := readFile(t, path)
	digest := storetest.NewKey("acme", 123).Digest
	hits := 0
	for from := 0; ; hits++ {
		i := bytes.Index(good[from:], digest[:])
		if i < 0 {
			break
		}
		from += i + 1
	}
	if hits == 0 {
		t.Fatal("the digest is not in the file")
	}
	_, err := damage(t, path, good, func(b []byte) []byte {
		other := digest
		other[5] ^= 1
		return bytes.ReplaceAll(b, digest[:], other[:])
	})
	wantDamaged(t, "digest", path, err)
	_, err = damage(t, path, good, func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte("xxxxxxxxxxxxx"), []byte("xxxxxxyxxxxxx"))
	})
	wantDamaged(t, "blob", path, err)
}

// bbolt takes the last commit back when its meta page is torn.
func TestTornMeta(t *testing.T) {
	path := sample(t)
	good, page := readFile(t, path), os.Getpagesize()
	newest := 0
	if ne.Uint64(good[page+metaTxid:]) > ne.Uint64(good[metaTxid:]) {
		newest = page
	}
	tear := func(b []byte) []byte { clear(b[newest+metaTxid+4 : newest+metaLen]); return b }
	_, err := damage(t, path, good, tear)
	wantDamaged(t, "newest meta", path, err)
	if !strings.Contains(err.Error(), "commit counter") || !strings.Contains(err.Error(), "delete "+path+counterSuffix) {
		t.Fatal(err)
	}
	// Who deletes the counter accepts it.
	if err := os.Remove(path + counterSuffix); err != nil {
		t.Fatal(err)
	}
	if n, err := readAll(path); n != sampleKeys/2 || err != nil {
		t.Fatal(n, err)
	}
	// The older meta page is of no use and does no harm.
	if n, err := damage(t, path, good, func(b []byte) []byte { clear(b[page-newest+100 : page-newest+200]); return b }); n != sampleKeys || err != nil {
		t.Fatal(n, err)
	}
	_, err = damage(t, path, good, func(b []byte) []byte { clear(b[:2*page]); return b })
	wantDamaged(t, "both metas", path, err)
}

func TestOldCopy(t *testing.T) {
	path := sample(t)
	old := readFile(t, path)
	s := mustOpen(t, path)
	if err := s.Update(context.Background(), func(tx store.Tx) error { return tx.PutTenant(storetest.NewTenant("new")) }); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := tryOpen(path)
	wantDamaged(t, "an old copy", path, err)
}

func TestCounterIsNeverFatal(t *testing.T) {
	path := sample(t)
	for _, content := range []string{"", "garbage", strings.Repeat("\xff", 16), strings.Repeat("x", 1000)} {
		if err := os.WriteFile(path+counterSuffix, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(path); err != nil {
			t.Fatalf("counter %q: %v", content, err)
		}
	}
	os.Remove(path + counterSuffix)
	if err := os.MkdirAll(path+counterSuffix+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(path); err != nil {
		t.Fatal("counter is a directory:", err)
	}
	os.RemoveAll(path + counterSuffix)
	if _, err := readAll(path); err != nil {
		t.Fatal(err)
	}
	if c, n := openCounter(path + counterSuffix); n == 0 || c.f == nil {
		t.Fatal("the counter was not made anew")
	}
}

func TestGoneDatabase(t *testing.T) {
	path := sample(t)
	os.Remove(path)
	_, err := tryOpen(path)
	wantDamaged(t, "no database", path, err)
	if _, err := os.Stat(path); err == nil {
		t.Fatal("an empty database took its place")
	}
	os.Remove(path + counterSuffix)
	mustOpen(t, path)
}
