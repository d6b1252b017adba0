package index

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
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
	sealed  map[string]map[string]string // ids of provider keys, by tenant and provider
	lost    map[string]bool              // those that have to be told of
	unused  [][32]byte                   // digests that open nothing
	serial  uint64
}

func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &model{
				t: t, rnd: rand.New(rand.NewPCG(seed, 0)),
				keys: map[access.KeyID]*access.KeyHead{}, tenants: map[string]*access.Tenant{}, debts: map[access.KeyID]int64{},
				sealed: map[string]map[string]string{}, lost: map[string]bool{},
			}
			m.x = newIndex(func() time.Duration { return m.now })
			m.x.OnProviderGone = m.providerGone
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
	case n < 83:
		m.rotate()
	case n < 85:
		m.settle()
	case n < 90:
		m.drop()
	case n < 94:
		m.provider()
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
	k.Rights = modelRights[m.rnd.IntN(len(modelRights))]
	k.Environment = []string{"", "live", "test"}[m.rnd.IntN(3)]
	k.Rate, k.Override = access.Rate{}, nil
	if m.rnd.IntN(3) == 0 {
		k.Override = &access.Override{Credits: access.Credits(m.rnd.IntN(3)), Until: m.rnd.Int64N(3)}
	}
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
	k.Tenant = id
	m.randomize(k)
	if k.Alg = uint8(1 + max(m.rnd.IntN(5)-2, 0)); k.Alg == token.AlgImported {
		k.Imported = &access.Imported{Hint: modelHints[m.rnd.IntN(len(modelHints))], Hash: "x"}
	}
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

// rotate gives a key another secret, with grace or without, or makes an
// imported digest one of ours.
func (m *model) rotate() {
	k := m.any()
	if k == nil {
		return
	}
	if k.Alg == token.AlgHMAC || m.rnd.IntN(2) == 0 {
		m.forget(k.Previous)
		k.Previous = nil
		if m.rnd.IntN(2) == 0 && k.Alg != token.AlgImported {
			k.Previous = &access.Previous{Digest: k.Digest, Alg: k.Alg, Since: 5, Until: 10 + m.rnd.Int64N(90)}
		}
	}
	if k.Previous == nil || k.Previous.Digest != k.Digest {
		m.unused = append(m.unused, k.Digest)
	}
	was := k.Digest
	m.serial++
	k.Digest, k.Alg, k.Imported = digestOf(m.serial), token.AlgHMAC, nil
	copy(k.Digest[:4], was[:]) // often the same tag
	putKey(m.x, k)
}

// settle changes how long a previous secret is good, or ends it.
func (m *model) settle() {
	k := m.any()
	if k == nil || k.Previous == nil {
		return
	}
	if m.rnd.IntN(3) == 0 {
		m.forget(k.Previous)
		k.Previous = nil
	} else {
		shorter := *k.Previous
		shorter.Until--
		k.Previous = &shorter
	}
	putKey(m.x, k)
}

