package limit

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"
)

// A snapshot is, in little-endian order:
//
//	magic    4 bytes "KTLB"
//	version  uint32, 1
//	over     64 × int64, debts of the overflow buckets
//	count    uint64, number of entries
//	entries  count × (class uint64, subject [16]byte, debt int64)
//	check    uint32, CRC-32C of all before
const (
	snapshotMagic   = "KTLB"
	snapshotVersion = 1
	snapshotEntry   = 8 + 16 + 8
	overSize        = 64 * 8
	snapshotHead    = 4 + 4 + overSize + 8
	snapshotCheck   = 4
)

// Errors of Restore.
var (
	// ErrSnapshot reports data that is no whole, undamaged snapshot.
	ErrSnapshot = errors.New("not a snapshot of rate limits, or a damaged one")
	// ErrSnapshotVersion reports a snapshot of another version.
	ErrSnapshotVersion = errors.New("rate limit snapshot of an unknown version")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot returns the debts of all buckets in the table that owe something.
// It locks one shard at a time: each bucket is read at one moment, and requests
// that pass meanwhile may be missing. Slots are not part of it.
func (l *Limiter) Snapshot(now int64) []byte {
	now = clampNow(now)
	le := binary.LittleEndian
	b := make([]byte, snapshotHead, snapshotHead+snapshotCheck+l.Len()*snapshotEntry)
	copy(b, snapshotMagic)
	le.PutUint32(b[4:], snapshotVersion)
	var over [64]int64
	for i := range l.shards {
		b = l.shards[i].appendTo(b, now, &over)
	}
	for i, debt := range over {
		le.PutUint64(b[8+8*i:], uint64(debt))
	}
	le.PutUint64(b[8+overSize:], uint64((len(b)-snapshotHead)/snapshotEntry))
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// appendTo appends the shard's live entries and raises over to its overflow
// debts. Which shard a subject is in differs between processes, so the highest
// debt has to stand for all.
func (s *shard) appendTo(b []byte, now int64, over *[64]int64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, tat := range s.over {
		over[i] = max(over[i], min(tat-now, maxSpan))
	}
	for i := range s.entries {
		e := &s.entries[i]
		if e.tat <= now {
			continue
		}
		b = binary.LittleEndian.AppendUint64(b, e.class)
		b = append(b, e.subject[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(min(e.tat-now, maxSpan)))
	}
	return b
}

// Restore adds the debts of a snapshot to the table, less the time elapsed
// since it was taken; a negative time counts as none. A bucket that already
// owes more keeps its debt, and what does not fit goes to overflow. It returns
// ErrSnapshot or ErrSnapshotVersion for data that it cannot use; then nothing
// has changed.
func (l *Limiter) Restore(now int64, elapsed time.Duration, data []byte) error {
	if err := checkSnapshot(data); err != nil {
		return err
	}
	now = clampNow(now)
	gone := int64(max(elapsed, 0))
	le := binary.LittleEndian
	for c := range 64 {
		if debt := int64(le.Uint64(data[8+8*c:])) - gone; debt > 0 {
			l.raise(c, now+debt)
		}
	}
	for b := data[snapshotHead : len(data)-snapshotCheck]; len(b) > 0; b = b[snapshotEntry:] {
		if debt := int64(le.Uint64(b[24:])) - gone; debt > 0 {
			l.insert(entry{le.Uint64(b), Subject(b[8:24]), now + debt}, now)
		}
	}
	return nil
}

// checkSnapshot reads all of data before any of it is used.
func checkSnapshot(data []byte) error {
	le := binary.LittleEndian
	if len(data) < snapshotHead+snapshotCheck || string(data[:4]) != snapshotMagic {
		return ErrSnapshot
	}
	if le.Uint32(data[4:]) != snapshotVersion {
		return ErrSnapshotVersion
	}
	body := data[:len(data)-snapshotCheck]
	entries := body[snapshotHead:]
	if len(entries)%snapshotEntry != 0 || le.Uint64(data[8+overSize:]) != uint64(len(entries)/snapshotEntry) ||
		le.Uint32(data[len(body):]) != crc32.Checksum(body, castagnoli) {
		return ErrSnapshot
	}
	for i := range 64 {
		if le.Uint64(data[8+8*i:]) > uint64(maxSpan) {
			return ErrSnapshot
		}
	}
	for ; len(entries) > 0; entries = entries[snapshotEntry:] {
		if debt := le.Uint64(entries[24:]); debt == 0 || debt > uint64(maxSpan) {
			return ErrSnapshot
		}
	}
	return nil
}

// raise lifts one class of overflow buckets in every shard.
func (l *Limiter) raise(class int, tat int64) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		s.over[class] = max(s.over[class], tat)
		s.mu.Unlock()
	}
}

// insert puts an entry into the table, or the higher of two for one bucket.
func (l *Limiter) insert(e entry, now int64) {
	h := l.hash(e.class, e.subject)
	s := &l.shards[l.shardOf(h)]
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if at, _ := s.find(h, e.class, e.subject, now); at >= 0 || !s.grow(l, now) {
			break
		}
	}
	s.place(h, e, now)
}
