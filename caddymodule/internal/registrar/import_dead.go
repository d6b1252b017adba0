package registrar

import (
	"crypto/sha256"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// alive refuses a secret that died here, by all that tells in the form it comes
// in: the digest of ours and the SHA-256 of a plain secret; of a SHA-256 that
// and what noteAlias kept of it; of anything else the digest it would have.
func (m *importing) alive(k *access.Key, in *ImportKey) error {
	if k.Status == access.StatusRevoked { // lets nothing in
		return nil
	}
	digests := [][32]byte{k.Digest}
	switch {
	case !in.Secret.IsZero():
		digests = append(digests, sha256.Sum256([]byte(in.Secret.Reveal())))
	case in.SHA256 != nil:
		digests = append(digests, m.r.aliasOf([32]byte(in.SHA256)))
	}
	for _, d := range digests {
		switch dead, err := m.tx.Buried(d); {
		case err != nil:
			return err
		case dead:
			return &Error{Code: Conflict, Field: "key", Message: "this secret was revoked or rotated away here"}
		}
	}
	return nil
}

// noteAlias keeps of a plain secret what knows its SHA-256 again, to be buried
// with it: once the secret is stored nothing else does.
func (m *importing) noteAlias(k *access.Key, in *ImportKey) error {
	if in.Secret.IsZero() {
		return nil
	}
	alias := m.r.aliasOf(sha256.Sum256([]byte(in.Secret.Reveal())))
	return m.tx.PutBlob(adoptedBlob(k.ID), alias[:])
}

// aliasOf returns a keyed digest of a SHA-256. The sum itself is not stored: a
// secret of another product may be short enough to be guessed from it.
func (r *Registrar) aliasOf(sum [32]byte) [32]byte {
	return r.o.Digester.Sum("\x00sha256\x00" + string(sum[:]))
}
