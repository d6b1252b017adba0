package usage

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// shards is a power of two.
const shards = 64

// table counts the series of one minute, in one shard. The values lie apart from
// the map so that a new series costs no allocation once the table has grown.
type table struct {
	minute uint32
	number *number
	rows   map[Series]uint32
	values []Values
}

// number is how many series a minute has, in all shards.
type number struct {
	minute        uint32
	series, other atomic.Int64
}

type shard struct {
	mu     sync.Mutex
	live   *table
	sealed []*table // of the minutes before, oldest first
	spare  []*table // empty
	_      [48]byte
}

// shardOf spreads keys: their ids are random.
func shardOf(id *access.KeyID) uint64 {
	lo, hi := be.Uint64(id[:8]), be.Uint64(id[8:])
	return (lo ^ bits.RotateLeft64(hi, 32)) * 0x9e3779b97f4a7c15 >> (64 - 6)
}

// row returns the values of s, which it adds within the bound; nil beyond.
func (t *table) row(s *Series, bound int64) *Values {
	if i, ok := t.rows[*s]; ok {
		return &t.values[i]
	}
	n := &t.number.series
	if s.Key == OtherKey { // of a level below
		n = &t.number.other
	}
	if reserve(n, bound) {
		return t.add(*s)
	}
	return nil
}

// other returns the values of what stands for s beyond the bound.
func (t *table) other(s *Series, bound int64) *Values {
	o := s.other()
	if i, ok := t.rows[o]; ok {
		return &t.values[i]
	}
	if reserve(&t.number.other, bound) {
		return t.add(o)
	}
	o = s.nobody()
	if i, ok := t.rows[o]; ok {
		return &t.values[i]
	}
	return t.add(o)
}

func (t *table) add(s Series) *Values {
	i := len(t.values)
	t.rows[s] = uint32(i)
	t.values = append(t.values, Values{})
	return &t.values[i]
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

// counter returns the number of series of a minute. Shards that turn to it at
// the same time share it.
func (r *Recorder) counter(minute uint32) *number {
	for {
		n := r.number.Load()
		if n != nil && n.minute == minute {
			return n
		}
		next := &number{minute: minute}
		if r.number.CompareAndSwap(n, next) {
			return next
		}
	}
}

// turn makes the shard's live table one of this minute, unless so many sealed
// ones wait for a flush that it must go on with the one it has. The lock is held.
func (r *Recorder) turn(s *shard, minute uint32) {
	if s.live != nil && len(s.live.values) > 0 {
		if len(s.sealed) >= r.o.Backlog {
			return
		}
		s.sealed = append(s.sealed, s.live)
		s.live = nil
	}
	if s.live == nil {
		s.live = s.empty()
	}
	s.live.minute, s.live.number = minute, r.counter(minute)
}

func (s *shard) empty() *table {
	if n := len(s.spare); n > 0 {
		t := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return t
	}
	return &table{rows: make(map[Series]uint32)}
}

// take gives up what the shard counted, for a flush.
func (s *shard) take() []*table {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.sealed
	s.sealed = nil
	if s.live != nil && len(s.live.values) > 0 {
		out = append(out, s.live)
		s.live = nil
	}
	return out
}

// giveBack empties a table that was flushed and keeps it for a later minute.
func (s *shard) giveBack(t *table) {
	clear(t.rows)
	t.values, t.number = t.values[:0], nil
	s.mu.Lock()
	if len(s.spare) < 2 {
		s.spare = append(s.spare, t)
	}
	s.mu.Unlock()
}
