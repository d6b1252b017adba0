package limit

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"sync"
	"time"
)

const (
	// window is how many places, from its home on, an entry may stand in.
	window = 16
	// firstSize is the number of entries a shard starts with.
	firstSize = 8
	// grace is how long an entry is kept after it is full. It covers the time
	// between a goroutine's reading of the clock and its turn here, so that
	// the floor left by a reclaimed entry is behind every request.
	grace = int64(time.Second)
)

// entry is a bucket of the table. A zero TAT is a place never used.
type entry struct {
	class   uint64
	subject Subject
	tat     int64
}

// shard is a part of the table: open addressing within a window. Places once
// used never become empty again, only reusable, so a search may end at the
// first empty one.
//
// What is known of absent subjects is kept in floor and over: at any time
// max(floor, over[class of its rate]) is at least the TAT that a subject's own
// bucket would have. New buckets start from there, and so going through
// overflow or being reclaimed never wins a subject a token.
type shard struct {
	mu      sync.Mutex
	entries []entry
	floor   int64     // highest TAT of reclaimed entries
	over    [64]int64 // TATs of the overflow buckets, by gauge.class
}

func (l *Limiter) hash(class uint64, subject Subject) uint64 {
	var key [24]byte
	binary.LittleEndian.PutUint64(key[:], class)
	copy(key[8:], subject[:])
	return maphash.Bytes(l.seed, key[:])
}

func (l *Limiter) shardOf(hash uint64) int { return int(hash >> l.shift) }

// find returns the place of a bucket. If there is none, it returns the place
// where it may be put, or -1.
func (s *shard) find(hash uint64, class uint64, subject Subject, now int64) (at int, found bool) {
	n := len(s.entries)
	at = -1
	for i := range min(window, n) {
		p := (int(hash) + i) & (n - 1)
		e := &s.entries[p]
		if e.tat == 0 {
			if at < 0 {
				at = p
			}
			break
		}
		if e.class == class && e.subject == subject {
			return p, true
		}
		if at < 0 && e.tat+grace <= now {
			at = p
		}
	}
	return at, false
}

// start returns the TAT from which a bucket that is not in the table starts.
func (s *shard) start(class int) int64 { return max(s.floor, s.over[class]) }

// claim makes place at free for another bucket.
func (s *shard) claim(at int) { s.floor = max(s.floor, s.entries[at].tat) }

// grow doubles the shard, without the entries that are full again. It returns
// false if the shard has its full size.
func (s *shard) grow(l *Limiter, now int64) bool {
	old := s.entries
	if len(old) >= l.limit {
		return false
	}
	s.entries = make([]entry, min(max(2*len(old), firstSize), l.limit))
	for i := range old {
		e := &old[i]
		if e.tat+grace <= now {
			s.floor = max(s.floor, e.tat)
			continue
		}
		if e.tat > 0 {
			s.place(l.hash(e.class, e.subject), *e, now)
		}
	}
	return true
}

// place puts an entry into the table without growing it, or into overflow.
func (s *shard) place(hash uint64, e entry, now int64) {
	at, found := s.find(hash, e.class, e.subject, now)
	switch {
	case found:
		s.entries[at].tat = max(s.entries[at].tat, e.tat)
	case at >= 0:
		s.claim(at)
		s.entries[at] = e
	default:
		s.spill(now, e.tat)
	}
}

// spill books the TAT of a bucket of unknown rate on overflow: on every class
// whose buckets can owe that much.
func (s *shard) spill(now, tat int64) {
	for c := bits.Len64(uint64(max(tat-now, 0))); c < len(s.over); c++ {
		s.over[c] = max(s.over[c], tat)
	}
}

// live counts the entries that owe something.
func (s *shard) live(now int64) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.entries {
		if s.entries[i].tat > now {
			n++
		}
	}
	return n
}
