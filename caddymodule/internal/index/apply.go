package index

import (
	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// putKey takes over a key, new or not. Whether it is new is told by what is in
// memory and not by Change.Old, so that a change that comes twice does no harm.
func (x *Index) putKey(k *access.KeyHead) {
	if i, r := x.find(&k.ID); r != nil {
		x.changeKey(i, r, k)
		return
	}
	i := x.records.take()
	r := x.records.at(i)
	r.ID = k.ID
	r.Bucket = limit.Slot{}
	r.touched.Store(0)
	r.digest.set(&k.Digest)
	r.expires.Store(k.Expires)
	r.tenant.Store(x.acquireTenant(k.Tenant))
	r.rate.Store(x.rates.acquire(k.Rate))
	x.setOwn(r, x.envs.acquire(k.Environment), k.Override)
	r.rights.Store(x.rights.acquire(k.Rights))
	r.setState(k, 0)
	if x.putPrior(i, k) {
		r.setState(k, rotating)
	}
	x.keyCount[r.Status()].Add(1)
	x.ids.link(x.idTag(&k.ID), i)
	x.linkSecret(i, k)
}

// changeKey changes a key in place, so that its bucket keeps its debt. A
// reader may look at the record between any two steps: a secret that is gone
// goes before anything else changes, one that is now the previous is that
// before it ceases to be the present, the new one comes last, and the key is
// never active with the expiry, rate, rights or tenant of a time when it was
// not.
func (x *Index) changeKey(i uint32, r *Record, k *access.KeyHead) {
	x.keyCount[r.Status()].Add(-1)
	x.keyCount[keyStatus(k.Status)].Add(1)
	old, alg, flags := r.Digest(), r.Alg(), r.state.Load()&rotating
	if k.Status != access.StatusActive {
		r.setState(k, 0)
	}
	if x.moving(i, alg, k) {
		x.moves.Add(1)
		defer x.moves.Add(1)
	}
	if x.putPrior(i, k) {
		flags = rotating
	} else if _, there := x.priors.of[i]; !there {
		flags = 0
	}
	moved := old != k.Digest || alg != k.Alg
	if moved {
		x.unlinkSecret(i, alg, &old)
		r.digest.set(new([32]byte))
	}
	r.expires.Store(k.Expires)
	x.changeShared(r, k)
	r.setState(k, flags)
	if moved {
		r.digest.set(&k.Digest)
		x.linkSecret(i, k)
	} else if k.Alg == token.AlgImported {
		x.imported.put(i, hint(k))
	}
}

// linkSecret makes the record's present secret one that is found.
func (x *Index) linkSecret(i uint32, k *access.KeyHead) {
	x.algCount[k.Alg%numAlgs].Add(1)
	x.countSum(k.Alg, 1)
	if k.Alg == token.AlgImported {
		x.imported.put(i, hint(k))
	}
	if t := x.tableOf(k.Alg); t != nil {
		t.link(digestTag(&k.Digest), i)
	}
}

// unlinkSecret undoes linkSecret.
func (x *Index) unlinkSecret(i uint32, alg uint8, digest *[32]byte) {
	x.algCount[alg%numAlgs].Add(-1)
	x.countSum(alg, -1)
	if alg == token.AlgImported {
		x.imported.drop(i)
	}
	if t := x.tableOf(alg); t != nil {
		t.unlink(digestTag(digest), i)
	}
}

func hint(k *access.KeyHead) string {
	if k.Imported == nil {
		return ""
	}
	return k.Imported.Hint
}

// changeShared makes r refer to k's tenant, rate, environment, rights and
// override. Each is acquired before the old one is released, so that an equal
// value keeps its number.
func (x *Index) changeShared(r *Record, k *access.KeyHead) {
	x.tenants.release(r.tenant.Swap(x.acquireTenant(k.Tenant)))
	x.rates.release(r.rate.Swap(x.rates.acquire(k.Rate)))
	x.setOwn(r, x.envs.acquire(k.Environment), k.Override)
	x.rights.release(r.rights.Swap(x.rights.acquire(k.Rights)))
}

// dropKey unlinks a key and leaves a record behind that refuses whoever still
// holds it.
func (x *Index) dropKey(id *access.KeyID) {
	i, r := x.find(id)
	if r == nil {
		return
	}
	x.keyCount[r.Status()].Add(-1)
	r.state.Store(uint32(access.StatusRevoked) | uint32(r.Alg())<<8)
	digest := r.Digest()
	x.unlinkSecret(i, r.Alg(), &digest)
	x.dropPrior(i)
	x.ids.unlink(x.idTag(id), i)
	r.digest.set(new([32]byte))
	x.tenants.release(r.tenant.Swap(0))
	x.rates.release(r.rate.Swap(0))
	x.setOwn(r, 0, nil)
	x.rights.release(r.rights.Swap(0))
	x.records.give(i)
}
