package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// Replayed returns how many keys were revoked when the store was opened,
// because the database was older than its list of revocations: a backup or
// another old copy had been put back, or a commit was lost.
func (s *Store) Replayed() int { return s.replayed }

// openRevoked opens the list of revocations and says in what it differs from
// the database; nil if in nothing that the database would have to learn.
func (s *Store) openRevoked() (*divergence, error) {
	t := newTagger(s.master.Derive(tagPurpose))
	s.side = &sideFile{path: s.path + revokedSuffix, tagger: t, limit: compactBeyond}
	kept, err := s.kept()
	if err != nil {
		return nil, err
	}
	file, size, mended, err := mendRevoked(s.side.path, t, kept)
	if err != nil {
		return nil, err
	}
	if err := s.side.openAt(file, size, mended); err != nil {
		return nil, err
	}
	s.side.count = int64(len(file))
	if len(file) > 0 {
		s.side.last = file[len(file)-1].seq
		s.side.written = s.side.last
	}
	d := diverge(file, kept)
	if len(d.replay) > 0 {
		if len(kept) > 0 {
			s.side.last = max(s.side.last, kept[len(kept)-1].seq)
		}
		return d, nil
	}
	s.side.add(d.missing)
	return nil, nil
}

// kept returns the entries that the database holds, in order.
func (s *Store) kept() (entries []entry, err error) {
	err = guard(s.path, func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			t := s.taggers.Get().(*tagger)
			defer s.taggers.Put(t)
			entries, err = readKept(s.path, tx, t)
			return err
		})
	})
	return entries, err
}

func readKept(path string, tx *bolt.Tx, t *tagger) (entries []entry, err error) {
	b := tx.Bucket(bucketBuried)
	if b == nil {
		return nil, nil
	}
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		d, ok := t.open(bucketBuried, k, v)
		if !ok || len(k) != 8 || len(d) != 32 {
			return nil, damaged(path, "record %x in buried fails its tag", k)
		}
		entries = append(entries, entry{binary.BigEndian.Uint64(k), [32]byte(d)})
	}
	return entries, nil
}

// replay revokes the keys that have what the database did not know to be
// buried, or takes their previous secret, in one transaction, before anyone
// reads.
func (s *Store) replay(d *divergence) error {
	n := 0
	t, err := s.update(func(v store.Tx) error {
		t := v.(*tx)
		t.learnt = d
		for _, e := range d.missing {
			t.buried = append(t.buried, e.digest)
		}
		n = 0
		var failed error
		now := time.Now().UTC().Truncate(time.Second)
		err := t.Keys("", access.KeyID{}, func(k *access.Key) bool {
			revoke, drop := d.meets(k)
			if revoke {
				n++
				k.Status, k.RevokedAt = access.StatusRevoked, now
			}
			if revoke || drop {
				k.Previous = nil
				failed = t.UpdateKey(k)
			}
			return failed == nil
		})
		return errors.Join(err, failed)
	})
	if err != nil {
		return err
	}
	s.replayed = n
	s.committed(t)
	return nil
}

// meets tells whether k has to be revoked, and whether the secret before its
// present one has to go. The end of a grace buries that alone.
func (d *divergence) meets(k *access.Key) (revoke, drop bool) {
	_, present := d.replay[k.Digest]
	_, gone := d.replay[keyMark(k.ID)]
	dead := present || gone
	if k.Previous != nil {
		_, drop = d.replay[k.Previous.Digest]
		drop = drop || dead
	}
	return dead && k.Status != access.StatusRevoked, drop
}

// noteBuried has the transaction keep what it buries, and forget what is on
// the disk in the file but for the newest. It sets t.entries.
func (t *tx) noteBuried() error {
	side := t.s.side
	b := t.tx.Bucket(bucketBuried)
	if err := t.forgetBuried(b); err != nil {
		return err
	}
	put := func(e entry) error {
		d := append(make([]byte, 0, 32+tagLen), e.digest[:]...)
		return t.put(bucketBuried, auditID(e.seq), d)
	}
	if t.learnt != nil {
		if err := put(t.learnt.newest); err != nil {
			return err
		}
	}
	seq, seen := side.last, make(map[[32]byte]struct{}, len(t.buried))
	for _, d := range t.buried {
		if _, twice := seen[d]; twice {
			continue
		}
		seen[d] = struct{}{}
		seq++
		e := entry{seq, d}
		if err := put(e); err != nil {
			return err
		}
		t.entries = append(t.entries, e)
	}
	return nil
}

// forgetBuried deletes all of the bucket that the file surely has; everything,
// if the database is to follow the file from now on.
func (t *tx) forgetBuried(b *bolt.Bucket) error {
	upTo := auditID(t.s.side.durable() + 1)
	limit := 1000 + 2*len(t.buried)
	var ids [][]byte
	c := b.Cursor()
	for k, _ := c.First(); k != nil && (t.learnt != nil || len(ids) < limit && bytes.Compare(k, upTo) < 0); k, _ = c.Next() {
		ids = append(ids, bytes.Clone(k))
	}
	return t.deleteAll(bucketBuried, ids)
}
