package registrar

import (
	"context"
	"crypto/sha256"
	"errors"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// RevokeKey refuses a key for good, from the next request on, and returns it.
// Revoking a revoked key changes nothing and returns the same. Errors:
// NotFound, Unavailable.
func (r *Registrar) RevokeKey(ctx context.Context, id access.KeyID) (*access.Key, error) {
	return r.revoke(ctx, nil, id, nil)
}

// RevokeSecret revokes the key that a secret belongs to, also if the secret was
// rotated away and is in its grace: whoever has it could have rotated the key.
// A key that is revoked already is returned as it is. A secret that is known by
// a salted or slow hash alone is not found. Errors: NotFound, whose message
// holds nothing of the secret, Unavailable.
func (r *Registrar) RevokeSecret(ctx context.Context, secret token.Secret) (*access.Key, error) {
	text := secret.Reveal()
	digests := [...]struct {
		alg uint8
		sum [32]byte
	}{{token.AlgSHA256, sha256.Sum256([]byte(text))}, {token.AlgHMAC, r.o.Digester.Sum(text)}} // in the order of an adoption, which may be on
	none := &Error{Code: NotFound, Field: "secret", Message: "no key has this secret"}
	var id access.KeyID
	found, find := false, r.finder()
	err := r.o.Store.View(ctx, func(rd store.Reader) error {
		for _, d := range digests { // both, whatever the first tells
			i, ok, err := find(rd, d.sum)
			if err != nil {
				return err
			}
			if ok && !found {
				id, found = i, true
			}
		}
		return nil
	})
	if err != nil {
		return nil, public("looking for a secret", err)
	}
	if !found {
		return nil, none
	}
	return r.revoke(ctx, nil, id, func(k *access.Key) error {
		for _, d := range digests {
			p := k.Previous
			if k.Digest == d.sum && k.Alg == d.alg || p != nil && p.Digest == d.sum && p.Alg == d.alg && p.Until > r.now().Unix() {
				return nil
			}
		}
		return none
	})
}

func (r *Registrar) revoke(ctx context.Context, d *Desk, id access.KeyID, sure func(*access.Key) error) (*access.Key, error) {
	k, changed, err := r.edit(ctx, d, id, "key.revoked", func(tx store.Tx, k *access.Key, _ *bounds) error {
		if sure != nil {
			if err := sure(k); err != nil {
				return err
			}
		}
		if k.Status == access.StatusRevoked {
			return errUnchanged
		}
		return r.kill(tx, k)
	})
	if err != nil {
		return nil, err
	}
	if changed {
		r.emit("api_key_revoked", keyEvent(k))
	}
	return k, nil
}

// kill makes k revoked and buries its secrets.
func (r *Registrar) kill(tx store.Tx, k *access.Key) error {
	dead := digestsOf(k)
	k.Status, k.RevokedAt, k.Previous, k.Imported = access.StatusRevoked, r.now(), nil, nil
	return errors.Join(bury(tx, k.ID, dead), addKeys(tx, k.Tenant, -1))
}

// finder returns what finds the key of a digest. Without Options.Find it reads
// all keys at its first call; it is then for one transaction.
func (r *Registrar) finder() func(rd store.Reader, digest [32]byte) (access.KeyID, bool, error) {
	if r.o.Find != nil {
		return func(_ store.Reader, digest [32]byte) (access.KeyID, bool, error) {
			id, ok := r.o.Find(digest)
			return id, ok, nil
		}
	}
	var all map[[32]byte]access.KeyID
	return func(rd store.Reader, digest [32]byte) (access.KeyID, bool, error) {
		if all == nil {
			all = make(map[[32]byte]access.KeyID)
			err := rd.Keys("", access.KeyID{}, func(k *access.Key) bool {
				for _, d := range digestsOf(k) {
					all[d] = k.ID
				}
				return true
			})
			if err != nil {
				return access.KeyID{}, false, err
			}
		}
		id, ok := all[digest]
		return id, ok, nil
	}
}
