package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

const (
	modelSeed  = 20260917
	modelOps   = 10_000
	opsPerTx   = 25
	compareOne = 40 // one in so many transactions is followed by a full comparison
)

// model is what the store should hold.
type model struct {
	tenants map[string]*access.Tenant
	keys    map[access.KeyID]*access.Key
	blobs   map[string]string
	uses    map[access.KeyID]access.Use
	audit   []string // numbers and records
	last    uint64   // number of the last; 0 if there is none
	answers map[byte]answer
	usage   map[string]string
	sealed  map[string]*access.ProviderKey // by tenant, a space and the provider
	seals   map[string]*access.DataKey     // by tenant
}

type answer struct {
	expires int64
	text    string
}

func (m *model) clone() *model {
	return &model{maps.Clone(m.tenants), maps.Clone(m.keys), maps.Clone(m.blobs),
		maps.Clone(m.uses), slices.Clone(m.audit), m.last, maps.Clone(m.answers), maps.Clone(m.usage),
		maps.Clone(m.sealed), maps.Clone(m.seals)}
}

// testModel does random operations to the store and to maps, in transactions
// some of which fail, and compares; the store is reopened now and then.
func testModel(t *testing.T, open Opener) {
	t.Logf("seed %d", modelSeed)
	rnd := rand.New(rand.NewPCG(modelSeed, 0))
	dir := t.TempDir()
	s := open(t, dir)
	defer func() { _ = s.Close() }()
	m := &model{tenants: map[string]*access.Tenant{}, keys: map[access.KeyID]*access.Key{}, blobs: map[string]string{},
		uses: map[access.KeyID]access.Use{}, answers: map[byte]answer{}, usage: map[string]string{},
		sealed: map[string]*access.ProviderKey{}, seals: map[string]*access.DataKey{}}
	seen := follow(t, s)
	for ops := 0; ops < modelOps; {
		next := m.clone()
		n, abort := 1+rnd.IntN(opsPerTx*2), rnd.IntN(8) == 0
		err := s.Update(context.Background(), func(tx store.Tx) error {
			for range n {
				if err := next.step(rnd, tx); err != nil {
					return err
				}
			}
			if abort {
				return errStop
			}
			return nil
		})
		ops += n
		switch {
		case err == nil:
			m = next
		case !errors.Is(err, errStop):
			t.Fatalf("after %d operations: %v", ops, err)
		}
		if rnd.IntN(compareOne) == 0 {
			m.compare(t, s, seen)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			seen = follow(t, s)
			m.compare(t, s, seen)
		}
	}
	m.compare(t, s, seen)
}

// step does one operation to both and checks that they agree on its error.
func (m *model) step(rnd *rand.Rand, tx store.Tx) error {
	tenant := fmt.Sprint("t", rnd.IntN(30))
	key := NewKey(tenant, rnd.IntN(2000))
	key.Name = fmt.Sprint(rnd.Uint64())
	key.Rate.Burst = rnd.Uint32()
	switch rnd.IntN(4) {
	case 0:
		key = withSecrets(key)
	case 1:
		key.Rights = access.NewRights([]string{fmt.Sprint("p", rnd.IntN(9))}, nil)
	}
	_, hasTenant := m.tenants[tenant]
	old := m.keys[key.ID]
	var err, want error
	switch op := rnd.IntN(100); {
	case op < 40:
		want = pick(!hasTenant, store.ErrNotFound, old != nil, store.ErrExists)
		err = tx.CreateKey(key)
		if want == nil {
			m.keys[key.ID] = key
		}
	case op < 65:
		want = pick(old == nil, store.ErrNotFound, false, nil)
		if old != nil {
			key.Tenant = old.Tenant
		}
		key.Status = access.Status(1 + rnd.IntN(3))
		err = tx.UpdateKey(key)
		if want == nil {
			m.keys[key.ID] = key
		}
	case op < 74:
		v := NewTenant(tenant)
		v.Name = fmt.Sprint(rnd.Uint64())
		if rnd.IntN(2) == 0 {
			v = withGrants(v)
		}
		m.tenants[tenant] = v
		err = tx.PutTenant(v)
	case op < 76:
		want = pick(!hasTenant, store.ErrNotFound, false, nil)
		err = tx.DeleteTenant(tenant)
		delete(m.tenants, tenant)
		delete(m.seals, tenant)
		maps.DeleteFunc(m.sealed, func(_ string, k *access.ProviderKey) bool { return k.Tenant == tenant })
		maps.DeleteFunc(m.keys, func(id access.KeyID, k *access.Key) bool {
			if k.Tenant == tenant {
				delete(m.uses, id)
			}
			return k.Tenant == tenant
		})
	case op < 80:
		err = m.blob(rnd, tx)
	case op < 86:
		err, want = m.provider(rnd, tx, tenant)
	default:
		err = m.extra(rnd, tx, key.ID)
	}
	if !errors.Is(err, want) || want == nil && err != nil {
		return fmt.Errorf("got error %v, want %v", err, want)
	}
	return nil
}

func (m *model) blob(rnd *rand.Rand, tx store.Tx) error {
	name := fmt.Sprint("b", rnd.IntN(4))
	if rnd.IntN(3) == 0 {
		delete(m.blobs, name)
		return tx.PutBlob(name, nil)
	}
	value := make([]byte, 1+rnd.IntN(10_000))
	value[rnd.IntN(len(value))] = byte(rnd.Uint32())
	m.blobs[name] = string(value)
	return tx.PutBlob(name, value)
}

