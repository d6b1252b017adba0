package index

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// A secret that is rotated away with grace is found all the while: as the
// present one or as the previous one.
func TestRaceRotationWithGrace(t *testing.T) {
	x := New()
	k := keyOf(0)
	putKey(x, k)
	held := x.ByID(k.ID)
	var begun, ended atomic.Uint64 // rotations
	write := func() {
		for i := uint64(1); i <= uint64(churn); i++ {
			begun.Store(i)
			k.Previous = &access.Previous{Digest: k.Digest, Alg: 1, Since: 1, Until: 2}
			k.Digest = digestOf(i)
			putKey(x, k)
			ended.Store(i)
		}
	}
	read := func(uint64) string {
		n := ended.Load()
		d := digestOf(n) // the present secret, or the previous one of the rotation that is on
		r := x.Lookup(&d)
		if r == nil {
			r = x.LookupPrevious(&d).Record
		}
		if r == nil && begun.Load() <= n+1 {
			return "a secret that is good was not found"
		}
		if r != nil && r != held {
			return "the record moved"
		}
		return ""
	}
	dead := func(uint64) string {
		if n := ended.Load(); n > 1 {
			d := digestOf(n - 2)
			if x.Lookup(&d) != nil || x.LookupPrevious(&d).Record != nil {
				return "a secret before the previous one was found"
			}
		}
		return ""
	}
	whileReading(t, write, read, read, dead)
}

// A secret that goes from a plain SHA-256 to our digest, as the present one or as
// the previous one, is found all the while: at once, or in Still by who looks
// again when Moved says so.
func TestRaceAdoption(t *testing.T) {
	ours, plain := digestOf(1), digestOf(2)
	for name, heads := range map[string][2]*access.KeyHead{
		"present": {{Digest: plain, Alg: token.AlgSHA256}, {Digest: ours, Alg: token.AlgHMAC}},
		"previous": {{Digest: digestOf(3), Alg: token.AlgHMAC, Previous: &access.Previous{Digest: plain, Alg: token.AlgSHA256, Until: 9}},
			{Digest: digestOf(3), Alg: token.AlgHMAC, Previous: &access.Previous{Digest: ours, Alg: token.AlgHMAC, Until: 9}}},
	} {
		t.Run(name, func(t *testing.T) {
			x := New()
			for _, k := range heads {
				k.ID, k.Status, k.Tenant = idOf(0), access.StatusActive, "tenant1"
			}
			putKey(x, heads[0])
			write := func() {
				for i := range churn {
					putKey(x, heads[(i+1)%2])
				}
			}
			found := func() bool {
				if x.Lookup(&ours) != nil || x.LookupPrevious(&ours).Record != nil {
					return true
				}
				r, p := x.LookupSHA256(&plain)
				return x.HasSHA256() && (r != nil || p.Record != nil)
			}
			read := func(uint64) string {
				moves := x.Moves()
				ok := found()
				if !ok && x.Moved(moves) {
					x.Still(func() { ok = found() })
				}
				if !ok {
					return "a secret that is good was not found"
				}
				return ""
			}
			whileReading(t, write, read, read)
		})
	}
}

// Whoever asks Find for the plain SHA-256 and then for our digest finds a secret
// that is being adopted.
func TestRaceFind(t *testing.T) {
	x := New()
	var newest atomic.Uint64
	adopt := func(n uint64) {
		k := keyOf(n)
		k.Digest, k.Alg = digestOf(2*n), token.AlgSHA256
		putKey(x, k)
		newest.Store(n)
		k.Digest, k.Alg = digestOf(2*n+1), token.AlgHMAC
		putKey(x, k)
	}
	adopt(1)
	write := func() {
		for n := range uint64(churn) {
			adopt(n + 2)
		}
	}
	read := func(uint64) string {
		n := newest.Load()
		for _, d := range []uint64{2 * n, 2*n + 1} {
			if id, ok := x.Find(digestOf(d)); ok && id == idOf(n) {
				return ""
			}
		}
		return "a secret that is good was not found"
	}
	whileReading(t, write, read, read)
}

