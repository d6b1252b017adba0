package index

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// churn is how many changes are made beside the readers: enough for several
// rebuilds of the tables.
const churn = 6000

// whileReading runs write while readers call read with rising numbers.
func whileReading(t *testing.T, write func(), read ...func(n uint64) string) {
	t.Helper()
	var done atomic.Bool
	var wg sync.WaitGroup
	for _, fn := range read {
		wg.Go(func() {
			for n := uint64(0); !done.Load(); n++ {
				if wrong := fn(n); wrong != "" {
					t.Error(wrong)
					return
				}
			}
		})
	}
	write()
	done.Store(true)
	wg.Wait()
}

// A key that is there all the while is found all the while, however the tables
// grow and are swept around it; a key that is gone is never found again.
func TestRaceGrowthAndDeletion(t *testing.T) {
	x := New()
	putTenant(x, tenantOf("tenant1"))
	const stable = 500
	for i := range uint64(stable) {
		putKey(x, keyOf(i))
	}
	var gone atomic.Uint64 // keys from stable up to here are deleted
	gone.Store(stable)
	write := func() {
		for i := range uint64(churn) {
			putKey(x, keyOf(stable+i))
			if i%4 != 0 && i > 200 {
				n := gone.Load()
				dropKey(x, keyOf(n))
				gone.Store(n + 1)
			}
		}
	}
	lookup := func(n uint64) string {
		d := digestOf(n % stable)
		if r := x.Lookup(&d); r == nil || r.ID != idOf(n%stable) {
			return "a key that stays was not found"
		}
		return ""
	}
	deleted := func(n uint64) string {
		if last := gone.Load(); last > stable {
			d := digestOf(stable + n%(last-stable))
			if x.Lookup(&d) != nil {
				return "a deleted key was found"
			}
		}
		return ""
	}
	byID := func(n uint64) string {
		if r := x.ByID(idOf(n % stable)); r == nil || r.Digest() != digestOf(n%stable) {
			return "a key that stays was not found by its id"
		}
		return ""
	}
	all := func(uint64) string {
		seen := 0
		for r := range x.Keys {
			if r.ID[0] == '0' {
				seen++
			}
		}
		if c := x.Counts(); seen < stable || c.Keys[access.StatusActive] < stable {
			return "keys are missing"
		}
		return ""
	}
	whileReading(t, write, lookup, lookup, deleted, byID, all)
}

func TestRaceRotation(t *testing.T) {
	x := New()
	k := keyOf(0)
	putKey(x, k)
	held := x.ByID(k.ID)
	var begun, ended atomic.Uint64 // rotations
	write := func() {
		for i := uint64(1); i <= uint64(churn); i++ {
			begun.Store(i)
			k.Digest = digestOf(i)
			putKey(x, k)
			ended.Store(i)
		}
	}
	current := func(uint64) string {
		n := ended.Load()
		d := digestOf(n)
		r := x.Lookup(&d)
		if r == nil && begun.Load() == n {
			return "the new secret was not found after the rotation"
		}
		if r != nil && r != held {
			return "the record moved"
		}
		return ""
	}
	old := func(uint64) string {
		if n := ended.Load(); n > 0 {
			d := digestOf(n - 1)
			if x.Lookup(&d) != nil {
				return "the old secret was found after the rotation"
			}
		}
		return ""
	}
	whileReading(t, write, current, current, old)
}

// Revocation and suspension hold from the moment Apply returns, also for those
// who found the record before, and a tenant is always of one piece.
func TestRaceStatusAndTenant(t *testing.T) {
	x := New()
	putTenant(x, tenantOf("tenant1"))
	k := keyOf(1)
	putKey(x, k)
	held := x.ByID(k.ID)
	var begun, ended atomic.Uint64 // even: all active, odd: all closed
	write := func() {
		for i := uint64(1); i <= uint64(churn); i++ {
			begun.Store(i)
			n := tenantOf("tenant1")
			k.Status, k.Rate = access.StatusActive, access.Rate{}
			if i%2 == 1 {
				n.Status, n.Plan = access.StatusSuspended, "closed"
				k.Status, k.Rate = access.StatusRevoked, minute
			}
			putTenant(x, n)
			putKey(x, k)
			ended.Store(i)
		}
	}
	read := func(uint64) string {
		before := ended.Load()
		status, n, rate := held.Status(), x.Tenant(held), x.Rate(held)
		if (n.Status == access.StatusSuspended) != (n.Plan == "closed") {
			return "a tenant of two halves"
		}
		if rate != minute && !rate.IsZero() {
			return "a rate that nobody set"
		}
		if before%2 == 1 && begun.Load() == before && (status != access.StatusRevoked || n.Status != access.StatusSuspended) {
			return "closed, and yet open"
		}
		return ""
	}
	whileReading(t, write, read, read, func(uint64) string {
		if x.TenantByID("tenant1") == nil {
			return "the tenant was not found"
		}
		return ""
	})
}

// Records that become other keys must not disturb lookups of keys that stay.
func TestRaceReuse(t *testing.T) {
	var now atomic.Int64
	x := newIndex(func() time.Duration { return time.Duration(now.Add(int64(reuseAfter))) })
	const stable = 100
	for i := range uint64(stable) {
		putKey(x, keyOf(i))
	}
	write := func() {
		for i := range uint64(churn) {
			k := keyOf(stable + i)
			putKey(x, k)
			dropKey(x, k)
		}
	}
	read := func(n uint64) string {
		d := digestOf(n % stable)
		if r := x.Lookup(&d); r == nil || r.ID != idOf(n%stable) || r.Status() != access.StatusActive {
			return "a key that stays was not found"
		}
		return ""
	}
	whileReading(t, write, read, read)
	if x.records.next > stable+1 {
		t.Errorf("%d records for %d keys", x.records.next, stable+1)
	}
}
