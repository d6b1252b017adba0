package boltstore

import (
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/store"
)

// verify sees that the database is whole, ours and not older than it was.
func (s *Store) verify() error {
	tx, err := s.db.Begin(false)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := checkLayout(s.db, tx, fileSize(s.path)); err != nil {
		return damaged(s.path, "%v", err)
	}
	if err := s.verifySchema(tx); err != nil {
		return err
	}
	meta := tx.Bucket(bucketMeta)
	if err := s.unlock(meta); err != nil {
		return err
	}
	s.commits, err = s.commitsIn(meta)
	return err
}

// verifySchema sees that all buckets of the database's version are there.
func (s *Store) verifySchema(tx *bolt.Tx) error {
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return damaged(s.path, "bucket %s is missing", name)
		}
	}
	version := tx.Bucket(bucketMeta).Get(metaSchema)
	if len(version) != 4 {
		return damaged(s.path, "it has no schema version")
	}
	v := binary.BigEndian.Uint32(version)
	switch {
	case v > schema:
		return fail(store.ErrNewer, "database %s has schema version %d, this keytoll knows %d: run the newer keytoll again", s.path, v, schema)
	case v == 0:
		return damaged(s.path, "there is no schema version %d", v)
	}
	s.old = v < schema
	for _, name := range slices.Concat(addedBuckets[:v-1]...) {
		if tx.Bucket(name) == nil {
			return damaged(s.path, "bucket %s is missing", name)
		}
	}
	return nil
}

// verifyCommits compares the number of the last commit with the counter.
func (s *Store) verifyCommits() error {
	path := s.path + counterSuffix
	c, m := openCounter(path)
	s.count = c
	if m > s.commits {
		return fail(store.ErrDamaged, "database %s: the database is older than its commit counter (%d < %d): a commit was lost or an old copy was put back; to accept it, delete %s",
			s.path, s.commits, m, path)
	}
	c.set(s.commits)
	return nil
}

func (s *Store) commitsIn(meta *bolt.Bucket) (uint64, error) {
	t := s.taggers.Get().(*tagger)
	defer s.taggers.Put(t)
	n, _, err := readCommits(s.path, meta, t)
	return n, err
}

// readCommits returns what putCommits noted. Older databases hold the number of
// the last commit alone; audited is nil then.
func readCommits(path string, meta *bolt.Bucket, t *tagger) (n uint64, audited *uint64, err error) {
	b, ok := t.open(bucketMeta, metaCommits, meta.Get(metaCommits))
	switch {
	case ok && len(b) == 16:
		return binary.BigEndian.Uint64(b), new(binary.BigEndian.Uint64(b[8:])), nil
	case ok && len(b) == 8:
		return binary.BigEndian.Uint64(b), nil, nil
	}
	return 0, nil, damaged(path, "the commit number fails its tag")
}
