package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// trimAtOnce is how many audit records a call of TrimAudit deletes at most.
const trimAtOnce = 10_000

// Audit implements store.Reader. yield must not write audit records.
func (r *reader) Audit(after uint64, yield func(seq uint64, record []byte) bool) error {
	if after+1 == 0 {
		return nil
	}
	r.inside = true
	defer func() { r.inside = false }()
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
}

// LastAudit implements store.Reader.
func (r *reader) LastAudit() (seq uint64, record []byte, err error) {
	r.inside = true
	defer func() { r.inside = false }()
	b := r.tx.Bucket(bucketAudit)
	if b == nil {
		return 0, nil, nil
	}
	k, v := b.Cursor().Last()
	if k == nil {
		return 0, nil, nil
	}
	if record, err = r.open(bucketAudit, k, v); err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint64(k), bytes.Clone(record), nil
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
	return t.put(bucketAudit, auditID(seq), b)
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
	return t.deleteAll(bucketAudit, ids)
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
