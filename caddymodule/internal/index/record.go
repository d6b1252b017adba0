package index

import (
	"crypto/subtle"
	"encoding/binary"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

// Record is what is kept in memory of a key. Its methods may be called by any
// number of goroutines; each returns the newest value of its own, and two of
// them need not be of the same moment while the key is being changed. A
// *Record is for one decision: see the package comment.
type Record struct {
	digest  [4]atomic.Uint64 // words, because rotation changes it under readers
	ID      access.KeyID     // never changes while the key lives
	Bucket  limit.Slot       // the token bucket of the key's own rate
	expires atomic.Int64
	state   atomic.Uint32 // of flags
	tenant  atomic.Uint32 // numbers in the Index
	rate    atomic.Uint32
	env     atomic.Uint32
}

// state is status | alg<<8 | alive.
const alive = 1 << 16

// Status returns whether the key is active, disabled or revoked. A key that
// was deleted is revoked.
func (r *Record) Status() access.Status { return access.Status(r.state.Load()) }

// Alg returns the algorithm that made the digest, a token.Alg… value.
func (r *Record) Alg() uint8 { return uint8(r.state.Load() >> 8) }

// Expires returns the unix second from which the key is refused; 0 is never.
func (r *Record) Expires() int64 { return r.expires.Load() }

// Digest returns the digest of the key's present secret. While the key is
// being rotated it may be a mix of the old and the new, which is the digest of
// no secret that anybody has.
func (r *Record) Digest() [32]byte {
	var d [32]byte
	for i := range r.digest {
		binary.BigEndian.PutUint64(d[i*8:], r.digest[i].Load())
	}
	return d
}

func (r *Record) alive() bool { return r.state.Load()&alive != 0 }

// has compares in constant time. What the slot's tag told before is 32 bits of
// a keyed digest, which nobody outside can choose or read.
func (r *Record) has(digest *[32]byte) bool {
	d := r.Digest()
	return subtle.ConstantTimeCompare(d[:], digest[:]) == 1
}

func (r *Record) setDigest(d *[32]byte) {
	for i := range r.digest {
		r.digest[i].Store(binary.BigEndian.Uint64(d[i*8:]))
	}
}

// setState stores the head's state. A status that no key has counts as
// revoked, so that it opens nothing.
func (r *Record) setState(k *access.KeyHead) {
	r.state.Store(uint32(keyStatus(k.Status)) | uint32(k.Alg)<<8 | alive)
}

func keyStatus(s access.Status) access.Status {
	if s == access.StatusActive || s == access.StatusDisabled {
		return s
	}
	return access.StatusRevoked
}

// digestTag returns the table tag of a digest.
func digestTag(d *[32]byte) uint32 { return binary.BigEndian.Uint32(d[:4]) }
