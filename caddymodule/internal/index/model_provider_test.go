package index

import (
	"fmt"
	"maps"
	"slices"
)

// provider stores or deletes a provider key, or stores one again as it is.
func (m *model) provider() {
	id, name := m.tenantID(), fmt.Sprint("p", m.rnd.IntN(6))
	if m.tenants[id] == nil {
		return
	}
	if m.sealed[id] == nil {
		m.sealed[id] = map[string]string{}
	}
	old, had := m.sealed[id][name]
	switch n := m.rnd.IntN(4); {
	case n == 0:
		if had {
			m.lost[old] = true
		}
		delete(m.sealed[id], name)
		dropProvider(m.x, id, name, old)
	case n == 1 && had:
		putProvider(m.x, id, name, old)
	default:
		if had {
			m.lost[old] = true
		}
		m.serial++
		m.sealed[id][name] = fmt.Sprint("pk_", m.serial)
		putProvider(m.x, id, name, m.sealed[id][name])
	}
}

func (m *model) providerGone(id string) {
	if !m.lost[id] {
		m.t.Errorf("%s is told to be gone", id)
	}
	delete(m.lost, id)
}

func (m *model) checkProviders(tenant string) {
	m.t.Helper()
	var want []string
	for _, name := range slices.Sorted(maps.Keys(m.sealed[tenant])) {
		want = append(want, name+" "+m.sealed[tenant][name])
	}
	if got := providersOf(m.x.TenantByID(tenant)); !slices.Equal(got, want) {
		m.t.Fatalf("provider keys of %s: %q, want %q", tenant, got, want)
	}
}
