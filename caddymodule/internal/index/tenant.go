package index

import (
	"maps"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
	"github.com/keytoll/keytoll/caddymodule/internal/near"
)

// Tenant is a tenant at one moment. It is shared by all readers and must not
// be changed; a change of the tenant makes a new one.
type Tenant struct {
	// Terms is for whoever works out what a configuration says of the tenant: it
	// is gone when the tenant changes. It is no Pointer[any]: that would be one
	// more piece of memory that is not near.
	Terms atomic.Value
	// Subject names the tenant to limits that its keys share.
	Subject limit.Subject

	access.Tenant

	providers *providers // goes on from one Tenant to the next
}

// Near has the processor fetch what metering wants to know of the tenant, if it
// asked before.
func (t *Tenant) Near() {
	if v := t.Terms.Load(); v != nil {
		near.Behind(v)
		near.Fetch(unsafe.Pointer(unsafe.StringData(t.ID)))
	}
}

func newTenant(t *access.Tenant, old *Tenant) *Tenant {
	n := &Tenant{Tenant: *t, Subject: limit.SubjectOf(t.ID)}
	if old != nil {
		n.providers = old.providers
	} else {
		n.providers = new(providers)
	}
	n.Metadata = maps.Clone(t.Metadata)
	n.Grants = slices.Clone(t.Grants)
	if t.Override != nil {
		copied := *t.Override
		n.Override = &copied
	}
	n.Status = tenantStatus(t.Status)
	return n
}

// tenantStatus makes a status that no tenant has suspended, so that it opens
// nothing.
func tenantStatus(s access.Status) access.Status {
	if s == access.StatusActive {
		return s
	}
	return access.StatusSuspended
}

// tenants is one cell per tenant, which all its keys look into, so that a
// suspension or another plan holds for all of them at once. A cell is empty
// when there is no such tenant.
type tenants struct {
	*interner[string]
	cells slab[atomic.Pointer[Tenant]]
}

// TenantByID returns the tenant, or nil. It may be called at any time.
func (x *Index) TenantByID(id string) *Tenant {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.tenant(id)
}

// tenant is TenantByID for who holds mu.
func (x *Index) tenant(id string) *Tenant { return x.tenants.cells.at(x.tenants.numbers[id]).Load() }

// Tenant returns the tenant of a key, or nil if it was deleted, in which case
// the key must be refused.
func (x *Index) Tenant(r *Record) *Tenant { return x.tenants.cells.at(r.tenant.Load()).Load() }

func (x *Index) putTenant(t *access.Tenant) {
	if t.ID == "" {
		return // the empty cell 0 stands for no tenant
	}
	i, known := x.tenants.numbers[t.ID]
	if !known || x.tenants.cells.at(i).Load() == nil {
		// Being there is a use of its own, beside those of its keys.
		i = x.acquireTenant(t.ID)
	}
	cell := x.tenants.cells.at(i)
	old := cell.Load()
	n := newTenant(t, old)
	if cell.Store(n); old != nil {
		x.tenantCount[old.Status].Add(-1)
	}
	x.tenantCount[n.Status].Add(1)
}

// dropTenant takes a tenant out and returns the ids of its provider keys.
func (x *Index) dropTenant(id string) (gone []string) {
	i, ok := x.tenants.numbers[id]
	if !ok || i == 0 {
		return nil
	}
	old := x.tenants.cells.at(i).Swap(nil)
	if old == nil {
		return nil
	}
	x.tenantCount[old.Status].Add(-1)
	// A later tenant of the same id must not bring keys of this one back to life.
	x.tenants.forget(i)
	x.tenants.release(i)
	return old.providers.drop()
}

func (x *Index) acquireTenant(id string) uint32 {
	i := x.tenants.acquire(id)
	x.tenants.cells.ensure(i)
	return i
}
