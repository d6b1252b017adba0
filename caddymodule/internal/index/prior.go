package index

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// prior is a secret that was rotated away and is good for a while longer. It
// changes under readers as a Record does: its digest comes last and goes first.
type prior struct {
	digest digestWords
	owner  atomic.Uint32 // number of the key's record
	alg    atomic.Uint32
	since  atomic.Int64
	until  atomic.Int64
}

// priors finds the previous secrets by digest. They are few, so that keys
// without one pay nothing for them.
type priors struct {
	pool[prior]
	digests table
	count   atomic.Int64
	of      map[uint32]uint32 // the writer's: by number of the key's record
}

// Previous is a secret that was rotated away: of which key, and how long it is
// good. The zero Previous is none.
type Previous struct {
	Record *Record
	Mark   uint64 // first 8 bytes of the digest
	Since  int64  // unix second of the rotation
	Until  int64  // unix second from which the secret is refused
	Alg    uint8
}

// LookupPrevious returns the previous secret with a digest of token.AlgHMAC,
// also past its end; its Record is nil if there is none. Where no key is being
// rotated it reads one word. It takes no lock and does not allocate.
func (x *Index) LookupPrevious(digest *[32]byte) Previous {
	return x.lookupPrevious(digest, token.AlgHMAC)
}

func (x *Index) lookupPrevious(digest *[32]byte, alg uint8) Previous {
	if x.priors.count.Load() == 0 {
		return Previous{}
	}
	p := x.priors.digests.probe(digestTag(digest))
	for {
		i, ok := p.next()
		if !ok {
			return Previous{}
		}
		if q := x.priors.at(i); uint8(q.alg.Load()) == alg && q.digest.equal(digest) {
			return x.previous(q)
		}
	}
}

func (x *Index) previous(q *prior) Previous {
	return Previous{
		Record: x.records.at(q.owner.Load()), Mark: q.digest[0].Load(),
		Since: q.since.Load(), Until: q.until.Load(), Alg: uint8(q.alg.Load()),
	}
}

// PreviousOf returns the previous secret of a key, if it has one. It is for
// whoever looks again at requests in flight. Beside Apply it may be called in
// Still alone.
func (x *Index) PreviousOf(id access.KeyID) Previous {
	i, r := x.find(&id)
	if r == nil {
		return Previous{}
	}
	n, ok := x.priors.of[i]
	if !ok {
		return Previous{}
	}
	return x.previous(x.priors.at(n))
}

// putPrior makes the record's previous secret the head's, and reports whether
// it is another than before. A secret that stays keeps its place, so that
// readers find it all the while.
func (x *Index) putPrior(i uint32, k *access.KeyHead) (other bool) {
	p := k.Previous
	if p != nil && p.Alg != token.AlgHMAC && p.Alg != token.AlgSHA256 {
		p = nil // its digest is nobody's
	}
	if n, ok := x.priors.of[i]; ok {
		q := x.priors.at(n)
		if p != nil && uint8(q.alg.Load()) == p.Alg && q.digest.equal(&p.Digest) {
			q.since.Store(p.Since)
			q.until.Store(p.Until)
			return false
		}
		x.dropPrior(i)
	}
	if p == nil {
		return false
	}
	n := x.priors.take()
	q := x.priors.at(n)
	q.owner.Store(i)
	q.alg.Store(uint32(p.Alg))
	q.since.Store(p.Since)
	q.until.Store(p.Until)
	q.digest.set(&p.Digest)
	x.priors.digests.link(digestTag(&p.Digest), n)
	x.priors.of[i] = n
	x.priors.count.Add(1)
	x.countSum(p.Alg, 1)
	return true
}

// dropPrior takes the record's previous secret away.
func (x *Index) dropPrior(i uint32) {
	n, ok := x.priors.of[i]
	if !ok {
		return
	}
	delete(x.priors.of, i)
	q := x.priors.at(n)
	digest := q.digest.get()
	x.priors.digests.unlink(digestTag(&digest), n)
	q.digest.set(new([32]byte))
	q.until.Store(0)
	x.priors.count.Add(-1)
	x.countSum(uint8(q.alg.Load()), -1)
	x.priors.give(n)
}

// digestWords is a digest in words, because it changes under readers.
type digestWords [4]atomic.Uint64

// get returns the digest; while it is being changed, a mix of the old and the
// new.
func (w *digestWords) get() [32]byte {
	var d [32]byte
	for i := range w {
		binary.BigEndian.PutUint64(d[i*8:], w[i].Load())
	}
	return d
}

// equal compares in constant time: all four words are looked at, and nothing
// branches on them but the result. What the slot's tag told before is 32 bits
// of a keyed digest, which nobody outside can choose or read; of a plain SHA-256
// they are of a secret that was guessed whole or not at all.
func (w *digestWords) equal(digest *[32]byte) bool {
	var differ uint64
	for i := range w {
		differ |= w[i].Load() ^ binary.BigEndian.Uint64(digest[i*8:])
	}
	return differ == 0
}

func (w *digestWords) set(d *[32]byte) {
	for i := range w {
		w[i].Store(binary.BigEndian.Uint64(d[i*8:]))
	}
}
