package boltstore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

// full makes a database that has something of everything.
func full(t *testing.T) string {
	t.Helper()
	path := sample(t)
	s := mustOpen(t, path)
	change(t, s, func(tx store.Tx) error {
		var errs []error
		for n := range 50 {
			errs = append(errs, tx.PutUse(storetest.NewKey("", n).ID, access.Use{At: int64(n), Agent: "curl"}),
				tx.PutAudit(uint64(n+1), []byte("entry")), tx.PutAnswer([32]byte{byte(n)}, int64(n), []byte("answer")),
				tx.PutUsage([]byte{byte(n)}, []byte("usage")))
		}
		return errors.Join(append(errs, tx.Bury([32]byte{1}))...)
	})
	s.Close()
	return path
}

func backupTo(t *testing.T, path, to string) {
	t.Helper()
	s := mustOpen(t, path)
	defer s.Close()
	var b bytes.Buffer
	if n, err := s.Backup(context.Background(), &b); err != nil || n != int64(b.Len()) {
		t.Fatal(n, err)
	}
	if err := os.WriteFile(to, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	path := full(t)
	before := readFile(t, path)
	os.Remove(path + counterSuffix)
	r, err := Check(path, nil)
	if err != nil || len(r.Problems) > 0 {
		t.Fatal(r.Problems, err)
	}
	if r.Bytes != int64(len(before)) || r.Tenants != 1 || r.Keys != sampleKeys || r.Uses != 50 || r.Audit != 50 || r.Answers != 50 || r.Usage != 50 || r.Blobs != 1 || r.Buried != 1 || r.Commits != 4 {
		t.Fatalf("%+v", r)
	}
	if _, err := os.Stat(path + counterSuffix); err == nil || !bytes.Equal(before, readFile(t, path)) {
		t.Fatal("Check changed something")
	}
	if _, err := Check(path, master(t)); !errors.Is(err, store.ErrMasterKey) {
		t.Fatal(err)
	}
	if _, err := Check(path+"x", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	s := mustOpen(t, path)
	if _, err := Check(path, nil); !errors.Is(err, store.ErrLocked) {
		t.Fatal(err)
	}
	s.Close()
}

func TestCheckFinds(t *testing.T) {
	a, b := storetest.NewKey("acme", 1), storetest.NewKey("acme", 2)
	for what, fn := range map[string]func(*bolt.Tx, *tagger) error{
		"fails its tag": func(tx *bolt.Tx, _ *tagger) error { return tx.Bucket(bucketKeys).Put(a.ID[:], []byte("short")) },
		"not listed":    func(tx *bolt.Tx, _ *tagger) error { return tx.Bucket(bucketTenantKeys).Delete(tenantKey("acme", a.ID)) },
		"entries for": func(tx *bolt.Tx, _ *tagger) error {
			return tx.Bucket(bucketTenantKeys).Put(tenantKey("evil", a.ID), nil)
		},
		"which is not there": func(tx *bolt.Tx, _ *tagger) error {
			return errors.Join(tx.Bucket(bucketTenants).Delete([]byte("acme")))
		},
		"in usage fails": func(tx *bolt.Tx, _ *tagger) error {
			return tx.Bucket(bucketUsage).Put([]byte{7}, tx.Bucket(bucketUsage).Get([]byte{8}))
		},
		"use of key":        func(tx *bolt.Tx, _ *tagger) error { return tx.Bucket(bucketKeys).Delete(a.ID[:]) },
		"records 9 to 9":    func(tx *bolt.Tx, _ *tagger) error { return tx.Bucket(bucketAudit).Delete(auditID(9)) },
		"under its end":     func(tx *bolt.Tx, _ *tagger) error { return tx.DeleteBucket(bucketAnswerEnds) },
		"answers by their":  func(tx *bolt.Tx, _ *tagger) error { return tx.Bucket(bucketAnswers).Delete(make([]byte, 32)) },
		"same secret":       func(tx *bolt.Tx, g *tagger) error { return forge(tx, g, b, a.Digest) },
		"bucket blobs is m": func(tx *bolt.Tx, _ *tagger) error { return tx.DeleteBucket(bucketBlobs) },
	} {
		path := full(t)
		keys, _ := offlineMasters(path, nil)
		rewrite(t, path, func(tx *bolt.Tx) error {
			err := fn(tx, newTagger(keys[0].Derive(tagPurpose)))
			if what == "under its end" {
				_, err = tx.CreateBucket(bucketAnswerEnds)
			}
			return err
		})
		r, err := Check(path, nil)
		if err != nil || !strings.Contains(strings.Join(r.Problems, "\n"), what) {
			t.Errorf("%s: %v, %v", what, r.Problems, err)
		}
	}
	path := full(t)
	good, end := readFile(t, path), used(t, path)
	for _, size := range []int{0, 100, 5000, end / 2, end - 1} {
		os.WriteFile(path, good[:size], 0o600)
		if r, err := Check(path, nil); err != nil || len(r.Problems) == 0 {
			t.Errorf("cut off at %d: %v, %v", size, r.Problems, err)
		}
	}
}

func forge(tx *bolt.Tx, g *tagger, k *access.Key, digest [32]byte) error {
	k.Digest = digest
	b, err := encodeKey(k)
	return errors.Join(err, tx.Bucket(bucketKeys).Put(k.ID[:], g.seal(bucketKeys, k.ID[:], b)))
}

func TestCompact(t *testing.T) {
	path := full(t)
	s := mustOpen(t, path)
	for range 3 {
		change(t, s, func(tx store.Tx) error { return tx.PutBlob("big", bytes.Repeat([]byte("big"), 1<<20)) })
	}
	change(t, s, func(tx store.Tx) error { return tx.PutBlob("big", nil) })
	if _, _, err := Compact(path); !errors.Is(err, store.ErrLocked) {
		t.Fatal(err)
	}
	s.Close()
	was, _ := Check(path, nil)
	before, after, err := Compact(path)
	if err != nil || before <= after || after != fileSize(path) || before != was.Bytes {
		t.Fatal(before, after, err)
	}
	wantMode(t, path, 0o600)
	is, err := Check(path, nil)
	was.Bytes = is.Bytes
	if err != nil || len(is.Problems) > 0 || is.Commits != was.Commits || is.Keys != was.Keys || is.Audit != was.Audit {
		t.Fatal(is, err)
	}
	if n, err := readAll(path); n != sampleKeys || err != nil {
		t.Fatal(n, err)
	}
	if left, _ := filepath.Glob(path + ".new-*"); len(left) > 0 {
		t.Fatal(left)
	}
	b := readFile(t, path)
	os.WriteFile(path, b[:len(b)/3], 0o600)
	if _, _, err := Compact(path); !errors.Is(err, store.ErrDamaged) {
		t.Fatal(err)
	}
	if _, _, err := Compact(path + "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestRestore(t *testing.T) {
	path, _ := killable(t)
	backup := filepath.Join(t.TempDir(), "backup")
	backupTo(t, path, backup)
	s := mustOpen(t, path)
	change(t, s, killKeys)
	if err := Restore(backup, path, nil); !errors.Is(err, store.ErrLocked) {
		t.Fatal(err)
	}
	s.Close()
	current := readFile(t, path)
	if err := Restore(backup, path, master(t)); !errors.Is(err, store.ErrMasterKey) {
		t.Fatal(err)
	}
	bad := readFile(t, backup)
	bad[len(bad)/2] ^= 1
	os.WriteFile(backup+"-bad", bad[:len(bad)-5000], 0o600)
	if err := Restore(backup+"-bad", path, nil); !errors.Is(err, store.ErrDamaged) {
		t.Fatal(err)
	}
	if !bytes.Equal(readFile(t, path), current) {
		t.Fatal("a restore that failed changed the database")
	}
	if err := Restore(backup, path, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readFile(t, path+beforeRestore), current) || !bytes.Equal(readFile(t, path), readFile(t, backup)) {
		t.Fatal("not the old one kept or not the backup put in place")
	}
	wantMode(t, path, 0o600)
	s = mustOpen(t, path) // the counter says nothing of a lost commit
	if s.Replayed() != 4 {
		t.Fatal(s.Replayed())
	}
	wantKilled(t, s)
	s.Close()
	if err := Restore(backup, path, nil); !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	os.Remove(path + beforeRestore)
	os.Remove(path) // or lost, which is why there are backups
	if err := Restore(backup, path, nil); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path)
	wantKilled(t, s)
	s.Close()
	os.WriteFile(path, []byte("no database"), 0o600)
	if err := Restore(backup, path, nil); err != nil {
		t.Fatal(err)
	}
	wantKilled(t, mustOpen(t, path))
}

// slow is a reader of a backup that is changed meanwhile.
type slow struct {
	bytes.Buffer
	step func(n int)
	n    int
}

func (w *slow) Write(p []byte) (int, error) {
	w.n++
	w.step(w.n)
	return w.Buffer.Write(p)
}

func TestBackupWhileWriting(t *testing.T) {
	path := sample(t)
	s := mustOpen(t, path)
	w := &slow{step: func(n int) {
		change(t, s, func(tx store.Tx) error {
			k := storetest.NewKey("acme", n)
			k.Status = access.StatusRevoked
			return errors.Join(tx.UpdateKey(k), tx.PutBlob("x", bytes.Repeat([]byte{byte(n)}, 100_000)))
		})
	}}
	if _, err := s.Backup(context.Background(), w); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	os.WriteFile(copied, w.Bytes(), 0o600)
	m := s.Master()
	r, err := Check(copied, &m)
	if err != nil || len(r.Problems) > 0 || r.Keys != sampleKeys || r.Revoked != 0 {
		t.Fatal(r, err)
	}
	// The store goes on as before, and can be told to stop.
	ctx, cancel := context.WithCancel(context.Background())
	w = &slow{step: func(int) { cancel() }}
	if _, err := s.Backup(ctx, w); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	full := errors.New("full")
	if _, err := s.Backup(context.Background(), failing{full}); !errors.Is(err, full) || errors.Is(err, store.ErrDamaged) {
		t.Fatal(err)
	}
	s.Close()
	if n, err := readAll(path); n != sampleKeys || err != nil {
		t.Fatal(n, err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