// A key is never active with rights of a time when it was not.
func TestRaceRights(t *testing.T) {
	x := New()
	few, many := access.NewRights([]string{"read"}, nil), access.NewRights([]string{"admin"}, nil)
	k := keyOf(1)
	k.Rights = few
	putKey(x, k)
	held := x.ByID(k.ID)
	var begun, done atomic.Uint64 // changes: an odd one closes the key
	write := func() {
		for i := uint64(1); i <= churn; i++ {
			begun.Store(i)
			k.Status, k.Rights = access.StatusActive, few
			if i%2 == 1 {
				k.Status, k.Rights = access.StatusDisabled, many
			}
			putKey(x, k)
			done.Store(i)
		}
	}
	read := func(uint64) string {
		// Twice active around the rights of a disabled time is no proof, as both
		// may have changed between; the same number of changes is.
		before := done.Load()
		rights, status := x.Rights(held), held.Status()
		if rights == nil || len(rights.Permissions) != 1 {
			return "rights that nobody set"
		}
		if status == access.StatusActive && rights.Permissions[0] == "admin" && done.Load() == before && begun.Load() == before {
			return "active with the rights of a disabled key"
		}
		// While it is being closed it may be closed with the old rights; while it
		// is being opened it must have the new ones by then.
		status, rights = held.Status(), x.Rights(held)
		if status == access.StatusActive && rights.Permissions[0] == "admin" && before%2 == 1 && begun.Load() == before+1 {
			return "opened with the rights of a disabled key"
		}
		return ""
	}
	whileReading(t, write, read, read)
}

func TestRightsAreTold(t *testing.T) {
	x := New()
	nets := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	given := access.NewRights([]string{"b", "a"}, nets)
	for i := range uint64(3) {
		k := keyOf(i)
		k.Rights = given
		putKey(x, k)
	}
	r := x.Rights(x.ByID(idOf(0)))
	if r != x.Rights(x.ByID(idOf(2))) {
		t.Error("equal rights are kept twice")
	}
	given.Permissions[0], given.Addresses[0] = "changed", netip.Prefix{}
	if fmt.Sprint(r.Permissions, r.Addresses) != "[a b] [10.0.0.0/8]" {
		t.Errorf("rights %v %v", r.Permissions, r.Addresses)
	}
	k := keyOf(3)
	k.Rights = &access.Rights{Addresses: []netip.Prefix{{}}}
	putKey(x, k)
	if r := x.Rights(x.ByID(k.ID)); r == nil || len(r.Addresses) != 1 {
		t.Error("a network in which no address is became no bound")
	}
}

// The text that an alg-3 key's digest was made of can be guessed.
func TestDigestsOfOtherAlgorithmsOpenNothing(t *testing.T) {
	x := New()
	for alg := range 256 {
		k := keyOf(uint64(alg))
		k.Alg = uint8(alg)
		k.Previous = &access.Previous{Digest: digestOf(1<<20 + uint64(alg)), Alg: uint8(alg), Until: 1}
		putKey(x, k)
		if found := x.Lookup(&k.Digest) != nil; found != (alg == 1) {
			t.Errorf("algorithm %d: found by Lookup = %v", alg, found)
		}
		if found := x.LookupPrevious(&k.Previous.Digest).Record != nil; found != (alg == 1) {
			t.Errorf("algorithm %d: found by LookupPrevious = %v", alg, found)
		}
		r, _ := x.LookupSHA256(&k.Digest)
		before, p := x.LookupSHA256(&k.Previous.Digest)
		if found := r != nil || before != nil; found != (alg == 2) || found && p.Record != before {
			t.Errorf("algorithm %d: found by LookupSHA256 = %v", alg, found)
		}
	}
}

func TestSettleAndTouch(t *testing.T) {
	x := New()
	k := keyOf(1)
	putKey(x, k)
	r := x.ByID(k.ID)
	if r.Settle() {
		t.Error("settled what does not rotate")
	}
	k.Previous = &access.Previous{Digest: k.Digest, Alg: 1, Until: 9}
	k.Digest = digestOf(2)
	putKey(x, k)
	if !r.Rotating() || !r.Settle() || r.Settle() || r.Rotating() {
		t.Error("a rotation is settled once")
	}
	k.Previous = &access.Previous{Digest: k.Previous.Digest, Alg: 1, Until: 5}
	k.Status = access.StatusDisabled
	putKey(x, k)
	if r.Rotating() {
		t.Error("a shorter grace began the rotation anew")
	}
	for i, want := range []bool{true, false, false} {
		if r.Touch(7) != want {
			t.Errorf("touch %d of a minute", i+1)
		}
	}
	if !r.Touch(8) {
		t.Error("the next minute was not seen")
	}
}
