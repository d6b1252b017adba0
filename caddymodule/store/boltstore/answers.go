package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/keytoll/keytoll/caddymodule/store"
)

// Answer implements store.Reader.
func (r *reader) Answer(id [32]byte) (expires int64, sealed []byte, err error) {
	b, err := r.get(bucketAnswers, id[:])
	if err != nil {
		return 0, nil, err
	}
	if b == nil {
		return 0, nil, fmt.Errorf("answer: %w", store.ErrNotFound)
	}
	if len(b) < 8 {
		return 0, nil, damaged(r.s.path, "answer: %v", errRecord)
	}
	r.inside = true
	expires, sealed = int64(binary.BigEndian.Uint64(b)), bytes.Clone(b[8:])
	r.inside = false
	return expires, sealed, nil
}

// PutAnswer implements store.Tx. It refuses a time before 1970.
func (t *tx) PutAnswer(id [32]byte, expires int64, sealed []byte) error {
	if expires < 0 {
		return fmt.Errorf("answer until %d %w", expires, errUnstorable)
	}
	old, err := t.get(bucketAnswers, id[:])
	if err != nil {
		return err
	}
	if len(old) >= 8 {
		end := append(bytes.Clone(old[:8]), id[:]...)
		if err := t.delete(bucketAnswerEnds, end); err != nil {
			return err
		}
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(sealed)+tagLen), uint64(expires))
	end := append(bytes.Clone(b), id[:]...)
	if err := t.put(bucketAnswers, id[:], append(b, sealed...)); err != nil {
		return err
	}
	t.inside = true
	err = t.tx.Bucket(bucketAnswerEnds).Put(end, nil)
	t.inside = false
	return storageError(t.s.path, err)
}

// TrimAnswers implements store.Tx.
func (t *tx) TrimAnswers(now int64, max int) (int, error) {
	t.inside = true
	var ends [][]byte
	c := t.tx.Bucket(bucketAnswerEnds).Cursor()
	for k, _ := c.First(); k != nil && len(k) == 8+32 && len(ends) < max; k, _ = c.Next() {
		if int64(binary.BigEndian.Uint64(k)) > now {
			break
		}
		ends = append(ends, bytes.Clone(k))
	}
	t.inside = false
	for _, end := range ends {
		if err := t.delete(bucketAnswers, end[8:]); err != nil {
			return 0, err
		}
	}
	return len(ends), t.deleteAll(bucketAnswerEnds, ends)
}
