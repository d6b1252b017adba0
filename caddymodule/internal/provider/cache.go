package provider

import (
	"container/list"
	"sync"
	"time"
)

// Cache keeps keys that were unsealed, for a while, and overwrites its bytes
// when it lets go of one. What Get returns is a copy, as the headers of requests
// are: those live until the garbage collector takes them. It is safe for
// concurrent use.
type Cache struct {
	max  int
	life time.Duration
	now  func() time.Time

	mu      sync.Mutex
	epoch   uint64         // counts Drop; Wipe adds lately to it
	dropped [lately]string // ids of the last drops, that of epoch n at n modulo lately
	entries map[string]*list.Element
	order   *list.List // of *entry, the one used last in front
}

// lately is how many drops Put can look back on: one tenant that stores and
// deletes keys all the time must not keep those of others out of the cache.
const lately = 1024

type entry struct {
	id   string
	key  []byte
	used time.Time
}

// NewCache returns a Cache for so many keys, 1 at least, each until it was not used
// for life.
func NewCache(keys int, life time.Duration, now func() time.Time) *Cache {
	return &Cache{
		max: max(keys, 1), life: life, now: now,
		entries: make(map[string]*list.Element), order: list.New(),
	}
}

// Get returns a copy of the key that is kept under an id.
func (c *Cache) Get(id string) (key string, ok bool) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[id]
	if el == nil {
		return "", false
	}
	e := el.Value.(*entry)
	if now.Sub(e.used) >= c.life {
		c.remove(el)
		return "", false
	}
	e.used = now
	c.order.MoveToFront(el)
	return string(e.key), true
}

// Epoch returns what Put wants: it must be called before what is put is read
// from the store.
func (c *Cache) Epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// Put keeps a copy of a key and reports whether it did: it does not if the key
// was, or may have been, dropped since Epoch returned epoch, for it would then
// live on after it was deleted. It lets go of the key that was used longest ago if
// there are too many.
func (c *Cache) Put(epoch uint64, id string, key []byte) bool {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch-epoch >= lately {
		return false
	}
	for ; epoch != c.epoch; epoch++ {
		if c.dropped[(epoch+1)%lately] == id {
			return false
		}
	}
	if el := c.entries[id]; el != nil {
		c.remove(el)
	}
	for len(c.entries) >= c.max {
		c.remove(c.order.Back())
	}
	e := &entry{id: id, key: append(make([]byte, 0, len(key)), key...), used: now}
	c.entries[id] = c.order.PushFront(e)
	return true
}

// Drop lets go of a key. It must be called after the store has let go of it.
func (c *Cache) Drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.dropped[c.epoch%lately] = id
	if el := c.entries[id]; el != nil {
		c.remove(el)
	}
}

// Wipe lets go of all keys.
func (c *Cache) Wipe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch += lately
	for el := c.order.Back(); el != nil; el = c.order.Back() {
		c.remove(el)
	}
}

// Sweep lets go of the keys that were not used for their life. Get does not
// return them anyway; Sweep takes them out of memory.
func (c *Cache) Sweep() {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for el := c.order.Back(); el != nil && now.Sub(el.Value.(*entry).used) >= c.life; el = c.order.Back() {
		c.remove(el)
	}
}

// remove takes out an entry and overwrites its key.
func (c *Cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*entry)
	delete(c.entries, e.id)
	clear(e.key)
}