func (m *model) forget(p *access.Previous) {
	if p != nil {
		m.unused = append(m.unused, p.Digest)
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
	m.forget(k.Previous)
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
	for _, pk := range m.sealed[id] {
		m.lost[pk] = true
	}
	delete(m.sealed, id)
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
		m.checkProviders(id)
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
	if len(m.lost) > 0 {
		m.t.Fatalf("nobody was told of %v", m.lost)
	}
	if seen != len(m.keys) {
		m.t.Fatalf("Keys yields %d, want %d", seen, len(m.keys))
	}
	for i := range m.unused {
		if _, found := m.x.Find(m.unused[i]); found {
			m.t.Fatal("an old secret opens a key")
		}
	}
	m.checkAlgs()
}

// checkAlgs checks the counts by algorithm and the candidates of each hint.
func (m *model) checkAlgs() {
	m.t.Helper()
	var want [numAlgs]int64
	sums := false
	candidates := map[string]int{}
	for _, k := range m.keys {
		want[k.Alg]++
		sums = sums || k.Alg == token.AlgSHA256 || k.Previous != nil && k.Previous.Alg == token.AlgSHA256
		if k.Imported != nil {
			candidates[k.Imported.Hint]++
		}
	}
	for alg := uint8(1); alg < numAlgs; alg++ {
		if got := m.x.CountAlg(alg); got != want[alg] {
			m.t.Fatalf("%d keys of algorithm %d, want %d", got, alg, want[alg])
		}
	}
	if m.x.HasSHA256() != sums {
		m.t.Fatalf("HasSHA256 = %v", !sums)
	}
	for i, text := range []string{"other", "sk_other", "sk_live_other"} {
		ids := m.x.ImportedCandidates(nil, text, 1<<20)
		n, total := 0, 0
		for _, hint := range modelHints[:i+1] {
			total += candidates[hint]
		}
		for _, id := range ids {
			k := m.keys[id]
			if k == nil || k.Imported == nil || !strings.HasPrefix(text, k.Imported.Hint) {
				m.t.Fatalf("%v is no candidate for %q", id, text)
			}
			n++
		}
		if n != total {
			m.t.Fatalf("%d candidates for %q, want %d", n, text, total)
		}
	}
	if got := m.x.ImportedCandidates(nil, "sk_live_", 2); len(got) > 2 {
		m.t.Fatalf("%d candidates of at most 2", len(got))
	}
}

// modelHints are longer each than, and begin with, the one before.
var modelHints = []string{"", "sk_", "sk_live_"}

var modelRights = []*access.Rights{
	nil,
	access.NewRights([]string{"read"}, nil),
	access.NewRights([]string{"read", "write"}, nil),
	access.NewRights(nil, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}),
	access.NewRights([]string{"read"}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}),
}

// lookup finds a key as a gate does, by its present secret.
func (m *model) lookup(k *access.KeyHead) *Record {
	present := m.x.Lookup(&k.Digest)
	sum, previous := m.x.LookupSHA256(&k.Digest)
	switch {
	case k.Alg == token.AlgImported && present == nil && sum == nil:
		return m.x.ByID(k.ID)
	case k.Alg == token.AlgSHA256 && present == nil && previous.Record == nil:
		return sum
	case k.Alg == token.AlgHMAC && sum == nil:
		return present
	}
	return nil
}

func (m *model) checkPrevious(k *access.KeyHead, r *Record) {
	m.t.Helper()
	if k.Previous == nil {
		if p := m.x.PreviousOf(k.ID); p.Record != nil || r.Rotating() {
			m.t.Fatalf("key %v has a previous secret", k.ID)
		}
		return
	}
	p := m.x.LookupPrevious(&k.Previous.Digest)
	if k.Previous.Alg == token.AlgSHA256 {
		var rec *Record
		rec, p = m.x.LookupSHA256(&k.Previous.Digest)
		if rec != p.Record {
			m.t.Fatal("a previous secret passes for a present one")
		}
	}
	if p.Record != r || p.Until != k.Previous.Until || p.Since != 5 || p.Alg != k.Previous.Alg || p != m.x.PreviousOf(k.ID) {
		m.t.Fatalf("key %v: previous %+v, want %+v", k.ID, p, k.Previous)
	}
	if m.x.Lookup(&k.Previous.Digest) != nil || !r.Rotating() {
		m.t.Fatalf("key %v: the old secret is the present one, or the key is not rotating", k.ID)
	}
}

func (m *model) checkKey(k *access.KeyHead) {
	m.t.Helper()
	r := m.lookup(k)
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
	if !reflect.DeepEqual(m.x.Rights(r), k.Rights) || r.Alg() != k.Alg {
		m.t.Fatalf("key %v: rights %+v, want %+v", k.ID, m.x.Rights(r), k.Rights)
	}
	if o := m.x.Override(r); (o == nil) != (k.Override == nil) || o != nil && o.Override != *k.Override {
		m.t.Fatalf("key %v: override %+v, want %+v", k.ID, o, k.Override)
	}
	m.checkPrevious(k, r)
	if r.Bucket.Debt(0) != m.debts[k.ID] {
		m.t.Fatalf("key %v owes %d, want %d", k.ID, r.Bucket.Debt(0), m.debts[k.ID])
	}
}
