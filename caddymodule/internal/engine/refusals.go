package engine

import (
	"encoding/binary"
	"sync"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Bounds of Refusals.
const (
	refusalShards   = 16
	refusalsInShard = 4096
)

// Refusal is why and when a request of a key was refused.
type Refusal struct {
	Reason access.Reason
	At     int64 // unix seconds
}

// Refusals keeps the last refusal of the keys refused lately, at most 65,536 of
// them: past that some are forgotten. They do not outlive the process. It is
// safe for concurrent use.
type Refusals struct{ shards [refusalShards]refusalShard }

type refusalShard struct {
	mu   sync.Mutex
	last map[access.KeyID]Refusal
	_    [48]byte // shards in cache lines of their own
}

// Last returns the last refusal of a key, or ok = false.
func (f *Refusals) Last(id access.KeyID) (last Refusal, ok bool) {
	s := &f.shards[spread(&id)%refusalShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok = s.last[id]
	return last, ok
}

func (f *Refusals) put(id access.KeyID, r Refusal) {
	s := &f.shards[spread(&id)%refusalShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = make(map[access.KeyID]Refusal)
	}
	if len(s.last) >= refusalsInShard {
		if _, there := s.last[id]; !there {
			for other := range s.last {
				delete(s.last, other)
				break
			}
		}
	}
	s.last[id] = r
}

// spread is a number that is another for most ids.
func spread(id *access.KeyID) uint64 {
	n := binary.LittleEndian.Uint64(id[:8])*31 + binary.LittleEndian.Uint64(id[8:])
	return n * 0x9e3779b97f4a7c15 >> 40
}
