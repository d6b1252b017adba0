package engine

import (
	"encoding/binary"
	"sync"

	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

const flightShards = 64

// flightShard counts requests under way.
type flightShard struct {
	mu    sync.Mutex
	count map[flightID]int32
	_     [48]byte // shards in cache lines of their own
}

// flightID is one rule's count for one subject.
type flightID struct {
	class   uint64
	subject limit.Subject
}

// Flight is a request that counts as under way until Done.
type Flight struct {
	shard *flightShard
	id    flightID
}

// Enter counts a request as under way for a subject under a rule, and reports
// whether there are at most max with it; if not it is not counted.
func (m *Metering) Enter(class uint64, subject limit.Subject, max int) (Flight, bool) {
	id := flightID{class, subject}
	s := &m.flightShards[binary.LittleEndian.Uint64(subject[:8])%flightShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.count[id]
	if int(n) >= max {
		return Flight{}, false
	}
	if s.count == nil {
		s.count = make(map[flightID]int32)
	}
	s.count[id] = n + 1
	return Flight{s, id}, true
}

// Done ends a flight. The zero Flight is none.
func (f Flight) Done() {
	if f.shard == nil {
		return
	}
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	if n := f.shard.count[f.id]; n > 1 {
		f.shard.count[f.id] = n - 1
	} else {
		delete(f.shard.count, f.id)
	}
}
