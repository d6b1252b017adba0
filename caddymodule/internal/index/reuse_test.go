package index

import (
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Whoever holds the record of a deleted key must be refused, and must not see
// it become another key for reuseAfter.
func TestDeletedRecordRefuses(t *testing.T) {
	var now time.Duration
	x := newIndex(func() time.Duration { return now })
	putTenant(x, tenantOf("tenant1"))
	k := keyOf(1)
	k.Rate = minute
	putKey(x, k)
	held := x.Lookup(&k.Digest)
	held.Bucket.Restore(0, 1000)
	dropKey(x, k)
	dropKey(x, k)
	refuses := func() {
		t.Helper()
		if held.ID != k.ID || held.Status() != access.StatusRevoked || x.Tenant(held) != nil || held.Digest() == k.Digest {
			t.Fatalf("at %v the record says %v, %v, %+v", now, held.ID, held.Status(), x.Tenant(held))
		}
	}
	refuses()
	now = reuseAfter - 1
	putKey(x, keyOf(2))
	refuses()
	now = reuseAfter
	putKey(x, keyOf(101))
	r := x.ByID(idOf(101))
	if r != held {
		t.Error("the record was not used again")
	}
	if r.Bucket.Debt(0) != 0 || !x.Rate(r).IsZero() || x.Tenant(r) == nil {
		t.Error("the new key inherits from the old one")
	}
}

// Keys, tenants, rates and environments that come and go must not pile up.
func TestMemoryIsBoundedUnderChurn(t *testing.T) {
	var now time.Duration
	x := newIndex(func() time.Duration { return now })
	for i := range uint64(20_000) {
		now += time.Minute
		k := keyOf(i)
		k.Tenant, k.Environment = k.ID.String(), k.ID.String()
		k.Rate = access.Rate{Requests: uint32(i + 1), Burst: 1, Window: time.Hour}
		k.Rights = access.NewRights([]string{k.Tenant}, nil)
		k.Override = &access.Override{Credits: access.Credits(i)}
		putTenant(x, tenantOf(k.Tenant))
		putKey(x, k)
		k.Previous = &access.Previous{Digest: k.Digest, Alg: 1, Until: 1}
		k.Digest = digestOf(1<<40 + i)
		putKey(x, k)
		dropKey(x, k)
		x.Apply(changeTenantGone(k.Tenant))
	}
	const atOnce = 70 // an hour's deletions and a few
	for what, n := range map[string]uint32{
		"records": x.records.next, "tenants": x.tenants.next, "rates": x.rates.next, "environments": x.envs.next,
		"rights": x.rights.next, "previous secrets": x.priors.next, "overrides": x.asides.next,
	} {
		if n > atOnce {
			t.Errorf("%d %s, want at most %d", n, what, atOnce)
		}
	}
	if len(x.tenants.numbers) != 1 || len(x.rates.numbers) != 1 || len(x.envs.numbers) != 1 ||
		len(x.rights.numbers) != 1 || len(x.priors.of) != 0 || x.priors.count.Load() != 0 {
		t.Error("names of what is gone are kept")
	}
	if n := len(x.digests.current.Load().words); n != minSlots {
		t.Errorf("%d slots for no key", n)
	}
	if n := len(x.ids.current.Load().words); n != minSlots {
		t.Errorf("%d slots for no id", n)
	}
}

func TestQueueIsFirstInFirstOut(t *testing.T) {
	var q queue
	var in, out uint32
	for range 1000 {
		for range 3 {
			q.push(in, time.Duration(in))
			in++
		}
		for range 2 {
			if i, ok := q.pop(time.Duration(out)); !ok || i != out {
				t.Fatalf("pop = %d, %v, want %d", i, ok, out)
			}
			out++
		}
		if _, ok := q.pop(time.Duration(out) - 1); ok {
			t.Fatal("popped too early")
		}
	}
	if len(q.items) > 2*int(in-out)+4 {
		t.Errorf("%d places for %d elements", len(q.items), in-out)
	}
}
