package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// trimAtOnce is how many audit records a call of TrimAudit deletes at most.
const trimAtOnce = 10_000

// Audit implements store.Reader. yield must not write audit records.
func (r *reader) Audit(after uint64, yield func(seq uint64, record []byte) bool) error {
	if after+1 == 0 {
		return nil
	}
	return r.within(func() error {
		b := r.tx.Bucket(bucketAudit)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.Seek(auditID(after + 1)); k != nil; k, v = c.Next() {
			record, err := r.open(bucketAudit, k, v)
			if err != nil {
				return err
			}
			seq, record := binary.BigEndian.Uint64(k), bytes.Clone(record)
			r.inside = false
			if !yield(seq, record) {
				return nil
			}
			r.inside = true
		}
		return nil
	})
}

// LastAudit implements store.Reader.
func (r *reader) LastAudit() (seq uint64, record []byte, err error) {
	err = r.within(func() error {
		_, noted, err := readCommits(r.s.path, r.tx.Bucket(bucketMeta), r.tagger)
		if err != nil {
			return err
		}
		k, v := r.lastAudit()
		var last uint64
		if k != nil {
			last = binary.BigEndian.Uint64(k)
		}
		if noted != nil && *noted > last {
			seq = *noted
			return nil
		}
		if k == nil {
			return nil
		}
		b, err := r.open(bucketAudit, k, v)
		if err == nil {
			seq, record = last, bytes.Clone(b)
		}
		return err
	})
	return seq, record, err
}

// lastAudit returns the newest audit record that is there, as bbolt has it, or
// nil.
func (r *reader) lastAudit() (id, value []byte) {
	b := r.tx.Bucket(bucketAudit)
	if b == nil {
		return nil, nil
	}
	return b.Cursor().Last()
}

// noteAudit notes the number of the newest audit record, so that one that goes
// without being trimmed is missed.
func (t *tx) noteAudit(seq uint64) error {
	t.inside = true
	err := putCommits(t.tx.Bucket(bucketMeta), t.tagger, t.s.commits, seq)
	t.inside = false
	return storageError(t.s.path, err)
}

// countCommit notes the number of the commit that is to come.
func (t *tx) countCommit() error {
	meta := t.tx.Bucket(bucketMeta)
	_, noted, err := readCommits(t.s.path, meta, t.tagger)
	if err != nil {
		return err
	}
	if noted == nil { // the database is older than the note
		noted = new(uint64)
		if k, _ := t.lastAudit(); k != nil {
			*noted = binary.BigEndian.Uint64(k)
		}
	}
	return putCommits(meta, t.tagger, t.s.commits+1, *noted)
}

// PutAudit implements store.Tx. Number 0 is refused.
func (t *tx) PutAudit(seq uint64, record []byte) error {
	last, _, err := t.LastAudit()
	if err != nil {
		return err
	}
	if seq == 0 || last != 0 && seq != last+1 {
		return fmt.Errorf("audit record %d does not follow %d", seq, last)
	}
	b := make([]byte, len(record), len(record)+tagLen)
	copy(b, record)
	t.inside = true
	t.tx.Bucket(bucketAudit).FillPercent = 0.95 // records are only appended
	t.inside = false
	return errors.Join(t.put(bucketAudit, auditID(seq), b), t.noteAudit(seq))
}

// TrimAudit implements store.Tx.
func (t *tx) TrimAudit(before uint64) error {
	t.inside = true
	var ids [][]byte
	c := t.tx.Bucket(bucketAudit).Cursor()
	end := auditID(before)
	for k, _ := c.First(); k != nil && bytes.Compare(k, end) < 0 && len(ids) < trimAtOnce; k, _ = c.Next() {
		ids = append(ids, bytes.Clone(k))
	}
	t.inside = false
	if err := t.deleteAll(bucketAudit, ids); err != nil {
		return err
	}
	t.inside = true
	left, _ := t.lastAudit()
	t.inside = false
	if left == nil {
		return t.noteAudit(0)
	}
	return nil
}

func (t *tx) deleteAll(bucket []byte, ids [][]byte) error {
	for _, id := range ids {
		if err := t.delete(bucket, id); err != nil {
			return err
		}
	}
	return nil
}

func auditID(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
