package index

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

func providerKeyOf(tenant, provider, id string) *access.ProviderKey {
	return &access.ProviderKey{Tenant: tenant, Provider: provider, ID: id}
}

func putProvider(x *Index, tenant, provider, id string) {
	x.Apply(store.Change{ProviderKey: providerKeyOf(tenant, provider, id)})
}

func dropProvider(x *Index, tenant, provider, id string) {
	x.Apply(store.Change{ProviderKeyGone: providerKeyOf(tenant, provider, id)})
}

// providersOf lists the names of a tenant's provider keys.
func providersOf(t *Tenant) (list []string) {
	for _, k := range t.ProviderKeys() {
		list = append(list, k.Provider+" "+k.ID)
	}
	return list
}

func TestProviderKeys(t *testing.T) {
	x := New()
	var gone []string
	x.OnProviderGone = func(id string) {
		for _, name := range []string{"acme", "other"} {
			if n := x.TenantByID(name); n != nil && slices.ContainsFunc(n.ProviderKeys(), func(k *ProviderKey) bool { return k.ID == id }) {
				t.Errorf("%s is told to be gone while it can be seen", id)
			}
		}
		gone = append(gone, id)
	}
	want := func(tenant string, list, dropped []string) {
		t.Helper()
		if got := providersOf(x.TenantByID(tenant)); !slices.Equal(got, list) {
			t.Fatalf("provider keys of %s: %q, want %q", tenant, got, list)
		}
		if !slices.Equal(gone, dropped) {
			t.Fatalf("gone %q, want %q", gone, dropped)
		}
		gone = nil
	}
	putProvider(x, "acme", "early", "pk_0") // before its tenant
	putTenant(x, tenantOf("acme"))
	putTenant(x, tenantOf("other"))
	if x.TenantByID("acme").ProviderKeys() != nil || new(Tenant).ProviderKeys() != nil {
		t.Error("a tenant without provider keys has a list of them")
	}
	for _, p := range []string{"m", "a", "z"} {
		putProvider(x, "acme", p, "pk_"+p)
	}
	putProvider(x, "other", "m", "pk_other")
	want("acme", []string{"a pk_a", "m pk_m", "z pk_z"}, nil)
	want("other", []string{"m pk_other"}, nil)

	held := x.TenantByID("acme").ProviderKeys()
	putProvider(x, "acme", "m", "pk_m2")
	want("acme", []string{"a pk_a", "m pk_m2", "z pk_z"}, []string{"pk_m"})
	dropProvider(x, "acme", "a", "pk_a")
	dropProvider(x, "acme", "a", "pk_a")
	dropProvider(x, "acme", "nobody", "pk_1")
	dropProvider(x, "nobody", "a", "pk_1")
	want("acme", []string{"m pk_m2", "z pk_z"}, []string{"pk_a"})
	if len(held) != 3 || held[0].ID != "pk_a" || held[1].ID != "pk_m" {
		t.Error("a list was changed under its reader")
	}
	tenant := x.TenantByID("acme")
	x.Apply(changeTenantGone("acme"))
	if len(gone) != 2 || tenant.ProviderKeys() != nil {
		t.Errorf("gone with the tenant: %q; its holder sees %q", gone, providersOf(tenant))
	}
	gone = nil
	putTenant(x, tenantOf("acme"))
	want("acme", nil, nil)
	dropProvider(x, "other", "m", "pk_other")
	want("other", nil, []string{"pk_other"})
	if x.TenantByID("other").ProviderKeys() != nil {
		t.Error("an empty list is left behind")
	}
}

// What was touched stays so through changes of the record and of the tenant,
// and the next key of the provider starts anew.
func TestProviderKeyIsTouched(t *testing.T) {
	x := New()
	putTenant(x, tenantOf("acme"))
	putProvider(x, "acme", "m", "pk_1")
	before := x.TenantByID("acme")
	k := before.ProviderKeys()[0]
	if !k.Touch(7) || k.Touch(7) || !k.Touch(8) || k.Touch(8) || !k.Touch(7) {
		t.Error("Touch does not tell minutes apart")
	}
	used := providerKeyOf("acme", "m", "pk_1")
	used.LastUsed = 420
	x.Apply(store.Change{ProviderKey: used})
	putProvider(x, "acme", "a", "pk_2")
	closed := tenantOf("acme")
	closed.Status = access.StatusSuspended
	putTenant(x, closed)
	after := x.TenantByID("acme")
	if after == before || after.ProviderKeys()[1] != k || k.Touch(7) {
		t.Error("the key is another after changes of its record and its tenant")
	}
	if got := before.ProviderKeys(); len(got) != 2 {
		t.Error("who holds the tenant of before does not see the new key")
	}
	putProvider(x, "acme", "m", "pk_3")
	if now := after.ProviderKeys()[1]; now == k || !now.Touch(7) {
		t.Error("a new key passes for a used one")
	}
}

func TestProviderKeysDoNotAllocate(t *testing.T) {
	x := New()
	putTenant(x, tenantOf("acme"))
	putProvider(x, "acme", "m", "pk_1")
	n := x.TenantByID("acme")
	if allocs := testing.AllocsPerRun(1000, func() {
		if len(n.ProviderKeys()) != 1 || n.ProviderKeys()[0].Touch(0) {
			t.Fatal("wrong answer")
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// Readers see lists of one piece, a key that stays all the while, and none
// that was gone before they looked.
func TestRaceProviderKeys(t *testing.T) {
	x := New()
	putTenant(x, tenantOf("acme"))
	putProvider(x, "acme", "m", "pk_m")
	var gone atomic.Int64 // serial of the newest that is gone
	x.OnProviderGone = func(id string) {
		var n int64
		if _, err := fmt.Sscanf(id, "pk_%d", &n); err != nil {
			t.Error(err)
		}
		gone.Store(n)
	}
	write := func() {
		for i := 1; i <= churn; i += 2 {
			putProvider(x, "acme", "a", fmt.Sprintf("pk_%d", i))
			putProvider(x, "acme", "a", fmt.Sprintf("pk_%d", i+1))
			putTenant(x, tenantOf("acme"))
			dropProvider(x, "acme", "a", fmt.Sprintf("pk_%d", i+1))
		}
	}
	stays := x.TenantByID("acme").ProviderKeys()[0]
	read := func(n uint64) string {
		before := gone.Load()
		list := x.TenantByID("acme").ProviderKeys()
		if len(list) == 0 || list[len(list)-1] != stays {
			return "a key that stays was not found"
		}
		stays.Touch(uint32(n))
		if len(list) > 1 {
			var serial int64
			if _, err := fmt.Sscanf(list[0].ID, "pk_%d", &serial); err != nil || serial <= before {
				return "a key that is gone was found"
			}
		}
		return ""
	}
	whileReading(t, write, read, read)
	if gone.Load() != churn {
		t.Errorf("told of %d, want %d", gone.Load(), churn)
	}
}
