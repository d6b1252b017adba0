package index

import (
	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
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
	r.setDigest(&k.Digest)
	r.expires.Store(k.Expires)
	r.tenant.Store(x.acquireTenant(k.Tenant))
	r.rate.Store(x.rates.acquire(k.Rate))
	r.env.Store(x.envs.acquire(k.Environment))
	r.setState(k)
	x.keyCount[r.Status()].Add(1)
	x.ids.link(x.idTag(&k.ID), i)
	x.digests.link(digestTag(&k.Digest), i)
}

// changeKey changes a key in place, so that its bucket keeps its debt. A
// reader may look at the record between any two steps: the old secret goes
// before anything else changes, the new one comes last, and the key is never
// active with the expiry, rate or tenant of a time when it was not.
func (x *Index) changeKey(i uint32, r *Record, k *access.KeyHead) {
	x.keyCount[r.Status()].Add(-1)
	x.keyCount[keyStatus(k.Status)].Add(1)
	if k.Status != access.StatusActive {
		r.setState(k)
	}
	old := r.Digest()
	rotated := old != k.Digest
	if rotated {
		x.digests.unlink(digestTag(&old), i)
		r.setDigest(new([32]byte))
	}
	r.expires.Store(k.Expires)
	x.changeShared(r, k)
	r.setState(k)
	if rotated {
		r.setDigest(&k.Digest)
		x.digests.link(digestTag(&k.Digest), i)
	}
}

// changeShared makes r refer to k's tenant, rate and environment. Each is
// acquired before the old one is released, so that an equal value keeps its
// number.
func (x *Index) changeShared(r *Record, k *access.KeyHead) {
	x.tenants.release(r.tenant.Swap(x.acquireTenant(k.Tenant)))
	x.rates.release(r.rate.Swap(x.rates.acquire(k.Rate)))
	x.envs.release(r.env.Swap(x.envs.acquire(k.Environment)))
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
	x.digests.unlink(digestTag(&digest), i)
	x.ids.unlink(x.idTag(id), i)
	r.setDigest(new([32]byte))
	x.tenants.release(r.tenant.Swap(0))
	x.rates.release(r.rate.Swap(0))
	x.envs.release(r.env.Swap(0))
	x.records.give(i)
}
