package provider

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newCache(keys int) (*Cache, *clock) {
	c := &clock{now: time.Unix(1e9, 0)}
	return NewCache(keys, time.Minute, c.Now), c
}

// bytesOf returns the bytes that the cache holds of a key, not a copy.
func (c *Cache) bytesOf(id string) []byte { return c.entries[id].Value.(*entry).key }

// held returns which of the ids are kept, without using them.
func (c *Cache) held(ids ...string) string {
	var b strings.Builder
	for _, id := range ids {
		if c.entries[id] != nil {
			b.WriteString(id)
		}
	}
	if len(c.entries) != c.order.Len() {
		return "the map and the list differ"
	}
	return b.String()
}

func wiped(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

func TestCacheKeepsCopies(t *testing.T) {
	c, _ := newCache(4)
	given := []byte("secret")
	if _, ok := c.Get("a"); ok || !c.Put(c.Epoch(), "a", given) {
		t.Fatal("an empty cache")
	}
	clear(given)
	got, ok := c.Get("a")
	held := c.bytesOf("a")
	if !ok || got != "secret" {
		t.Errorf("%q, %v", got, ok)
	}
	c.Drop("a")
	if _, ok := c.Get("a"); ok || got != "secret" || !wiped(held) {
		t.Errorf("after Drop: copy %q, held %q, ok %v", got, held, ok)
	}
	c.Drop("a")
}

func TestCacheOverwritesWhatIsReplaced(t *testing.T) {
	c, _ := newCache(4)
	c.Put(c.Epoch(), "a", []byte("first"))
	held := c.bytesOf("a")
	c.Put(c.Epoch(), "a", []byte("second"))
	if got, _ := c.Get("a"); got != "second" || !wiped(held) || c.held("a") != "a" {
		t.Errorf("%q, held %q", got, held)
	}
}

func TestCacheLetsGoOfTheOneUsedLongestAgo(t *testing.T) {
	c, _ := newCache(3)
	for _, id := range []string{"a", "b", "c"} {
		c.Put(c.Epoch(), id, []byte(id+id))
	}
	c.Get("a")
	held := c.bytesOf("b")
	c.Put(c.Epoch(), "d", []byte("dd"))
	if got := c.held("a", "b", "c", "d"); got != "acd" || !wiped(held) {
		t.Errorf("held %s, of b %q", got, held)
	}
	if c, _ := newCache(0); !c.Put(c.Epoch(), "a", []byte("a")) || !c.Put(c.Epoch(), "b", []byte("b")) || c.held("a", "b") != "b" {
		t.Error("a cache for none keeps one")
	}
}

func TestCacheLife(t *testing.T) {
	c, clock := newCache(8)
	for _, id := range []string{"a", "b", "c"} {
		c.Put(c.Epoch(), id, []byte("key"))
	}
	a, b := c.bytesOf("a"), c.bytesOf("b")
	clock.add(time.Minute - 1)
	if _, ok := c.Get("c"); !ok {
		t.Error("gone before its time")
	}
	c.Sweep()
	if got := c.held("a", "b", "c"); got != "abc" {
		t.Errorf("swept before their time: %s", got)
	}
	clock.add(1)
	if _, ok := c.Get("a"); ok || !wiped(a) {
		t.Error("not swept, and still there after its time")
	}
	c.Sweep()
	if got := c.held("a", "b", "c"); got != "c" || !wiped(b) {
		t.Errorf("after Sweep: %s, of b %q", got, b)
	}
}

func TestCacheWipe(t *testing.T) {
	c, _ := newCache(8)
	epoch := c.Epoch()
	var held [][]byte
	for i := range 8 {
		id := fmt.Sprint(i)
		c.Put(epoch, id, []byte("key"))
		held = append(held, c.bytesOf(id))
	}
	c.Wipe()
	for i, b := range held {
		if _, ok := c.Get(fmt.Sprint(i)); ok || !wiped(b) {
			t.Errorf("%d: %q, %v", i, b, ok)
		}
	}
	if c.Put(epoch, "a", []byte("late")) || c.held("a") != "" {
		t.Error("a key that was read before Wipe is kept after it")
	}
}

// TestCachePutAfterDrop: a request read the key from the store; before it puts
// it, the key is deleted.
func TestCachePutAfterDrop(t *testing.T) {
	c, _ := newCache(8)
	epoch := c.Epoch()
	c.Drop("a")
	if c.Put(epoch, "a", []byte("late")) {
		t.Error("kept")
	}
	if _, ok := c.Get("a"); ok {
		t.Error("a deleted key is back")
	}
	if !c.Put(c.Epoch(), "b", []byte("key")) {
		t.Error("one that was read later is not kept")
	}
}

// TestCacheNeverOutlivesTheStore has requests that unseal keys while others
// delete and store them: in the end no deleted key is kept.
func TestCacheNeverOutlivesTheStore(t *testing.T) {
	const ids, rounds = 8, 2000
	c, _ := newCache(ids)
	var store sync.Map // id → []byte
	name := func(i int) string { return fmt.Sprintf("pk_%d", i%ids) }
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := range rounds {
				id := name(i*7 + w)
				if got, ok := c.Get(id); ok {
					if got != "key of "+id {
						t.Errorf("%s: %q", id, got)
					}
					continue
				}
				epoch := c.Epoch()
				if v, ok := store.Load(id); ok {
					c.Put(epoch, id, v.([]byte))
				}
			}
		})
	}
	wg.Go(func() {
		for i := range rounds {
			id := name(i)
			if _, ok := store.LoadAndDelete(id); ok {
				c.Drop(id)
			} else {
				store.Store(id, []byte("key of "+id))
			}
			if i%100 == 0 {
				c.Sweep()
			}
		}
	})
	wg.Wait()
	for i := range ids {
		_, there := store.Load(name(i))
		if _, ok := c.Get(name(i)); ok && !there {
			t.Errorf("%s is deleted, and kept", name(i))
		}
	}
}

func TestCacheGetAllocates(t *testing.T) {
	c, _ := newCache(8)
	c.Put(c.Epoch(), "pk_0123456789abcdef", bytes.Repeat([]byte("k"), 164))
	if n := testing.AllocsPerRun(100, func() { c.Get("pk_0123456789abcdef") }); n > 1 {
		t.Errorf("%v allocations, want the copy alone", n)
	}
	if n := testing.AllocsPerRun(100, func() { c.Get("pk_0000000000000000") }); n != 0 {
		t.Errorf("%v allocations for none", n)
	}
}

func BenchmarkCacheGet(b *testing.B) {
	const n = 4096
	c := NewCache(n, time.Hour, time.Now)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("pk_%016d", i)
		c.Put(c.Epoch(), ids[i], bytes.Repeat([]byte("k"), 51))
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Get(ids[7])
		}
	})
	b.Run("many", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			c.Get(ids[i*31%n])
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				c.Get(ids[i*31%n])
			}
		})
	})
}
