package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

func change(t *testing.T, s *Store, fn func(store.Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func keyOf(t *testing.T, s *Store, n int) (k *access.Key) {
	t.Helper()
	if err := s.View(context.Background(), func(r store.Reader) (err error) {
		k, err = r.Key(storetest.NewKey("", n).ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return k
}

func putBack(t *testing.T, path string, old []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, old, 0o600), os.RemoveAll(path+counterSuffix)); err != nil {
		t.Fatal(err)
	}
}

// killKeys revokes key 1 with its secret, revokes key 2 without a word of it,
// rotates key 3, rotates away the previous secret of key 4, and both secrets of
// key 6.
func killKeys(tx store.Tx) error {
	var failed error
	for _, n := range []int{1, 2, 3, 4, 6} {
		k, err := tx.Key(storetest.NewKey("", n).ID)
		failed = errors.Join(failed, err)
		switch n {
		case 1:
			k.Status = access.StatusRevoked
			failed = errors.Join(failed, tx.Bury(k.Digest))
		case 2:
			k.Status = access.StatusRevoked
		case 3:
			failed = errors.Join(failed, tx.Bury(k.Digest))
			k.Digest[31] = 1
		case 4:
			failed = errors.Join(failed, tx.Bury(k.Previous.Digest))
			k.Previous = nil
		case 6:
			failed = errors.Join(failed, tx.Bury(k.Digest, k.Previous.Digest))
			k.Previous, k.Digest[31] = nil, 1
		}
		failed = errors.Join(failed, tx.UpdateKey(k))
	}
	return failed
}

// killable makes a store that killKeys fits, and returns a copy of it.
func killable(t *testing.T) (path string, old []byte) {
	path = sample(t)
	s := mustOpen(t, path)
	change(t, s, func(tx store.Tx) error {
		var errs []error
		for _, n := range []int{4, 6} {
			k := storetest.NewKey("acme", n)
			k.Previous = &access.Previous{Alg: 1, Digest: [32]byte{4, byte(n)}, Until: 1 << 40}
			errs = append(errs, tx.UpdateKey(k))
		}
		return errors.Join(append(errs, tx.Bury([32]byte{1}))...) // the copy has an entry of its own
	})
	s.Close()
	return path, readFile(t, path)
}

func wantKilled(t *testing.T, s *Store) {
	t.Helper()
	for n := 1; n <= 6; n++ {
		k := keyOf(t, s, n)
		want := access.StatusRevoked
		if n == 4 || n == 5 { // 4 lost its previous secret alone
			want = access.StatusActive
		}
		if k.Status != want || k.Previous != nil || (k.Status == access.StatusRevoked) == k.RevokedAt.IsZero() {
			t.Fatalf("key %d is %s, revoked at %s, previous %v", n, k.Status, k.RevokedAt, k.Previous)
		}
	}
}

// An older copy of the database arms nothing that was revoked or rotated away
// since, and what is done to it later is not forgotten either.
func TestOldCopyArmsNothing(t *testing.T) {
	path, old := killable(t)
	s := mustOpen(t, path)
	change(t, s, killKeys)
	s.Close()
	wantMode(t, path+revokedSuffix, 0o600)
	newer := readFile(t, path)

	putBack(t, path, old)
	s = mustOpen(t, path)
	if s.Replayed() != 4 {
		t.Fatalf("%d keys were revoked at the opening, want 4", s.Replayed())
	}
	seen := 0
	if err := s.Follow(context.Background(), func(c store.Change) {
		if c.Key != nil && c.Key.Status == access.StatusRevoked {
			seen++
		}
	}); err != nil || seen != 4 {
		t.Fatalf("the follower was shown %d revoked keys: %v", seen, err)
	}
	wantKilled(t, s)
	change(t, s, func(tx store.Tx) error { return tx.Bury(storetest.NewKey("", 7).Digest) })
	s.Close()

	s = mustOpen(t, path)
	if s.Replayed() != 0 {
		t.Fatal("the second opening revoked keys again")
	}
	s.Close()
	// Commits of the first life have higher numbers than the last revocation.
	putBack(t, path, newer)
	s = mustOpen(t, path)
	if k := keyOf(t, s, 7); k.Status != access.StatusRevoked {
		t.Fatal("a key that was revoked after a restore is", k.Status)
	}
	s.Close()
	putBack(t, path, old)
	wantKilled(t, mustOpen(t, path))
}

// A deleted tenant's keys do not come back to life.
func TestOldCopyOfDeletedTenant(t *testing.T) {
	path, old := killable(t)
	s := mustOpen(t, path)
	change(t, s, func(tx store.Tx) error { return tx.DeleteTenant("acme") })
	s.Close()
	putBack(t, path, old)
	if s = mustOpen(t, path); s.Replayed() != sampleKeys {
		t.Fatal(s.Replayed())
	}
}

// Whatever of the file's end is lost, or was never written, the database has.
func TestRevokedTail(t *testing.T) {
	path, old := killable(t)
	s := mustOpen(t, path)
	change(t, s, killKeys)
	s.Close()
	current, whole := readFile(t, path), readFile(t, path+revokedSuffix)
	for cut := 0; cut <= len(whole); cut += 7 {
		for _, zeros := range []int{0, 200} {
			b := append(bytes.Clone(whole[:cut]), make([]byte, zeros)...)
			if cut < len(revokedMagic) && zeros > 0 {
				continue // that is no file of ours
			}
			putBack(t, path, current)
			os.WriteFile(path+revokedSuffix, b, 0o600)
			s := mustOpen(t, path)
			if s.Replayed() != 0 {
				t.Fatalf("cut off at %d: keys were revoked", cut)
			}
			s.Close()
			if got := readFile(t, path+revokedSuffix); len(got) < len(whole)-revokedLen { // the first was synced
				t.Fatalf("cut off at %d: %d bytes of %d are there again", cut, len(got), len(whole))
			}
			putBack(t, path, old)
			s = mustOpen(t, path)
			wantKilled(t, s)
			s.Close()
		}
	}
}

func TestRevokedDamaged(t *testing.T) {
	path, _ := killable(t)
	s := mustOpen(t, path)
	change(t, s, killKeys)
	s.side.sync()
	change(t, s, func(tx store.Tx) error { return tx.Bury([32]byte{2}) }) // now the database forgets the others
	s.Close()
	whole := readFile(t, path+revokedSuffix)
	last := len(whole) - revokedLen
	for at := 0; at < last; at += 5 {
		b := bytes.Clone(whole)
		b[at] ^= 4
		os.WriteFile(path+revokedSuffix, b, 0o600)
		_, err := tryOpen(path)
		wantDamaged(t, "list of revocations", path+revokedSuffix, err)
	}
	swapped := bytes.Clone(whole)
	copy(swapped[8:], whole[8+revokedLen:8+2*revokedLen])
	copy(swapped[8+revokedLen:], whole[8:8+revokedLen])
	os.WriteFile(path+revokedSuffix, swapped, 0o600)
	_, err := tryOpen(path)
	wantDamaged(t, "swapped entries", path+revokedSuffix, err)
	// Nothing was changed by all that.
	os.WriteFile(path+revokedSuffix, whole, 0o600)
	s = mustOpen(t, path)
	wantChanged(t, s)
}

// What a power cut took out of the middle is in the database, unless that is
// another one.
func TestRevokedMended(t *testing.T) {
	path, old := killable(t)
	s := mustOpen(t, path)
	s.side.sync()
	change(t, s, killKeys)
	change(t, s, func(tx store.Tx) error { return tx.Bury([32]byte{2}, [32]byte{3}) })
	s.Close()
	side := path + revokedSuffix
	current, whole := readFile(t, path), readFile(t, side)
	n := (len(whole) - len(revokedMagic)) / revokedLen
	slot := func(i int) int { return len(revokedMagic) + i*revokedLen }
	for from := 1; from < n-1; from++ {
		for to := from + 1; to < n; to++ {
			for _, fill := range []byte{0, 0xff} {
				b := bytes.Clone(whole)
				copy(b[slot(from)+5:slot(to)], bytes.Repeat([]byte{fill}, slot(to)-slot(from)-5))
				putBack(t, path, current)
				os.WriteFile(side, b, 0o600)
				if r, err := Check(path, nil); err != nil || len(r.Problems) > 0 || r.Buried != n {
					t.Fatalf("entries %d to %d: check: %+v, %v", from, to, r, err)
				}
				s := mustOpen(t, path)
				if s.Replayed() != 0 || buriedIn(t, s, [32]byte{3}) != true {
					t.Fatalf("entries %d to %d: %d keys were revoked", from, to, s.Replayed())
				}
				s.Close()
				if !bytes.Equal(readFile(t, side), whole) {
					t.Fatalf("entries %d to %d: the file is not what it was", from, to)
				}
				putBack(t, path, old)
				os.WriteFile(side, b, 0o600)
				_, err := tryOpen(path)
				wantDamaged(t, "with an older database", side, err)
			}
		}
	}
	// What is good must be what the database says it is.
	b := bytes.Clone(whole)
	other := entry{binary.BigEndian.Uint64(b[slot(n-1):]), [32]byte{99}}
	copy(b[slot(n-1):], other.appendTo(nil, newTagger(s.master.Derive(tagPurpose))))
	b[slot(n-2)] ^= 1
	putBack(t, path, current)
	os.WriteFile(side, b, 0o600)
	_, err := tryOpen(path)
	wantDamaged(t, "another entry", side, err)
	wantMode(t, side, 0o600)
}

func buriedIn(t *testing.T, s *Store, digest [32]byte) (ok bool) {
	t.Helper()
	if err := s.View(context.Background(), func(r store.Reader) (err error) { ok, err = r.Buried(digest); return err }); err != nil {
		t.Fatal(err)
	}
	return ok
}

// Buried knows what waits for a disk that fails, what was compacted, and says
// so if the list is gone.
func TestBuried(t *testing.T) {
	path, _ := killable(t)
	s := mustOpen(t, path)
	s.side.mu.Lock()
	s.side.f.Close() // from now on writes fail
	s.side.mu.Unlock()
	change(t, s, func(tx store.Tx) error { return tx.Bury([32]byte{5}) })
	if !buriedIn(t, s, [32]byte{1}) || !buriedIn(t, s, [32]byte{5}) || buriedIn(t, s, [32]byte{6}) {
		t.Fatal("what waits is not known")
	}
	change(t, s, func(tx store.Tx) error { return tx.Bury([32]byte{6}) })
	if !buriedIn(t, s, [32]byte{6}) {
		t.Fatal("what was buried since is not known")
	}
	_ = s.Close()
	s = mustOpen(t, path)
	s.side.limit = 1
	s.side.sync()
	if !buriedIn(t, s, [32]byte{1}) || !buriedIn(t, s, [32]byte{6}) {
		t.Fatal("an opening or compacting lost something")
	}
	s.Close()
	s = mustOpen(t, path)
	os.Remove(path + revokedSuffix)
	err := s.View(context.Background(), func(r store.Reader) error { _, err := r.Buried([32]byte{1}); return err })
	if err == nil {
		t.Fatal("a list that is gone knows everything")
	}
}

func wantChanged(t *testing.T, s *Store) {
	t.Helper()
	if keyOf(t, s, 1).Status != access.StatusRevoked || keyOf(t, s, 3).Digest[31] != 1 {
		t.Fatal("the changes are gone")
	}
}

// A list that cannot be written holds nothing up; the next opening writes it.
func TestRevokedCannotBeWritten(t *testing.T) {
	path, old := killable(t)
	side := path + revokedSuffix
	first := readFile(t, side)
	os.Remove(side)
	os.MkdirAll(filepath.Join(side, "x"), 0o700)
	if _, err := tryOpen(path); err == nil {
		t.Fatal("a directory was read as a list")
	}
	os.RemoveAll(side)
	os.WriteFile(side, first, 0o600)
	s := mustOpen(t, path)
	s.side.mu.Lock()
	s.side.f.Close() // from now on writes fail
	s.side.mu.Unlock()
	change(t, s, killKeys)
	if err := s.Close(); err == nil {
		t.Fatal("Close said nothing of entries that were not written")
	}
	mustOpen(t, path).Close()
	putBack(t, path, old)
	wantKilled(t, mustOpen(t, path))
}

func TestCompactRevoked(t *testing.T) {
	path, old := killable(t)
	s := mustOpen(t, path)
	s.side.mu.Lock()
	s.side.limit = 20
	s.side.mu.Unlock()
	for range 10 {
		change(t, s, func(tx store.Tx) error { return tx.Bury([32]byte{1}, [32]byte{2}, [32]byte{3}) })
	}
	change(t, s, killKeys)
	s.side.sync()
	if s.side.count >= 20 {
		t.Fatalf("%d entries are left", s.side.count)
	}
	change(t, s, func(tx store.Tx) error { return tx.Bury(storetest.NewKey("", 7).Digest) })
	s.Close()
	if s = mustOpen(t, path); s.Replayed() != 0 {
		t.Fatal("keys were revoked after compacting")
	}
	s.Close()
	wantMode(t, path+revokedSuffix, 0o600)
	putBack(t, path, old)
	s = mustOpen(t, path)
	wantKilled(t, s)
	if keyOf(t, s, 7).Status != access.StatusRevoked {
		t.Fatal("what was buried after compacting was lost")
	}
}

// The database forgets what is on the disk.
func TestBuriedIsForgotten(t *testing.T) {
	s := mustOpen(t, sample(t))
	for n := range 20 {
		change(t, s, func(tx store.Tx) error { return tx.Bury([32]byte{byte(n)}, [32]byte{byte(n), 1}) })
		s.side.sync()
	}
	kept, err := s.kept()
	if err != nil || len(kept) != 2 || kept[1].seq != 40 {
		t.Fatal(kept, err)
	}
}

// A database of the first schema is opened as it is.
func TestSchema1(t *testing.T) {
	path := sample(t)
	rewriteSchema1(t, path)
	s := mustOpen(t, path)
	if err := s.View(context.Background(), func(r store.Reader) error {
		_, err := r.Use(access.KeyID{})
		_, _, err2 := r.LastAudit()
		err3 := r.Audit(0, func(uint64, []byte) bool { return true })
		_, _, err4 := r.Answer([32]byte{})
		if !errors.Is(err4, store.ErrNotFound) {
			t.Fatal(err4)
		}
		return errors.Join(err, err2, err3)
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Follow(context.Background(), func(store.Change) {}); err != nil {
		t.Fatal(err)
	}
	change(t, s, func(tx store.Tx) error { return errors.Join(tx.PutAudit(1, []byte("x")), tx.Bury([32]byte{1})) })
	s.Close()
	if n, err := readAll(path); n != sampleKeys || err != nil {
		t.Fatal(n, err)
	}
	if r, err := Check(path, nil); err != nil || len(r.Problems) > 0 || r.Schema != schema {
		t.Fatal(r, err)
	}
}

// rewriteSchema1 makes a database what version 1 would have made of it.
func rewriteSchema1(t *testing.T, path string) {
	t.Helper()
	rewrite(t, path, func(tx *bolt.Tx) error {
		for _, name := range slices.Concat(addedBuckets[:]...) {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(metaSchema, []byte{0, 0, 0, 1})
	})
}
