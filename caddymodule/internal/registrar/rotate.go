package registrar

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// RotateRequest says how a key gets a new secret.
type RotateRequest struct {
	// Grace is how long the old secret stays good, in whole seconds (a part of one
	// counts as one), at most MaxGrace or the policy's if that is longer; 0 is not
	// at all, nil is the policy's.
	Grace       *time.Duration
	Idempotency *Idempotency // nil: each request rotates
}

// RotateKey gives a key a new secret. Its id, rights, limits and expiry stay.
// The old secret is good until the grace or the key's life ends, whichever is
// first; one that was in its grace already dies at once, so that at most two
// are good. Errors: InvalidRequest, NotFound, Conflict for a key that is
// revoked, disabled or expired, Mismatch, Unavailable.
func (r *Registrar) RotateKey(ctx context.Context, id access.KeyID, req RotateRequest) (*Issued, error) {
	return r.rotate(ctx, nil, id, req)
}

func (r *Registrar) rotate(ctx context.Context, d *Desk, id access.KeyID, req RotateRequest) (*Issued, error) {
	grace, err := r.grace(req.Grace)
	if err != nil {
		return nil, err
	}
	o, err := r.newOnce(req.Idempotency, d, "rotate\x00"+id.String())
	if err != nil {
		return nil, err
	}
	if out, err := o.replay(ctx, d); out != nil || err != nil {
		return out, err
	}
	var out *Issued
	k, changed, err := r.edit(ctx, d, id, "key.rotated", func(tx store.Tx, k *access.Key, b *bounds) (err error) {
		if out, err = o.find(tx, d); err != nil {
			return err
		}
		if out != nil {
			return errUnchanged
		}
		if err := r.mayRotate(b, k, req.Grace); err != nil {
			return err
		}
		secret, err := r.renew(tx, k, grace)
		if err != nil {
			return err
		}
		out = &Issued{Key: k, Secret: secret}
		return o.keep(tx, out)
	})
	if err != nil {
		return nil, err
	}
	if changed {
		r.emit("api_key_rotated", keyEvent(k))
	}
	return out, nil
}

// grace returns the grace in whole seconds.
func (r *Registrar) grace(asked *time.Duration) (int64, error) {
	policy := r.o.Policy().RotateGrace
	if asked == nil {
		asked = &policy
	}
	if longest := max(MaxGrace, policy); *asked < 0 || *asked > longest {
		return 0, invalid("grace", "the grace of a rotation: want 0 to %s", span(longest))
	}
	return int64((*asked + time.Second - 1) / time.Second), nil
}

func (r *Registrar) mayRotate(b *bounds, k *access.Key, asked *time.Duration) error {
	state := ""
	switch {
	case k.Status != access.StatusActive:
		state = k.Status.String()
	case k.Expires != 0 && k.Expires <= r.now().Unix():
		state = "expired"
	case k.Imported != nil && asked != nil && *asked > 0:
		return &Error{Code: Conflict, Field: "grace", Message: "the old secret was never used here and is known by its hash alone: it cannot stay good",
			Hint: "rotate with a grace of 0, or after the old secret was used once"}
	default:
		return r.covers(b, k)
	}
	return &Error{Code: Conflict, Field: "key", Message: fmt.Sprintf("key %s is %s: only an active key can be rotated", k.ID, state),
		Hint: "caddy keytoll keys show " + k.ID.String()}
}

// renew gives k a new secret and buries the ones before it.
func (r *Registrar) renew(tx store.Tx, k *access.Key, grace int64) (token.Secret, error) {
	now := r.now()
	was := access.Previous{Digest: k.Digest, Alg: k.Alg, Since: now.Unix(), Until: now.Unix() + grace}
	if k.Expires != 0 {
		was.Until = min(was.Until, k.Expires)
	}
	// One in its grace too: a database put back to before this rotation knows
	// nothing of when that ends.
	dead := digestsOf(k)
	k.Previous = nil
	if grace > 0 && k.Imported == nil {
		k.Previous = &was
	}
	k.Imported, k.RotatedAt = nil, now
	prefix, err := r.prefixOf(k)
	if err != nil {
		return token.Secret{}, err
	}
	secret, err := r.mint(k, prefix)
	if err != nil {
		return token.Secret{}, err
	}
	return secret, errors.Join(bury(tx, k.ID, dead), r.noteGrace(tx, k))
}

// prefixOf returns the prefix that k's next secret starts with: that of the
// present one, else one of its environment, else the default.
func (r *Registrar) prefixOf(k *access.Key) (Prefix, error) {
	for _, p := range r.o.Prefixes() {
		if p.Environment == k.Environment && strings.HasPrefix(k.Prefix, p.Text) {
			return p, nil
		}
	}
	if p, err := r.pickPrefix("", k.Environment); err == nil {
		return p, nil
	}
	return r.pickPrefix("", "")
}

// SettleRotation shortens the grace of a key's old secret to the policy's
// RotateSettle from now: its new secret was used for the first time. Without
// such a policy, and for a key with no old secret, it does nothing. Errors:
// NotFound, Unavailable.
func (r *Registrar) SettleRotation(ctx context.Context, id access.KeyID) error {
	settle := r.o.Policy().RotateSettle
	if settle <= 0 {
		return nil
	}
	_, _, err := r.edit(ctx, nil, id, "key.updated", func(tx store.Tx, k *access.Key, _ *bounds) error {
		until := r.now().Add(settle).Unix()
		if k.Previous == nil || k.Previous.Until <= until {
			return errUnchanged
		}
		shorter := *k.Previous
		shorter.Until = until
		k.Previous = &shorter
		return nil
	})
	return err
}

// Adopt gives a key whose secret came from another product, and was seen now,
// the digest of ours. was is the digest under alg that the key had, as its
// present or previous secret's; if it has another by now nothing is changed.
// Errors: NotFound, Exists if another key has this secret, Unavailable.
func (r *Registrar) Adopt(ctx context.Context, id access.KeyID, alg uint8, was [32]byte, secret token.Secret) error {
	if alg == token.AlgHMAC || secret.IsZero() || alg == token.AlgSHA256 && sha256.Sum256([]byte(secret.Reveal())) != was {
		return nil
	}
	digest := r.o.Digester.Sum(secret.Reveal())
	find := r.finder()
	_, _, err := r.edit(ctx, nil, id, "key.adopted", func(tx store.Tx, k *access.Key, _ *bounds) error {
		present := k.Digest == was && k.Alg == alg
		previous := k.Previous != nil && k.Previous.Digest == was && k.Previous.Alg == alg
		if k.Status == access.StatusRevoked || !present && !previous {
			return errUnchanged
		}
		switch other, taken, err := find(tx, digest); {
		case err != nil:
			return err
		case taken && other != id:
			return &Error{Code: Exists, Field: "key", Message: fmt.Sprintf("key %s has this secret already", other)}
		}
		if present {
			k.Digest, k.Alg, k.Imported = digest, token.AlgHMAC, nil
			return tx.PutBlob(adoptedBlob(id), was[:])
		}
		p := *k.Previous
		p.Digest, p.Alg = digest, token.AlgHMAC
		k.Previous = &p
		return nil
	})
	return err
}
