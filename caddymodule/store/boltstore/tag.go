package boltstore

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"

	"github.com/keytoll/keytoll/caddymodule/token"
)

const tagLen = 16

// tagger computes record tags. It is for one goroutine and does not allocate
// once warm.
type tagger struct {
	mac hash.Hash
	buf []byte
	sum [sha256.Size]byte
}

func newTagger(key [32]byte) *tagger {
	return &tagger{mac: hmac.New(sha256.New, key[:]), buf: make([]byte, 0, 64)}
}

// tag returns the tag of a record; it is overwritten by the next call.
func (t *tagger) tag(bucket, id, record []byte) []byte {
	// Lengths stand before the parts, so that no two splits look alike.
	t.buf = append(t.buf[:0], byte(len(bucket)))
	t.buf = append(t.buf, bucket...)
	t.buf = le.AppendUint16(t.buf, uint16(len(id)))
	t.buf = append(t.buf, id...)
	t.mac.Reset()
	t.mac.Write(t.buf)
	t.mac.Write(record)
	return t.mac.Sum(t.sum[:0])[:tagLen]
}

// seal returns the record with its tag appended.
func (t *tagger) seal(bucket, id, record []byte) []byte {
	return append(record, t.tag(bucket, id, record)...)
}

// open returns the record of a stored value, or false if its tag is wrong.
func (t *tagger) open(bucket, id, value []byte) ([]byte, bool) {
	n := len(value) - tagLen
	if n < 0 {
		return nil, false
	}
	record := value[:n:n]
	return record, hmac.Equal(t.tag(bucket, id, record), value[n:])
}

// checkValue tells whether a database was made with m, and nothing of m.
func checkValue(m token.Master) []byte {
	key := m.Derive("master key check")
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte("keytoll database"))
	return mac.Sum(nil)
}
