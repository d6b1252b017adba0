package credit

import (
	"hash/maphash"
	"runtime"
	"sync"
	"weak"
)

const shards = 64

// cache finds purses. It keeps a bounded number alive by itself, and knows all
// others for as long as somebody has them: a subject never has two purses,
// whose locks would be two.
type cache[K comparable] struct {
	seed  maphash.Seed
	shard [shards]shard[K]
}

type shard[K comparable] struct {
	mu   sync.Mutex
	live map[K]weak.Pointer[Purse]
	ring []*Purse // kept alive
	keep int      // most of them
	hand int      // next to be let go unless it is fresh
	_    [64]byte
}

func (c *cache[K]) init(keep int) {
	c.seed = maphash.MakeSeed()
	for i := range c.shard {
		c.shard[i].live = make(map[K]weak.Pointer[Purse])
		c.shard[i].keep = max(keep/shards, 1)
	}
}

func (c *cache[K]) of(k K) *shard[K] { return &c.shard[maphash.Comparable(c.seed, k)%shards] }

// get returns the purse of k, or nil.
func (c *cache[K]) get(k K) *Purse {
	s := c.of(k)
	s.mu.Lock()
	p := s.live[k].Value()
	s.mu.Unlock()
	if p != nil && !p.fresh.Load() {
		p.fresh.Store(true)
	}
	return p
}

// put adds a purse, unless k has one meanwhile, and returns the one it has.
func (c *cache[K]) put(k K, p *Purse) *Purse {
	s := c.of(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.live[k].Value(); have != nil {
		return have
	}
	s.live[k] = weak.Make(p)
	runtime.AddCleanup(p, s.forget, k)
	s.hold(p)
	return p
}

// hold keeps p alive in place of the first that nobody asked for lately.
func (s *shard[K]) hold(p *Purse) {
	if len(s.ring) < s.keep {
		s.ring = append(s.ring, p)
		return
	}
	for s.ring[s.hand].fresh.Swap(false) {
		s.hand = (s.hand + 1) % len(s.ring)
	}
	s.ring[s.hand] = p
	s.hand = (s.hand + 1) % len(s.ring)
}

// forget drops the entry of a purse that is gone, unless there is a new one.
func (s *shard[K]) forget(k K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[k].Value() == nil {
		delete(s.live, k)
	}
}
