package provider

import (
	"fmt"
	"testing"
)

// One tenant that stores and deletes provider keys all the time must not keep
// those of all others from being kept: each request would ask the KMS.
func TestCacheKeepsKeysWhileOthersAreDropped(t *testing.T) {
	c, _ := newCache(8)
	epoch := c.Epoch()
	for i := range lately - 1 {
		c.Drop(fmt.Sprintf("other %d", i))
	}
	if !c.Put(epoch, "a", []byte("key")) {
		t.Error("not kept because others were dropped")
	}
	for at := range lately - 1 { // wherever among the drops it was
		c, _ := newCache(8)
		for range at % 7 {
			c.Drop("before")
		}
		epoch := c.Epoch()
		for i := range lately - 1 {
			if i == at {
				c.Drop("a")
			} else {
				c.Drop("other")
			}
		}
		if c.Put(epoch, "a", []byte("key")) {
			t.Fatalf("kept though it was dropped as number %d", at)
		}
	}
	c.Drop("a")
	epoch = c.Epoch()
	for range 10 * lately {
		c.Drop("other")
	}
	if c.Put(epoch, "b", []byte("key")) {
		t.Error("kept though nobody knows any longer what was dropped")
	}
	if !c.Put(c.Epoch(), "a", []byte("key")) {
		t.Error("one that was stored again is not kept")
	}
}
