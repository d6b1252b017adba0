package boltstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// offlineWait is how long a command waits for the lock of a database.
const offlineWait = 250 * time.Millisecond

// beforeRestore is added to the name of the database that Restore replaces.
const beforeRestore = ".before-restore"

// openReadOnly opens the database at path without changing anything, and sees
// that its pages lie within it. While it is open no one can write. The caller
// guards it. It returns fs.ErrNotExist, ErrLocked or ErrDamaged.
func openReadOnly(path string) (*bolt.DB, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, damaged(path, "it is not a file or an empty one")
	}
	var file *os.File
	opt := boltOptions(offlineWait, func(name string, flag int, perm os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, os.O_RDONLY, perm)
		file = f
		return f, err
	})
	opt.ReadOnly = true
	opt.InitialMmapSize = 0
	var db *bolt.DB
	err = guard(path, func() (err error) {
		if db, err = bolt.Open(path, 0o600, opt); err != nil {
			return err
		}
		return db.View(func(tx *bolt.Tx) error {
			if err := checkLayout(db, tx, info.Size()); err != nil {
				return damaged(path, "%v", err)
			}
			return nil
		})
	})
	if err == nil {
		return db, nil
	}
	if db != nil {
		_ = guard(path, db.Close)
	} else if file != nil {
		release(file)
	}
	return nil, offlineError(path, err)
}

func offlineError(path string, err error) error {
	var f *fault
	switch {
	case errors.As(err, &f), errors.Is(err, os.ErrPermission):
		return err
	case errors.Is(err, berrors.ErrTimeout):
		return fail(store.ErrLocked, "database %s is open in another process: stop caddy first", path)
	}
	return damaged(path, "%v", err)
}

// Compact rewrites the database at path without the space that it no longer
// needs, and returns its sizes in bytes before and after. It needs no master
// key. The new file, mode 0600, is durable before it takes the old one's place;
// after an error, or a crash at any time, there is one whole database. It
// returns ErrLocked while the store is open, and ErrDamaged. The number of the
// last commit stays.
func Compact(path string) (before, after int64, err error) {
	path, err = realPath(path)
	if err != nil {
		return 0, 0, err
	}
	db, err := openReadOnly(path)
	if err != nil {
		return 0, 0, err
	}
	defer db.Close()
	before = fileSize(path)
	if err := guard(path, func() error { return db.View(func(tx *bolt.Tx) error { return checkTree(path, tx) }) }); err != nil {
		return before, before, err
	}
	tmp, err := tempFor(path)
	if err != nil {
		return before, before, err
	}
	defer os.Remove(tmp) // gone already, but after an error
	if err := guard(path, func() error { return compactInto(tmp, db) }); err != nil {
		return before, before, fmt.Errorf("compacting database %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return before, before, err
	}
	return before, fileSize(path), syncDir(filepath.Dir(path))
}

// compactMaxTx is how many bytes a transaction of Compact holds in memory.
const compactMaxTx = 16 << 20

func compactInto(tmp string, db *bolt.DB) error {
	opt := boltOptions(time.Second, nil)
	opt.InitialMmapSize, opt.NoSync, opt.PageSize = 0, true, db.Info().PageSize
	dst, err := bolt.Open(tmp, 0o600, opt)
	if err != nil {
		return err
	}
	dst.AllocSize = growBy
	return errors.Join(bolt.Compact(dst, db, compactMaxTx), dst.Sync(), dst.Close())
}

// checkTree returns the first thing that bbolt finds wrong.
func checkTree(path string, tx *bolt.Tx) (err error) {
	for e := range tx.Check() { // to the end, or its goroutine hangs
		if err == nil {
			err = damaged(path, "%v", e)
		}
	}
	return err
}

// tempFor makes an empty file of mode 0600 beside path.
func tempFor(path string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

func realPath(path string) (string, error) {
	b, err := New(Options{Path: path})
	if err != nil {
		return "", err
	}
	return b.path, nil
}

// Restore puts a copy of the file backup in the place of the database at path,
// which is kept as path.before-restore. The backup is checked first; if a thing
// is wrong with it, nothing is changed. The master keys are tried in turn; a nil
// one, or none, means the master.key beside path. Restore returns ErrLocked while the store is open, and
// fs.ErrExist if a database of an earlier restore is still there.
//
// The list of revocations stays: when the store is opened next, all keys that
// were revoked or rotated since the backup are revoked in it. The commit
// counter is put back, so that the database does not count as one that lost a
// commit. After a crash there is the old database or the restored one.
func Restore(backup, path string, masters ...*token.Master) error {
	path, err := realPath(path)
	if err != nil {
		return err
	}
	keys, err := offlineMasters(path, masters)
	if err != nil {
		return err
	}
	masters = nil
	for i := range keys {
		masters = append(masters, &keys[i])
	}
	report, err := Check(backup, masters...)
	if err != nil {
		return fmt.Errorf("checking the backup: %w", err)
	}
	if len(report.Problems) > 0 {
		return fail(store.ErrDamaged, "backup %s cannot be restored: %s", backup, report.Problems[0])
	}
	unlock, err := lockForRestore(path)
	if err != nil {
		return err
	}
	defer unlock()
	// The copy may be of a newer state than the backup that was checked, if
	// someone writes it, but it is whole: it is checked when it is opened.
	tmp, err := copyBeside(backup, path)
	if err != nil {
		return err
	}
	defer os.Remove(tmp) // gone already, but after an error
	c, _ := openCounter(path + counterSuffix)
	c.set(report.Commits) // behind the old database's, which is no harm to it
	c.close()
	if err := keepOld(path); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// lockForRestore sees that no one has the database open, if there is one. A
// damaged one is no obstacle: it is why there is a restore.
func lockForRestore(path string) (unlock func(), err error) {
	if _, err := os.Lstat(path + beforeRestore); err == nil {
		return nil, fail(fs.ErrExist, "the database of an earlier restore is still there: move %s%s away first", path, beforeRestore)
	}
	db, err := openReadOnly(path)
	if errors.Is(err, store.ErrLocked) {
		return nil, err
	}
	if err != nil {
		return func() {}, nil
	}
	return func() { _ = db.Close() }, nil
}

// keepOld gives the database at path a second name, if there is one.
func keepOld(path string) error {
	err := os.Link(path, path+beforeRestore)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.Rename(path, path+beforeRestore) // no hard links here
}

// copyBeside copies a file into a synced one beside path.
func copyBeside(from, path string) (tmp string, err error) {
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("copying %s: %w", from, err), os.Remove(out.Name()))
	}
	return out.Name(), nil
}

// offlineMasters returns the master keys, with the one beside the database at
// path in the place of a nil one.
func offlineMasters(path string, masters []*token.Master) (keys []token.Master, err error) {
	if len(masters) == 0 {
		masters = []*token.Master{nil}
	}
	for _, m := range masters {
		if m == nil {
			b := Backend{path: path}
			key, err := readMaster(b.masterPath())
			if errors.Is(err, fs.ErrNotExist) {
				return nil, fail(store.ErrMasterKey, "there is no master key %s: put it back or give the one the database was made with", b.masterPath())
			}
			if err != nil {
				return nil, err
			}
			m = &key
		}
		keys = append(keys, *m)
	}
	return keys, nil
}
