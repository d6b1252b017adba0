package index

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// ProviderKey is a stored provider key as requests know it: its names alone.
type ProviderKey struct {
	Provider, ID string
	touched      atomic.Uint32
}

// Touch reports whether minute, as the caller counts minutes, is another than
// in the call before. Of calls at once one returns true.
func (p *ProviderKey) Touch(minute uint32) bool {
	was := p.touched.Load()
	return was != minute && p.touched.CompareAndSwap(was, minute)
}

// providers is the provider keys of one tenant. All that a Tenant ever is while
// it lives share one.
type providers struct {
	list atomic.Pointer[[]*ProviderKey] // sorted, replaced as a whole; nil for none
}

// ProviderKeys returns the tenant's provider keys as they are now, in order of
// their providers; nil for none. It takes no lock and does not allocate. The
// list is shared and must not be changed; a key that is stored again for the
// same provider is another element, one whose record changes is the same.
func (t *Tenant) ProviderKeys() []*ProviderKey {
	if t.providers == nil {
		return nil
	}
	list := t.providers.list.Load()
	if list == nil {
		return nil
	}
	return *list
}

// putProvider takes over a provider key and returns the id of the one whose
// place it takes, if any. One of a tenant that is not there is passed over.
func (x *Index) putProvider(k *access.ProviderKey) (gone []string) {
	t := x.tenant(k.Tenant)
	if t == nil {
		return nil
	}
	list := t.ProviderKeys()
	at, there := findProvider(list, k.Provider)
	if there && list[at].ID == k.ID {
		return nil
	}
	added := &ProviderKey{Provider: strings.Clone(k.Provider), ID: strings.Clone(k.ID)}
	next := slices.Clone(list)
	if there {
		gone = []string{list[at].ID}
		next[at] = added
	} else {
		next = slices.Insert(next, at, added)
	}
	t.providers.list.Store(&next)
	return gone
}

// dropProvider takes a provider key out and returns its id, if it was there.
func (x *Index) dropProvider(k *access.ProviderKey) (gone []string) {
	t := x.tenant(k.Tenant)
	if t == nil {
		return nil
	}
	list := t.ProviderKeys()
	at, there := findProvider(list, k.Provider)
	if !there {
		return nil
	}
	gone = []string{list[at].ID}
	if len(list) == 1 {
		t.providers.list.Store(nil)
		return gone
	}
	next := slices.Delete(slices.Clone(list), at, at+1)
	t.providers.list.Store(&next)
	return gone
}

// drop empties the list, also for those who still hold the tenant, and returns
// the ids that were in it.
func (p *providers) drop() (gone []string) {
	list := p.list.Swap(nil)
	if list == nil {
		return nil
	}
	for _, k := range *list {
		gone = append(gone, k.ID)
	}
	return gone
}

func findProvider(list []*ProviderKey, provider string) (at int, there bool) {
	return slices.BinarySearchFunc(list, provider, func(k *ProviderKey, name string) int { return strings.Compare(k.Provider, name) })
}
