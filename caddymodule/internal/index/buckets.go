package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// The form of a snapshot: the magic, whose last byte is the version; for each
// bucket the 16 bytes of the key id and 8 of the debt in nanoseconds; the
// CRC-32C of all that. Numbers are big endian.
const (
	bucketMagic = "ktb\x01"
	bucketLen   = 16 + 8
	bucketTail  = 4

	// maxDebt is more than any valid rate owes: a full bucket takes at most ten
	// years of 366 days.
	maxDebt = 11 * 366 * 24 * time.Hour
)

// ErrBuckets reports bytes that SnapshotBuckets did not write, or that were
// damaged since.
var ErrBuckets = errors.New("not a snapshot of token buckets")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SnapshotBuckets returns the debts of the buckets of all keys that have any,
// for RestoreBuckets. now is the limiter's clock, in nanoseconds. It may run
// beside everything else; each bucket is then as of some moment of the call.
func (x *Index) SnapshotBuckets(now int64) []byte {
	b := []byte(bucketMagic)
	for r := range x.Keys {
		if debt := r.Bucket.Debt(now); debt > 0 {
			b = append(b, r.ID[:]...)
			b = binary.BigEndian.AppendUint64(b, uint64(debt))
		}
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// RestoreBuckets gives the keys back the debts in data, less what was regained
// since they were written: elapsed, of which less than nothing counts as
// nothing. now is the limiter's clock, in nanoseconds. Keys that are gone are
// passed over, and a key that owes more already keeps its debt. It returns
// ErrBuckets, wrapped, and changes nothing if data is malformed. It belongs
// before the first request: a request that runs beside it may be forgotten by
// its bucket.
func (x *Index) RestoreBuckets(now int64, elapsed time.Duration, data []byte) error {
	entries, err := checkBuckets(data)
	if err != nil {
		return err
	}
	regained := int64(max(elapsed, 0))
	for ; len(entries) > 0; entries = entries[bucketLen:] {
		debt := int64(binary.BigEndian.Uint64(entries[16:])) - regained
		if debt <= 0 {
			continue
		}
		r := x.ByID(access.KeyID(entries[:16]))
		if r != nil && r.Bucket.Debt(now) < debt {
			r.Bucket.Restore(now, debt)
		}
	}
	return nil
}

// checkBuckets returns the entries of a snapshot.
func checkBuckets(data []byte) ([]byte, error) {
	n := len(data) - bucketTail
	if n < len(bucketMagic) || string(data[:3]) != bucketMagic[:3] {
		return nil, ErrBuckets
	}
	if data[3] != bucketMagic[3] {
		return nil, fmt.Errorf("%w: version %d is not known", ErrBuckets, data[3])
	}
	if crc32.Checksum(data[:n], castagnoli) != binary.BigEndian.Uint32(data[n:]) {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrBuckets)
	}
	entries := data[len(bucketMagic):n]
	if len(entries)%bucketLen != 0 {
		return nil, fmt.Errorf("%w: its last entry is cut short", ErrBuckets)
	}
	for e := entries; len(e) > 0; e = e[bucketLen:] {
		if debt := binary.BigEndian.Uint64(e[16:]); debt == 0 || debt > uint64(maxDebt) {
			return nil, fmt.Errorf("%w: a debt of %d ns is not possible", ErrBuckets, debt)
		}
	}
	return entries, nil
}
