package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// schema is the version of the buckets and records. A database of a higher one
// is refused; one of a lower lacks some of addedBuckets and becomes one of this
// version with its first change.
const schema = 3

const counterSuffix = ".commits"

var (
	bucketMeta         = []byte("meta")
	bucketTenants      = []byte("tenants")
	bucketKeys         = []byte("keys")
	bucketTenantKeys   = []byte("tenant_keys")
	bucketBlobs        = []byte("blobs")
	bucketUses         = []byte("uses")
	bucketAudit        = []byte("audit")
	bucketAnswers      = []byte("answers")
	bucketAnswerEnds   = []byte("answer_ends")
	bucketBuried       = []byte("buried")
	bucketUsage        = []byte("usage")
	bucketProviderKeys = []byte("provider_keys")
	bucketDataKeys     = []byte("data_keys")

	buckets = [][]byte{bucketMeta, bucketTenants, bucketKeys, bucketTenantKeys, bucketBlobs}
	// addedBuckets came with version 2 and with each one since.
	addedBuckets = [schema - 1][][]byte{
		{bucketUses, bucketAudit, bucketAnswers, bucketAnswerEnds, bucketBuried, bucketUsage},
		{bucketProviderKeys, bucketDataKeys},
	}

	metaSchema  = []byte("schema")
	metaCheck   = []byte("check")
	metaCommits = []byte("commits")
)

type openFunc = func(string, int, os.FileMode) (*os.File, error)

func boltOptions(timeout time.Duration, open openFunc) *bolt.Options {
	// The list of free pages is kept in order: the other kind sorts it at each
	// commit, for 3 ms where a million keys were written.
	return &bolt.Options{
		Timeout:         timeout,
		NoStatistics:    true,
		FreelistType:    bolt.FreelistArrayType,
		MmapFlags:       mmapFlags,
		InitialMmapSize: mmapSize,
		OpenFile:        open,
	}
}

// create builds an empty database in a temporary file and moves it to path. If
// something is there by then, that is left alone.
func create(path string, m token.Master, open openFunc) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	tmp := f.Name()
	defer os.Remove(tmp) // gone already, but after an error
	if err := f.Close(); err != nil {
		return err
	}
	err = guard(path, func() error { return fill(tmp, m, open) })
	if err == nil {
		err = install(tmp, path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making database %s: %w", path, err)
	}
	return nil
}

func fill(tmp string, m token.Master, open openFunc) error {
	db, err := bolt.Open(tmp, 0o600, boltOptions(time.Second, open))
	if err != nil {
		return err
	}
	db.AllocSize = growBy
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		return errors.Join(
			upgrade(tx),
			meta.Put(metaCheck, checkValue(m)),
			putCommits(meta, newTagger(m.Derive(tagPurpose)), 1, 0))
	})
	return errors.Join(err, db.Sync(), db.Close())
}

// upgrade makes the buckets of this version and notes the version.
func upgrade(tx *bolt.Tx) error {
	for _, name := range slices.Concat(addedBuckets[:]...) {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketMeta).Put(metaSchema, binary.BigEndian.AppendUint32(nil, schema))
}

// putCommits notes the number of the last commit and that of the newest audit
// record, 0 if there is none.
func putCommits(meta *bolt.Bucket, t *tagger, n, audited uint64) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16+tagLen), n)
	b = binary.BigEndian.AppendUint64(b, audited)
	return meta.Put(metaCommits, t.seal(bucketMeta, metaCommits, b))
}

// open fills a new Store. After an error nothing is left open.
func (s *Store) open(ctx context.Context, opt Options) error {
	err := guard(s.path, func() (err error) {
		s.db, err = s.openBolt(ctx, opt)
		return err
	})
	if err != nil {
		if s.file != nil {
			release(s.file)
		}
		return s.openError(err)
	}
	if err := s.admitFiles(); err != nil {
		s.count.close()
		if s.side != nil {
			err = errors.Join(err, s.side.close())
		}
		return errors.Join(err, guard(s.path, s.db.Close))
	}
	return nil
}

// admitFiles sees that the files fit together, has the pages checked, and
// revokes what the list of revocations knows and the database does not.
func (s *Store) admitFiles() error {
	if err := guard(s.path, s.verify); err != nil {
		return err
	}
	if err := s.verifyCommits(); err != nil {
		return err
	}
	d, err := s.openRevoked()
	if err != nil {
		return err
	}
	if d == nil {
		go s.check()
		return nil
	}
	if s.check(); s.checkErr != nil {
		return s.checkErr
	}
	return guard(s.path, func() error { return s.replay(d) })
}

// openBolt takes the lock in short turns, so that ctx can end the waiting.
func (s *Store) openBolt(ctx context.Context, opt Options) (*bolt.DB, error) {
	openFile := func(name string, flag int, perm os.FileMode) (*os.File, error) {
		// What was there a moment ago must not be made anew now.
		f, err := opt.OpenFile(name, flag&^os.O_CREATE, perm)
		if err != nil {
			return nil, err
		}
		s.file = f
		if info, err := f.Stat(); err != nil || info.Size() == 0 {
			return f, errors.Join(err, errEmpty)
		}
		return f, nil
	}
	const turn = 120 * time.Millisecond
	for end := time.Now().Add(opt.Timeout); ; {
		left := max(time.Until(end), time.Millisecond)
		db, err := bolt.Open(s.path, 0o600, boltOptions(min(left, turn), openFile))
		if err == nil {
			db.AllocSize = growBy
		}
		if !errors.Is(err, berrors.ErrTimeout) || left < turn {
			return db, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// growBy is how much a file grows at a time, in bytes. All of it is in memory
// while the file is open, so bbolt's 16 MiB would be most of what a small
// gateway needs.
const growBy = 1 << 20

var errEmpty = errors.New("file is empty")

func (s *Store) openError(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fail(store.ErrLocked, "database %s is open in another process (is caddy already running?)", s.path)
	case errors.Is(err, errEmpty):
		return damaged(s.path, "it is an empty file")
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return damaged(s.path, "%v", err)
	case s.file != nil && fileSize(s.path) < 16<<10:
		return damaged(s.path, "%v", err)
	}
	return storageError(s.path, err)
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// check runs bbolt's own check of the whole tree.
func (s *Store) check() {
	defer close(s.checked)
	s.checkErr = guard(s.path, func() error {
		tx, err := s.db.Begin(false)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		for e := range tx.Check() { // to the end, or its goroutine hangs
			if err == nil {
				err = damaged(s.path, "%v", e)
			}
		}
		return err
	})
}
