package boltstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

// disk lets the file of a store fail, by putting another file under its
// descriptor: one that takes no writes, or one that takes them and cannot sync.
type disk struct {
	t    *testing.T
	path string
	file *os.File
	good int // keeps the lock meanwhile
}

func (d *disk) open(name string, flag int, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err == nil && name == d.path {
		d.file = f
	}
	return f, err
}

func (d *disk) start() *Store {
	d.t.Helper()
	s, err := openWith(Options{Path: d.path, OpenFile: d.open})
	if err != nil {
		d.t.Fatal(err)
	}
	if d.good, err = syscall.Dup(int(d.file.Fd())); err != nil {
		d.t.Fatal(err)
	}
	return s
}

func (d *disk) stop(s *Store) {
	_ = s.Close()
	_ = syscall.Close(d.good)
}

func (d *disk) swap(name string, flag int) {
	fd, err := syscall.Open(name, flag|syscall.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(syscall.Dup3(fd, int(d.file.Fd()), syscall.O_CLOEXEC), syscall.Close(fd))
	}
	if err != nil {
		d.t.Error(err)
	}
}

func (d *disk) breakWrites() { d.swap(d.path, syscall.O_RDONLY) }
func (d *disk) breakSyncs()  { d.swap("/dev/zero", syscall.O_RDWR) }

func (d *disk) heal() {
	if err := syscall.Dup3(d.good, int(d.file.Fd()), syscall.O_CLOEXEC); err != nil {
		d.t.Error(err)
	}
}

// strike has the disk fail: at once, at a random point, or in one round of
// eight not at all. wait returns when it has failed.
func (d *disk) strike(round int, delay time.Duration) (wait func()) {
	fail := d.breakWrites
	if round%2 == 1 {
		fail = d.breakSyncs
	}
	done := make(chan struct{})
	switch {
	case round%8 == 7:
		close(done)
	case round%4 < 2:
		fail()
		close(done)
	default:
		go func() { time.Sleep(delay); fail(); close(done) }()
	}
	return func() { <-done }
}

// What may be said of a key in TestDiskFails.
const (
	sure    = 1 // it was acknowledged
	perhaps = 2 // the disk failed while it was being taken back, too
)

// TestDiskFails lets writes and syncs fail before an update or at a random
// point within it. What was acknowledged stays, what failed is not there, and
// the store works again, if need be once it is opened again.
func TestDiskFails(t *testing.T) {
	d := &disk{t: t, path: filepath.Join(t.TempDir(), "keytoll.db")}
	s := d.start()
	ctx := context.Background()
	if err := s.Update(ctx, func(tx store.Tx) error { return tx.PutTenant(storetest.NewTenant("acme")) }); err != nil {
		t.Fatal(err)
	}
	keys := map[access.KeyID]int{}
	rnd := rand.New(rand.NewPCG(3, 4))
	failures := 0
	const rounds = 200
	for n := range rounds {
		k := storetest.NewKey("acme", n)
		k.Name = strings.Repeat("n", rnd.IntN(9000)) // the file grows now and then
		wait := d.strike(n, time.Duration(rnd.IntN(400))*time.Microsecond)
		err := s.Update(ctx, func(tx store.Tx) error { return tx.CreateKey(k) })
		wait()
		d.heal()
		if err == nil {
			keys[k.ID] = sure
		} else if failures++; !strings.Contains(err.Error(), d.path) {
			t.Fatalf("the error does not name the file: %v", err)
		}
		broken := s.Update(ctx, func(tx store.Tx) error { return tx.PutBlob("x", []byte{byte(n)}) })
		if broken != nil {
			if err == nil {
				t.Fatalf("an update failed on a good disk: %v", broken)
			}
			keys[k.ID] = perhaps
		}
		if broken != nil || n%20 == 19 {
			d.stop(s)
			s = d.start()
		}
		compareKeys(t, s, keys)
	}
	d.stop(s)
	if _, err := readAllKeys(d.path); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d updates of %d failed", failures, rounds)
	if failures < rounds/2 || failures > rounds-rounds/8 {
		t.Fatal("the test proves nothing")
	}
}

func compareKeys(t *testing.T, s *Store, keys map[access.KeyID]int) {
	t.Helper()
	found := map[access.KeyID]bool{}
	if err := s.View(context.Background(), func(r store.Reader) error {
		return r.Keys("acme", access.KeyID{}, func(k *access.Key) bool { found[k.ID] = true; return true })
	}); err != nil {
		t.Fatal(err)
	}
	for id, state := range keys {
		if state == sure && !found[id] {
			t.Fatalf("key %s was acknowledged and is gone", id)
		}
	}
	for id := range found {
		if keys[id] == 0 {
			t.Fatalf("key %s is there although its update failed", id)
		}
	}
}

func readAllKeys(path string) (n int, err error) {
	s, err := tryOpen(path)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return n, s.Follow(context.Background(), func(store.Change) { n++ })
}

// A commit whose meta page was written but not synced is taken back.
func TestUndo(t *testing.T) {
	path := sample(t)
	s := mustOpen(t, path)
	if err := s.awaitCheck(t.Context()); err != nil { // it reads what a writer changes
		t.Fatal(err)
	}
	tx, err := s.db.Begin(true)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(tx.Bucket(bucketTenants).Delete([]byte("acme")), putCommits(tx.Bucket(bucketMeta), newTagger(s.master.Derive(tagPurpose)), s.commits+1, 0))
	undo := s.prepareUndo(tx)
	if err = errors.Join(err, tx.Commit()); err != nil {
		t.Fatal(err)
	}
	disk := errors.New("disk on fire")
	if err := s.commitFailed(disk, undo); !errors.Is(err, disk) || !strings.Contains(err.Error(), "opened again") {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"View":   s.View(context.Background(), func(store.Reader) error { return nil }),
		"Update": s.Update(context.Background(), func(store.Tx) error { return nil }),
	} {
		if !errors.Is(err, disk) {
			t.Fatalf("%s after a commit that failed half-way: %v", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := readAll(path); n != sampleKeys || err != nil {
		t.Fatal(n, err)
	}
}

func TestDiskFailsAtFirstStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	readOnly := func(name string, flag int, perm os.FileMode) (*os.File, error) {
		return os.OpenFile(name, os.O_RDONLY, perm)
	}
	_, err := openWith(Options{Path: path, OpenFile: readOnly})
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("half a database was left")
	}
	mustOpen(t, path)
}
