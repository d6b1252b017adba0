package usage

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// shards is a power of two.
const shards = 64

// minSlots is what a table begins with, a power of two.
const minSlots = 64

// table counts the series of one minute, in one shard. It finds them by open
// addressing over words of their own, so that a series that is not there costs
// one look at memory, and one that is there two. The rows lie apart, and a new
// one costs no allocation once the table has grown.
type table struct {
	minute uint32
	number *number
	seed   maphash.Seed
	mix    uint64
	slots  []uint64 // low half of the hash, and the row's number plus one; 0 is free
	shift  uint8    // of a hash, leaves the slot to begin at
	rows   []counts // at most half of the slots
}

// counts are those of one series.
type counts struct {
	series Series
	values Values
}

func newTable(seed maphash.Seed) *table {
	t := &table{seed: seed, mix: maphash.String(seed, "") | 1}
	t.resize(minSlots)
	return t
}

// hash spreads series: those of one key by class, route and, for OtherKey,
// tenant, and all others by key.
func (t *table) hash(s *Series) uint64 {
	if s.Key == OtherKey {
		return t.hashOther(s, maphash.String(t.seed, s.Tenant))
	}
	return t.hashOther(s, 0)
}

// hashOther is hash for who knows that of the tenant, which is 0 unless the key
// is OtherKey.
func (t *table) hashOther(s *Series, tenant uint64) uint64 {
	h := t.mix*spread(&s.Key) ^ uint64(s.Class)<<8 ^ uint64(s.Flags) ^ maphash.String(t.seed, s.Route)
	return (h ^ bits.RotateLeft64(tenant, 2)) * golden
}

// golden is 2^64 by the golden ratio.
const golden = 0x9e3779b97f4a7c15

// spread makes one number of an id. Ids are random, and so it is too.
func spread(id *access.KeyID) uint64 {
	lo, hi := be.Uint64(id[:8]), be.Uint64(id[8:])
	return (lo ^ bits.RotateLeft64(hi, 32)) * golden
}

// find returns the values of s, or nil.
func (t *table) find(s *Series, hash uint64) *Values {
	for at := hash >> t.shift; ; at++ {
		w := t.slots[at&uint64(len(t.slots)-1)]
		if w == 0 {
			return nil
		}
		if w>>32 == hash&math.MaxUint32 {
			if c := &t.rows[uint32(w)-1]; c.series == *s {
				return &c.values
			}
		}
	}
}

// resize makes n slots, a power of two, and enters all rows.
func (t *table) resize(n int) {
	t.slots, t.shift = make([]uint64, n), uint8(64-bits.TrailingZeros(uint(n)))
	for i := range t.rows {
		t.enter(t.hash(&t.rows[i].series), i)
	}
}

func (t *table) enter(hash uint64, row int) {
	at := hash >> t.shift
	for t.slots[at&uint64(len(t.slots)-1)] != 0 {
		at++
	}
	t.slots[at&uint64(len(t.slots)-1)] = hash<<32 | uint64(row+1)
}

// number is how many series a minute has, in all shards.
type number struct{ series, other atomic.Int64 }

type shard struct {
	mu     sync.Mutex
	live   *table
	sealed []*table // of other minutes
	spare  []*table // empty
	_      [48]byte
}

// shardOf returns the shard of a key.
func shardOf(id *access.KeyID) uint64 { return spread(id) >> (64 - 6) }

// row returns the values of s, which it adds within the bound; nil beyond.
func (t *table) row(s *Series, bound int64) *Values {
	hash := t.hash(s)
	if v := t.find(s, hash); v != nil {
		return v
	}
	n := &t.number.series
	if s.Key == OtherKey { // of a level below
		n = &t.number.other
	}
	if reserve(n, bound) {
		return t.add(s, hash)
	}
	return nil
}

// other returns the values of what stands for s beyond the bound. tenant is the
// hash of the tenant's name.
func (t *table) other(s *Series, tenant uint64, bound int64) *Values {
	o := s.other()
	hash := t.hashOther(&o, tenant)
	if v := t.find(&o, hash); v != nil {
		return v
	}
	if reserve(&t.number.other, bound) {
		return t.add(&o, hash)
	}
	o = s.nobody()
	hash = t.hash(&o)
	if v := t.find(&o, hash); v != nil {
		return v
	}
	return t.add(&o, hash)
}

// has reports whether s has a row.
func (t *table) has(s *Series) bool { return t.find(s, t.hash(s)) != nil }

func (t *table) add(s *Series, hash uint64) *Values {
	if 2*(len(t.rows)+1) > len(t.slots) {
		t.resize(2 * len(t.slots))
	}
	i := len(t.rows)
	t.rows = append(t.rows, counts{series: s.own()})
	t.enter(hash, i)
	return &t.rows[i].values
}

func reserve(n *atomic.Int64, bound int64) bool {
	if n.Load() >= bound {
		return false
	}
	if n.Add(1) <= bound {
		return true
	}
	n.Add(-1)
	return false
}

// counter returns the number of series of a minute.
func (r *Recorder) counter(minute uint32) *number {
	r.numbersMu.Lock()
	defer r.numbersMu.Unlock()
	n := r.numbers[minute]
	if n == nil {
		n = new(number)
		r.numbers[minute] = n
	}
	return n
}

// forgetNumbers has all minutes begin anew.
func (r *Recorder) forgetNumbers() {
	r.numbersMu.Lock()
	defer r.numbersMu.Unlock()
	clear(r.numbers)
}

// turn returns a table for another minute than the live one's. A later minute's
// becomes the live one. If so many sealed ones wait for a flush that there can be
// no more, that is the live one as it is. The lock is held.
func (r *Recorder) turn(s *shard, minute uint32) *table {
	for _, t := range s.sealed {
		if t.minute == minute {
			return t
		}
	}
	if s.live != nil && len(s.live.rows) > 0 && len(s.sealed) >= r.o.Backlog {
		return s.live
	}
	t := s.live
	if t == nil || len(t.rows) > 0 {
		t = s.empty(r.seed)
	}
	t.minute, t.number = minute, r.counter(minute)
	switch {
	case s.live == nil || s.live == t:
		s.live = t
	case minute < s.live.minute:
		s.sealed = append(s.sealed, t)
	default:
		s.sealed = append(s.sealed, s.live)
		s.live = t
	}
	return t
}

func (s *shard) empty(seed maphash.Seed) *table {
	if n := len(s.spare); n > 0 {
		t := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return t
	}
	return newTable(seed)
}

// take gives up what the shard counted, for a flush.
func (s *shard) take() []*table {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.sealed
	s.sealed = nil
	if s.live != nil && len(s.live.rows) > 0 {
		out = append(out, s.live)
		s.live = nil
	}
	return out
}

// giveBack empties a table that was flushed and keeps it for a later minute.
func (s *shard) giveBack(t *table) {
	clear(t.slots)
	clear(t.rows) // no strings are kept
	t.rows, t.number = t.rows[:0], nil
	s.mu.Lock()
	if len(s.spare) < 2 {
		s.spare = append(s.spare, t)
	}
	s.mu.Unlock()
}
