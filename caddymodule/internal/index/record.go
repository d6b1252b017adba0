package index

import (
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
	digest  digestWords  // rotation changes it under readers
	ID      access.KeyID // never changes while the key lives
	Bucket  limit.Slot   // the token bucket of the key's own rate
	expires atomic.Int64
	state   atomic.Uint32 // of flags
	tenant  atomic.Uint32 // numbers in the Index
	rate    atomic.Uint32
	env     atomic.Uint32 // or of an aside, if it is overridden
	rights  atomic.Uint32
	touched atomic.Uint32 // see Touch
}

// state is status | alg<<8 | alive | rotating.
const (
	alive    = 1 << 16
	rotating = 1 << 17
)

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
func (r *Record) Digest() [32]byte { return r.digest.get() }

// Mark returns the first 8 bytes of Digest, which tell secrets apart.
func (r *Record) Mark() uint64 { return r.digest[0].Load() }

// Rotating reports whether the key has a previous secret and nobody has
// claimed, by Settle, to have seen its new one in use.
func (r *Record) Rotating() bool { return r.state.Load()&rotating != 0 }

// Settle ends Rotating and reports whether it was this call that did. A change
// of the key at the same moment may undo it.
func (r *Record) Settle() bool {
	for {
		s := r.state.Load()
		if s&rotating == 0 {
			return false
		}
		if r.state.CompareAndSwap(s, s&^rotating) {
			return true
		}
	}
}

// Touch reports whether minute, as the caller counts minutes, is another than
// in the call before. Of calls at once one returns true.
func (r *Record) Touch(minute uint32) bool {
	was := r.touched.Load()
	return was != minute && r.touched.CompareAndSwap(was, minute)
}

func (r *Record) alive() bool { return r.state.Load()&alive != 0 }

func (r *Record) has(digest *[32]byte) bool { return r.digest.equal(digest) }

// setState stores the head's state and flags. A status that no key has counts
// as revoked, so that it opens nothing.
func (r *Record) setState(k *access.KeyHead, flags uint32) {
	r.state.Store(uint32(keyStatus(k.Status)) | uint32(k.Alg)<<8 | alive | flags)
}

func keyStatus(s access.Status) access.Status {
	if s == access.StatusActive || s == access.StatusDisabled {
		return s
	}
	return access.StatusRevoked
}

// digestTag returns the table tag of a digest.
func digestTag(d *[32]byte) uint32 { return binary.BigEndian.Uint32(d[:4]) }
