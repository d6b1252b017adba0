package index

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// model is the index as anybody would write it.
type model struct {
	t       *testing.T
	rnd     *rand.Rand
	x       *Index
	now     time.Duration
	keys    map[access.KeyID]*access.KeyHead
	tenants map[string]*access.Tenant
	debts   map[access.KeyID]int64
	unused  [][32]byte // digests that open nothing
	serial  uint64
}

func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &model{
				t: t, rnd: rand.New(rand.NewPCG(seed, 0)),
				keys: map[access.KeyID]*access.KeyHead{}, tenants: map[string]*access.Tenant{}, debts: map[access.KeyID]int64{},
			}
			m.x = newIndex(func() time.Duration { return m.now })
			for i := range 6000 {
				m.step()
				if i%500 == 499 {
					m.check()
				}
			}
		})
	}
}

func (m *model) step() {
	m.now += time.Duration(m.rnd.Int64N(int64(10 * time.Second)))
	switch n := m.rnd.IntN(100); {
	case n < 55:
		m.create()
	case n < 75:
		m.change()
	case n < 85:
		m.rotate()
	case n < 93:
		m.drop()
	case n < 99:
		m.putTenant()
	default:
		m.dropTenant()
	}
}

func (m *model) tenantID() string { return fmt.Sprintf("t%d", m.rnd.IntN(40)) }

func (m *model) randomize(k *access.KeyHead) {
	k.Status = access.Status(1 + m.rnd.IntN(3))
	k.Expires = m.rnd.Int64N(100)
	k.Rate = access.Rate{}
	if m.rnd.IntN(2) == 0 {
		k.Rate = minute
		k.Rate.Requests = m.rnd.Uint32N(300)
	}
}

func (m *model) create() {
	id := m.tenantID()
	if m.tenants[id] == nil {
		return
	}
	m.serial++
	k := keyOf(m.serial)
	k.Tenant, k.Environment = id, []string{"", "live", "test"}[m.rnd.IntN(3)]
	m.randomize(k)
	putKey(m.x, k)
	m.keys[k.ID] = k
	if debt := m.rnd.Int64N(1000); debt > 500 {
		m.x.ByID(k.ID).Bucket.Restore(0, debt)
		m.debts[k.ID] = debt
	}
}

// any returns some key of the model, or nil.
func (m *model) any() *access.KeyHead {
	for range 20 {
		if k := m.keys[idOf(1+m.rnd.Uint64N(m.serial+1))]; k != nil {
			return k
		}
	}
	return nil
}

func (m *model) change() {
	if k := m.any(); k != nil {
		m.randomize(k)
		putKey(m.x, k)
	}
}

func (m *model) rotate() {
	if k := m.any(); k != nil {
		m.unused = append(m.unused, k.Digest)
		m.serial++
		k.Digest = digestOf(m.serial)
		copy(k.Digest[:4], m.unused[len(m.unused)-1][:]) // often the same tag
		putKey(m.x, k)
	}
}

func (m *model) drop() {
	if k := m.any(); k != nil {
		m.gone(k)
	}
}

func (m *model) gone(k *access.KeyHead) {
	dropKey(m.x, k)
	m.unused = append(m.unused, k.Digest)
	delete(m.keys, k.ID)
	delete(m.debts, k.ID)
}

func (m *model) putTenant() {
	n := tenantOf(m.tenantID())
	n.Plan = fmt.Sprint(m.rnd.IntN(5))
	if m.rnd.IntN(3) == 0 {
		n.Status = access.StatusSuspended
	}
	putTenant(m.x, n)
	m.tenants[n.ID] = n
}

// dropTenant deletes a tenant and its keys, in either order.
func (m *model) dropTenant() {
	id := m.tenantID()
	first := m.rnd.IntN(2) == 0
	if first {
		m.x.Apply(changeTenantGone(id))
	}
	for _, k := range m.keys {
		if k.Tenant == id {
			m.gone(k)
		}
	}
	if !first {
		m.x.Apply(changeTenantGone(id))
	}
	delete(m.tenants, id)
}

func (m *model) check() {
	m.t.Helper()
	var want Counts
	for _, k := range m.keys {
		want.Keys[k.Status]++
		m.checkKey(k)
	}
	for id, n := range m.tenants {
		want.Tenants[n.Status]++
		if got := m.x.TenantByID(id); got == nil || got.Plan != n.Plan || got.Status != n.Status {
			m.t.Fatalf("tenant %s: got %+v, want %+v", id, got, n)
		}
	}
	if got := m.x.Counts(); got != want {
		m.t.Fatalf("counts: got %+v, want %+v", got, want)
	}
	seen := 0
	for r := range m.x.Keys {
		if seen++; m.keys[r.ID] == nil {
			m.t.Fatalf("Keys yields %v, which is gone", r.ID)
		}
	}
	if seen != len(m.keys) {
		m.t.Fatalf("Keys yields %d, want %d", seen, len(m.keys))
	}
	for i := range m.unused {
		if r := m.x.Lookup(&m.unused[i]); r != nil {
			m.t.Fatalf("an old secret opens %v", r.ID)
		}
	}
}

func (m *model) checkKey(k *access.KeyHead) {
	m.t.Helper()
	r := m.x.Lookup(&k.Digest)
	if r == nil || r != m.x.ByID(k.ID) {
		m.t.Fatalf("key %v: Lookup = %p, ByID = %p", k.ID, r, m.x.ByID(k.ID))
	}
	n := m.tenants[k.Tenant]
	got := m.x.Tenant(r)
	if got == nil || got.ID != k.Tenant || got.Plan != n.Plan || got.Status != n.Status {
		m.t.Fatalf("key %v: tenant %+v, want %+v", k.ID, got, n)
	}
	if r.Status() != k.Status || r.Expires() != k.Expires || m.x.Rate(r) != k.Rate || m.x.Environment(r) != k.Environment {
		m.t.Fatalf("key %v differs from %+v", r.ID, k)
	}
	if r.Bucket.Debt(0) != m.debts[k.ID] {
		m.t.Fatalf("key %v owes %d, want %d", k.ID, r.Bucket.Debt(0), m.debts[k.ID])
	}
}
