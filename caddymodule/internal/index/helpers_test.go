package index

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

var minute = access.Rate{Requests: 100, Burst: 100, Window: time.Minute}

// digestOf returns a digest that is as random as real ones are.
func digestOf(n uint64) [32]byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return sha256.Sum256(b[:])
}

func idOf(n uint64) access.KeyID {
	return access.KeyID([]byte(fmt.Sprintf("%016d", n)))
}

func keyOf(n uint64) *access.KeyHead {
	return &access.KeyHead{
		ID: idOf(n), Digest: digestOf(n), Alg: 1, Status: access.StatusActive,
		Tenant: fmt.Sprintf("tenant%d", n%100), Environment: "live",
	}
}

func tenantOf(id string) *access.Tenant {
	return &access.Tenant{ID: id, Name: id, Plan: "free", Status: access.StatusActive}
}

func putKey(x *Index, k *access.KeyHead)   { x.Apply(store.Change{Key: k}) }
func putTenant(x *Index, t *access.Tenant) { x.Apply(store.Change{Tenant: t}) }
func dropKey(x *Index, k *access.KeyHead)  { x.Apply(store.Change{KeyGone: k}) }

// load fills an index with n keys of 100 tenants.
func load(n int) *Index {
	x := New()
	for i := range 100 {
		putTenant(x, tenantOf(fmt.Sprintf("tenant%d", i)))
	}
	k := keyOf(0)
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprintf("tenant%d", i)
	}
	for i := range n {
		k.Digest, k.Tenant = digestOf(uint64(i)), names[i%100]
		binary.BigEndian.PutUint64(k.ID[:], uint64(i))
		putKey(x, k)
	}
	return x
}

func changeTenantGone(id string) store.Change { return store.Change{TenantGone: id} }
