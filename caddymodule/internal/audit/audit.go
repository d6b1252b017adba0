// Package audit makes and checks the records of the audit trail. Each record
// is authenticated together with the one before it, so that a record that was
// changed, left out or moved is found. It does no I/O.
package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// ErrBroken reports a record that was changed, left out or moved. Errors that
// wrap it name the number of the first such record.
var ErrBroken = errors.New("the audit trail is broken")

// Chain makes records. It is safe for concurrent use.
type Chain struct{ key [32]byte }

// NewChain returns the Chain of a key, which must serve no other purpose.
func NewChain(key [32]byte) *Chain { return &Chain{key} }

// line is a record: one line of JSON.
type line struct {
	Entry json.RawMessage `json:"entry"`
	Prev  string          `json:"prev"` // hex MAC of the record before; empty for the first of all
	MAC   string          `json:"mac"`  // hex
}

// Record makes the record that follows prev, the newest record, whose number
// is prevSeq; 0 and nil if there is none. It sets e.Seq and returns that
// number. It returns an error for a prev that is no record, and for an entry
// whose Before or After is no JSON.
func (c *Chain) Record(prevSeq uint64, prev []byte, e *access.AuditEntry) (seq uint64, record []byte, err error) {
	var last line
	if prevSeq > 0 {
		if last, err = parse(prev); err != nil {
			return 0, nil, fmt.Errorf("audit record %d: %w", prevSeq, err)
		}
	}
	e.Seq = prevSeq + 1
	entry, err := json.Marshal(e)
	if err != nil {
		return 0, nil, fmt.Errorf("writing an audit entry: %w", err)
	}
	return e.Seq, encode(line{Entry: entry, Prev: last.MAC, MAC: c.mac(last.MAC, entry)}), nil
}

// Read returns the entry of a record without checking its MAC. It returns an
// error that wraps ErrBroken for bytes that are no record.
func Read(record []byte) (access.AuditEntry, error) {
	l, err := parse(record)
	if err != nil {
		return access.AuditEntry{}, err
	}
	var e access.AuditEntry
	if err := json.Unmarshal(l.Entry, &e); err != nil {
		return access.AuditEntry{}, ErrBroken
	}
	return e, nil
}

// Verifier checks a trail, record by record. It is for one goroutine.
type Verifier struct {
	chain *Chain
	seq   uint64
	mac   string
}

// NewVerifier returns a Verifier of the trail that c made. The first record
// that is added may have any number: what came before it may have been trimmed.
func NewVerifier(c *Chain) *Verifier { return &Verifier{chain: c} }

// Add checks that a record is genuine, bears the number it is stored under,
// and follows the one added before. Otherwise it returns an error that wraps
// ErrBroken and names the number at fault; what is added then means nothing.
func (v *Verifier) Add(seq uint64, record []byte) error {
	if v.seq > 0 && seq != v.seq+1 {
		return fmt.Errorf("%w: record %d is missing, %d follows %d", ErrBroken, v.seq+1, seq, v.seq)
	}
	l, err := parse(record)
	if err != nil {
		return fmt.Errorf("%w: record %d is unreadable", ErrBroken, seq)
	}
	e, err := Read(record)
	switch {
	case err != nil:
		return fmt.Errorf("%w: record %d is unreadable", ErrBroken, seq)
	case !hmac.Equal([]byte(l.MAC), []byte(v.chain.mac(l.Prev, l.Entry))):
		return fmt.Errorf("%w: record %d was changed", ErrBroken, seq)
	case e.Seq != seq:
		return fmt.Errorf("%w: record %d was made as number %d", ErrBroken, seq, e.Seq)
	case seq == 1 && l.Prev != "", v.seq > 0 && l.Prev != v.mac:
		return fmt.Errorf("%w: record %d does not follow the one before it", ErrBroken, seq)
	}
	v.seq, v.mac = seq, l.MAC
	return nil
}

// Last returns the number of the record that was added last; 0 if none was.
func (v *Verifier) Last() uint64 { return v.seq }

func (c *Chain) mac(prev string, entry []byte) string {
	h := hmac.New(sha256.New, c.key[:])
	// The length keeps the border between the two fixed.
	fmt.Fprintf(h, "%d\n%s", len(prev), prev)
	h.Write(entry)
	return hex.EncodeToString(h.Sum(nil))
}

func encode(l line) []byte {
	b := make([]byte, 0, len(l.Entry)+len(l.Prev)+len(l.MAC)+32)
	b = append(b, `{"entry":`...)
	b = append(b, l.Entry...)
	b = append(b, `,"prev":"`...)
	b = append(b, l.Prev...)
	b = append(b, `","mac":"`...)
	b = append(b, l.MAC...)
	return append(b, `"}`...)
}

// parse takes the bytes of encode and no others, so that each byte of a record
// is either under the MAC or fixed.
func parse(record []byte) (line, error) {
	var l line
	if json.Unmarshal(record, &l) != nil || !bytes.Equal(encode(l), record) {
		return line{}, ErrBroken
	}
	return l, nil
}