// extra does what is no change of a tenant or key.
func (m *model) extra(rnd *rand.Rand, tx store.Tx, id access.KeyID) error {
	switch rnd.IntN(9) {
	case 0, 1:
		u := access.Use{At: rnd.Int64(), Agent: fmt.Sprint(rnd.Uint64())}
		if m.keys[id] != nil {
			m.uses[id] = u
		}
		return tx.PutUse(id, u)
	case 2:
		m.last++
		record := fmt.Sprint(rnd.Uint64())
		m.audit = append(m.audit, fmt.Sprintf("%d %s", m.last, record))
		return tx.PutAudit(m.last, []byte(record))
	case 3:
		if len(m.audit) < 10 {
			return tx.Bury(id32(byte(rnd.IntN(256))))
		}
		n := rnd.IntN(len(m.audit) - 1) // the last stays
		m.audit = m.audit[n:]
		return tx.TrimAudit(m.last - uint64(len(m.audit)) + 1)
	case 4:
		n, a := byte(rnd.IntN(50)), answer{rnd.Int64N(100), fmt.Sprint(rnd.Uint64())}
		m.answers[n] = a
		return tx.PutAnswer(id32(n), a.expires, []byte(a.text))
	case 5, 6:
		key := fmt.Sprint("u", rnd.IntN(200))
		m.usage[key] = fmt.Sprint(rnd.Uint64())
		return tx.PutUsage([]byte(key), []byte(m.usage[key]))
	case 7:
		return m.dropUsage(rnd, tx)
	}
	now, size := rnd.Int64N(20), len(m.answers)
	maps.DeleteFunc(m.answers, func(_ byte, a answer) bool { return a.expires <= now })
	n, err := tx.TrimAnswers(now, 1000)
	if err == nil && n != size-len(m.answers) {
		return fmt.Errorf("%d answers were trimmed, want %d", n, size-len(m.answers))
	}
	return err
}

// dropUsage deletes a range as it is read.
func (m *model) dropUsage(rnd *rand.Rand, tx store.Tx) (failed error) {
	from := rnd.IntN(180)
	lo, hi := fmt.Sprint("u", from), fmt.Sprint("u", from+rnd.IntN(20))
	err := tx.Usage([]byte(lo), []byte(hi), func(key, value []byte) bool {
		if m.usage[string(key)] != string(value) || string(key) < lo || string(key) >= hi {
			failed = fmt.Errorf("usage %q is %q, want %q", key, value, m.usage[string(key)])
			return false
		}
		delete(m.usage, string(key))
		failed = tx.PutUsage(key, nil)
		return failed == nil
	})
	for key := range m.usage {
		if err == nil && failed == nil && key >= lo && key < hi {
			failed = fmt.Errorf("usage %q was not read", key)
		}
	}
	return errors.Join(err, failed)
}

func id32(n byte) (id [32]byte) {
	id[n%32] = n
	return id
}

func pick(a bool, errA error, b bool, errB error) error {
	switch {
	case a:
		return errA
	case b:
		return errB
	}
	return nil
}

// compare sees that store, follower and model hold the same.
func (m *model) compare(t *testing.T, s store.Store, seen *mirror) {
	t.Helper()
	same(t, "tenants", listTenants(t, s, ""), slices.Sorted(maps.Keys(m.tenants)))
	same(t, "number of keys", len(listKeys(t, s, "", access.KeyID{})), len(m.keys))
	same(t, "number of followed tenants", len(seen.tenants), len(m.tenants))
	same(t, "number of followed keys", len(seen.keys), len(m.keys))
	view(t, s, func(r store.Reader) error {
		for id, want := range m.tenants {
			got, err := r.Tenant(id)
			same(t, "error", err, nil)
			same(t, "tenant", got, want)
			same(t, "followed tenant", seen.tenants[id], *want)
		}
		for id, want := range m.keys {
			got, err := r.Key(id)
			same(t, "error", err, nil)
			same(t, "key", got, want)
			same(t, "followed key", seen.keys[id], want.KeyHead)
		}
		for id := range m.keys {
			got, err := r.Use(id)
			same(t, "error", err, nil)
			same(t, "use", got, m.uses[id])
		}
		for n := range byte(50) {
			expires, text, err := r.Answer(id32(n))
			want, ok := m.answers[n]
			same(t, "answer", []any{expires, string(text), err == nil}, []any{want.expires, want.text, ok})
		}
		for i := range 4 {
			name := fmt.Sprint("b", i)
			got, _ := r.Blob(name)
			same(t, "blob", string(got), m.blobs[name])
		}
		return nil
	})
	var usage []string
	for _, key := range slices.Sorted(maps.Keys(m.usage)) {
		usage = append(usage, key, m.usage[key])
	}
	same(t, "usage", usageOf(t, s, nil, nil), usage)
	m.compareProviders(t, s, seen)
	same(t, "audit", auditOf(t, s, 0), append([]string(nil), m.audit...))
	for id := range m.tenants {
		n := 0
		for _, k := range m.keys {
			if k.Tenant == id {
				n++
			}
		}
		same(t, "keys of "+id, len(listKeys(t, s, id, access.KeyID{})), n)
	}
}
