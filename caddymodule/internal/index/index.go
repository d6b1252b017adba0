package index

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// Index holds all keys and tenants. Lookups may run at any time, also while
// Apply does.
type Index struct {
	// OnProviderGone, if set, is called with the ID of each provider key that was
	// deleted, or another stored in its place: after that can be seen, and before
	// Apply returns. It is to be set before the first Apply, and must not call
	// Apply.
	OnProviderGone func(id string)

	mu      sync.RWMutex // held by Apply; readers need it for the tenants' names, and to be Still
	records pool[Record]
	digests table
	ids     table
	idSeed  maphash.Seed
	tenants tenants
	rates   *interner[access.Rate]
	envs    *interner[string]
	rights  rights
	asides  pool[aside]
	priors  priors

	sums     table        // of the records with a plain SHA-256
	sumCount atomic.Int64 // secrets, present and previous, known by one
	imported imported
	moves    atomic.Uint32 // see Moves

	keyCount    [numStatus]atomic.Int64
	tenantCount [numStatus]atomic.Int64
	algCount    [numAlgs]atomic.Int64
}

const numStatus = int(access.StatusSuspended) + 1

// New returns an empty Index.
func New() *Index {
	started := time.Now()
	return newIndex(func() time.Duration { return time.Since(started) })
}

func newIndex(now clock) *Index {
	x := &Index{
		records: pool[Record]{now: now},
		idSeed:  maphash.MakeSeed(),
		tenants: tenants{interner: newInterner(now, strings.Clone)},
		rates:   newInterner(now, func(r access.Rate) access.Rate { return r }),
		envs:    newInterner(now, strings.Clone),
		rights:  rights{interner: newInterner(now, strings.Clone)},
		asides:  pool[aside]{now: now},
		priors:  priors{pool: pool[prior]{now: now}, of: make(map[uint32]uint32)},
	}
	x.imported.byHint, x.imported.places, x.imported.perLen = make(map[string]*hinted), make(map[uint32]place), make(map[int]int)
	for _, t := range []*table{&x.digests, &x.ids, &x.sums, &x.priors.digests} {
		t.current.Store(newSlots(minSlots))
	}
	x.tenants.cells.ensure(0)
	x.rights.cells.ensure(0)
	return x
}

// Lookup returns the key whose present secret has the digest, of
// token.AlgHMAC, whatever its status, or nil. It takes no lock and does not
// allocate. That no two keys have one digest is the store's writers' to see to;
// of two it returns either. LookupPrevious comes after it, never before: while
// a key is being rotated its old secret is found by one of the two.
func (x *Index) Lookup(digest *[32]byte) *Record {
	p := x.digests.probe(digestTag(digest))
	for {
		i, ok := p.next()
		if !ok {
			return nil
		}
		if r := x.records.at(i); r.has(digest) {
			return r
		}
	}
}

// ByID returns the key with the id, whatever its status, or nil. It takes no
// lock and does not allocate.
func (x *Index) ByID(id access.KeyID) *Record {
	_, r := x.find(&id)
	return r
}

// Rate returns the key's own rate, or the zero Rate if its plan's hold.
func (x *Index) Rate(r *Record) access.Rate { return *x.rates.at(r.rate.Load()) }

// Keys calls yield for each key, in no order, until it returns false. A key
// that is created or deleted meanwhile may be among them or not.
func (x *Index) Keys(yield func(*Record) bool) {
	for _, c := range x.records.chunks() {
		for i := range c {
			if c[i].alive() && !yield(&c[i]) {
				return
			}
		}
	}
}

// Counts is how many keys and tenants there are, by access.Status.
type Counts struct {
	Keys, Tenants [numStatus]int64
}

// Counts returns the present numbers. It reads a few words, however many keys
// there are; while changes are applied, a key that changes its status may be
// missing for a moment.
func (x *Index) Counts() Counts {
	var c Counts
	for s := range numStatus {
		c.Keys[s], c.Tenants[s] = x.keyCount[s].Load(), x.tenantCount[s].Load()
	}
	return c
}

func (x *Index) find(id *access.KeyID) (uint32, *Record) {
	p := x.ids.probe(x.idTag(id))
	for {
		i, ok := p.next()
		if !ok {
			return 0, nil
		}
		if r := x.records.at(i); r.ID == *id && r.alive() {
			return i, r
		}
	}
}

func (x *Index) idTag(id *access.KeyID) uint32 { return uint32(maphash.Bytes(x.idSeed, id[:])) }

// Apply takes over one change. It is meant as the follower of
// store.Store.Follow: changes must come in commit order. When it returns, every
// lookup that starts sees the change. It keeps nothing of c.
func (x *Index) Apply(c store.Change) {
	gone := x.apply(&c)
	if x.OnProviderGone != nil {
		for _, id := range gone {
			x.OnProviderGone(id)
		}
	}
}

// apply returns the ids of the provider keys that are gone.
func (x *Index) apply(c *store.Change) (gone []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case c.Tenant != nil:
		x.putTenant(c.Tenant)
	case c.Key != nil:
		x.putKey(c.Key)
	case c.TenantGone != "":
		gone = x.dropTenant(c.TenantGone)
	case c.KeyGone != nil:
		x.dropKey(&c.KeyGone.ID)
	case c.ProviderKey != nil:
		gone = x.putProvider(c.ProviderKey)
	case c.ProviderKeyGone != nil:
		gone = x.dropProvider(c.ProviderKeyGone)
	}
	return gone
}
