package index

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Terms live as long as the override they were worked out of, whatever else of
// the key changes.
func TestTermsGoWithTheOverride(t *testing.T) {
	x := New()
	k := keyOf(1)
	putKey(x, k)
	r := x.ByID(k.ID)
	if o := x.Override(r); o != nil || o.In(0) {
		t.Fatalf("override %+v", o)
	}
	k.Override = &access.Override{Credits: 1, Until: 10}
	putKey(x, k)
	o := x.Override(r)
	if o == nil || o.Override != *k.Override || o.Terms.Load() != nil || !o.In(9) || o.In(10) {
		t.Fatalf("override %+v", o)
	}
	o.Terms.Store("terms")
	k.Override.Credits = 2
	if o.Credits != 1 {
		t.Fatal("the override is its owner's")
	}
	k.Override.Credits = 1
	k.Environment, k.Digest, k.Status = "test", digestOf(2), access.StatusDisabled
	putKey(x, k)
	if x.Override(r) != o || o.Terms.Load() != "terms" || x.Environment(r) != "test" {
		t.Error("terms are gone with another change of the key")
	}
	k.Override = &access.Override{Credits: 3, Until: 10}
	putKey(x, k)
	if n := x.Override(r); n == o || n.Override != *k.Override || n.Terms.Load() != nil {
		t.Errorf("override %+v", n)
	}
	k.Override = nil
	putKey(x, k)
	if x.Override(r) != nil || x.Environment(r) != "test" {
		t.Error("the override stays")
	}
}

// A place that was another key's brings neither its override nor its terms, and
// whoever holds the record of a deleted key sees none.
func TestOverrideOfReusedPlaces(t *testing.T) {
	var now time.Duration
	x := newIndex(func() time.Duration { return now })
	same := &access.Override{Credits: 1}
	k := keyOf(1)
	k.Override = same
	putKey(x, k)
	held := x.ByID(k.ID)
	x.Override(held).Terms.Store("terms")
	dropKey(x, k)
	if x.Override(held) != nil || x.Environment(held) != "" {
		t.Error("a deleted key has an override")
	}
	now = reuseAfter
	k = keyOf(2)
	putKey(x, k)
	if r := x.ByID(k.ID); r != held || x.Override(r) != nil || x.Environment(r) != "live" {
		t.Error("the record was not used again, or tells of its key before")
	}
	k.Override = same
	putKey(x, k)
	if o := x.Override(held); x.asides.next != 1 || o == nil || o.Terms.Load() != nil || x.Environment(held) != "live" {
		t.Errorf("override %+v, %d places", o, x.asides.next)
	}
}

// An override is of one piece, holds from the moment Apply returns and is gone
// with it; the environment is the key's all the while.
func TestRaceOverride(t *testing.T) {
	x := New()
	k, quiet := keyOf(1), keyOf(2)
	quiet.Override = &access.Override{Credits: 1 << 40, Until: 1 << 40}
	putKey(x, k)
	putKey(x, quiet)
	held, other := x.ByID(k.ID), x.ByID(quiet.ID)
	var begun, ended atomic.Uint64 // every third takes it off
	write := func() {
		for i := uint64(1); i <= uint64(churn); i++ {
			begun.Store(i)
			k.Override, k.Environment = nil, "test"
			if i%3 != 0 {
				k.Override, k.Environment = &access.Override{Credits: access.Credits(i), Until: int64(i)}, "live"
			}
			putKey(x, k)
			ended.Store(i)
		}
	}
	read := func(uint64) string {
		n := ended.Load()
		o, env := x.Override(held), x.Environment(held)
		still := begun.Load() == n
		if o != nil {
			if int64(o.Credits) != o.Until {
				return "an override of two halves"
			}
			if terms, ok := o.Terms.Load().(access.Credits); ok && terms != o.Credits {
				return "terms of another override"
			}
			o.Terms.Store(o.Credits)
		}
		switch {
		case env != "live" && env != "test":
			return "an environment that nobody set"
		case still && n%3 != 0 && (o == nil || o.Until != int64(n) || env != "live"):
			return "the override was not found after the change"
		case still && n > 0 && n%3 == 0 && (o != nil || env != "test"):
			return "an override that was taken off was found"
		}
		return ""
	}
	whileReading(t, write, read, read, func(uint64) string {
		if o := x.Override(other); o == nil || o.Override != *quiet.Override {
			return "an override that stays was not found"
		}
		return ""
	})
}
