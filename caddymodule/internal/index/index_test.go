package index

import (
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

// The collector must not have to look into the slab.
func TestRecordHasNoPointers(t *testing.T) {
	var check func(reflect.Type)
	check = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				check(typ.Field(i).Type)
			}
		case reflect.Array:
			check(typ.Elem())
		case reflect.Pointer, reflect.UnsafePointer, reflect.String, reflect.Slice, reflect.Map,
			reflect.Chan, reflect.Func, reflect.Interface:
			t.Errorf("Record holds a %s", typ)
		}
	}
	check(reflect.TypeFor[Record]())
	if size := unsafe.Sizeof(Record{}); size != 88 {
		t.Errorf("a Record takes %d bytes, the package comment says 88", size)
	}
}

func TestLookupTellsWhatWasApplied(t *testing.T) {
	x := New()
	tenant := tenantOf("acme")
	tenant.Metadata = map[string]string{"tier": "gold"}
	putTenant(x, tenant)
	k := keyOf(1)
	k.Tenant, k.Rate, k.Expires, k.Alg = "acme", minute, 1700000000, 1
	putKey(x, k)
	tenant.Metadata["tier"] = "changed by its owner"

	r := x.Lookup(&k.Digest)
	if r == nil || r != x.ByID(k.ID) {
		t.Fatalf("Lookup = %p, ByID = %p", r, x.ByID(k.ID))
	}
	if r.ID != k.ID || r.Digest() != k.Digest || r.Status() != k.Status || r.Expires() != k.Expires || r.Alg() != k.Alg {
		t.Errorf("record differs from %+v", k)
	}
	if x.Rate(r) != minute || x.Environment(r) != "live" {
		t.Errorf("rate %v, environment %q", x.Rate(r), x.Environment(r))
	}
	n := x.Tenant(r)
	if n == nil || n != x.TenantByID("acme") || n.Metadata["tier"] != "gold" || n.Subject != limit.SubjectOf("acme") {
		t.Errorf("tenant %+v", n)
	}
	if other := digestOf(2); x.Lookup(&other) != nil || x.Lookup(new([32]byte)) != nil {
		t.Error("found a key that is not there")
	}
	if x.ByID(idOf(2)) != nil || x.TenantByID("nobody") != nil || x.TenantByID("") != nil {
		t.Error("found an id that is not there")
	}
}

// All bits of a digest count, not only those that the table looks at.
func TestLookupComparesTheWholeDigest(t *testing.T) {
	x := New()
	k := keyOf(1)
	putKey(x, k)
	for bit := range 256 {
		d := k.Digest
		d[bit/8] ^= 1 << (bit % 8)
		if x.Lookup(&d) != nil {
			t.Fatalf("a digest that differs in bit %d was found", bit)
		}
	}
}

func TestTagCollisions(t *testing.T) {
	x := New()
	const n = 300
	forged := func(i int) *access.KeyHead {
		k := keyOf(uint64(i))
		copy(k.Digest[:8], "\xff\xff\xff\xff\xff\xff\xff\xff") // the last slot: the search wraps around
		return k
	}
	for i := range n {
		putKey(x, forged(i))
	}
	for i := 0; i < n; i += 2 {
		dropKey(x, forged(i))
	}
	for i := range 2000 {
		putKey(x, keyOf(uint64(n+i))) // rebuilds the tables
	}
	for i := range n {
		k := forged(i)
		r := x.Lookup(&k.Digest)
		if gone := i%2 == 0; gone != (r == nil) {
			t.Fatalf("key %d: gone = %v, found = %v", i, gone, r != nil)
		}
		if r != nil && r.ID != k.ID {
			t.Fatalf("key %d: found %v", i, r.ID)
		}
	}
}

func TestRotationKeepsTheBucket(t *testing.T) {
	x := New()
	old := keyOf(1)
	putKey(x, old)
	r := x.Lookup(&old.Digest)
	r.Bucket.Restore(0, int64(time.Minute))

	rotated := *old
	rotated.Digest = digestOf(2)
	putKey(x, &rotated)
	if x.Lookup(&old.Digest) != nil {
		t.Error("the old secret still opens")
	}
	if got := x.Lookup(&rotated.Digest); got != r || got.Bucket.Debt(0) != int64(time.Minute) {
		t.Errorf("record moved: %v", got != r)
	}
	putKey(x, old)
	if x.Lookup(&rotated.Digest) != nil || x.Lookup(&old.Digest) != r {
		t.Error("rotating back did not")
	}
}

func TestTenantChangesHoldForAllItsKeys(t *testing.T) {
	x := New()
	putTenant(x, tenantOf("acme"))
	a, b := keyOf(1), keyOf(2)
	a.Tenant, b.Tenant = "acme", "acme"
	putKey(x, a)
	putKey(x, b)
	before := x.Tenant(x.ByID(a.ID))
	suspended := tenantOf("acme")
	suspended.Status, suspended.Plan = access.StatusSuspended, "pro"
	putTenant(x, suspended)
	for _, k := range []*access.KeyHead{a, b} {
		if n := x.Tenant(x.ByID(k.ID)); n.Status != access.StatusSuspended || n.Plan != "pro" {
			t.Errorf("tenant of %v: %+v", k.ID, n)
		}
	}
	if before.Status != access.StatusActive || before.Plan != "free" {
		t.Error("a snapshot was changed")
	}
}

// A tenant that is made anew under an old id must not find keys of the old one.
func TestDeletedTenantStaysDeleted(t *testing.T) {
	x := New()
	putTenant(x, tenantOf("acme"))
	k := keyOf(1)
	k.Tenant = "acme"
	putKey(x, k)
	r := x.Lookup(&k.Digest)
	x.Apply(changeTenantGone("acme"))
	x.Apply(changeTenantGone("acme"))
	if x.Tenant(r) != nil || x.TenantByID("acme") != nil {
		t.Fatal("the tenant is still there")
	}
	putTenant(x, tenantOf("acme"))
	if x.Tenant(r) != nil || x.TenantByID("acme") == nil {
		t.Fatal("a key passed to the new tenant of its tenant's id")
	}
	dropKey(x, k)
	if x.TenantByID("acme") == nil {
		t.Fatal("the new tenant went with the old one's key")
	}
}

// What cannot be a status must open nothing.
func TestUnknownStatusIsClosed(t *testing.T) {
	x := New()
	for s := range 256 {
		status := access.Status(s)
		n := tenantOf("acme")
		n.Status = status
		putTenant(x, n)
		k := keyOf(1)
		k.Tenant, k.Status = "acme", status
		putKey(x, k)
		r := x.ByID(k.ID)
		if open := r.Status() == access.StatusActive; open != (status == access.StatusActive) {
			t.Errorf("key of status %d: open = %v", s, open)
		}
		if open := x.Tenant(r).Status == access.StatusActive; open != (status == access.StatusActive) {
			t.Errorf("tenant of status %d: open = %v", s, open)
		}
	}
	if c := x.Counts(); c.Keys != [numStatus]int64{access.StatusRevoked: 1} || c.Tenants != [numStatus]int64{access.StatusSuspended: 1} {
		t.Errorf("counts %+v", c)
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	x := load(5000)
	hit, miss := digestOf(77), digestOf(1<<40)
	allocs := testing.AllocsPerRun(1000, func() {
		r := x.Lookup(&hit)
		if r == nil || x.Lookup(&miss) != nil || x.Tenant(r) == nil || x.Environment(r) == "" || !x.Rate(r).IsZero() {
			t.Fatal("wrong answer")
		}
		if x.ByID(r.ID) != r || x.TenantByID("tenant1") == nil {
			t.Fatal("wrong answer by id")
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
