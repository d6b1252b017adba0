package registrar

import (
	"errors"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// adoptedBlob names the digest under which a key was imported, from its
// adoption until it is buried: a backup of the time before knows the secret by
// that digest alone. Of a key that was imported in plain it names what knows the
// SHA-256 of its secret again; see aliasOf.
func adoptedBlob(id access.KeyID) string { return "registrar/adopted/" + id.String() }

// bury buries secrets of a key. The imported one is the key's first: if any goes,
// so has that, and the digest that it was imported under is buried as well.
func bury(tx store.Tx, id access.KeyID, dead [][32]byte) error {
	if len(dead) == 0 {
		return nil
	}
	was, err := tx.Blob(adoptedBlob(id))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return tx.Bury(dead...)
	case err != nil:
		return err
	case len(was) == 32:
		dead = append(dead, [32]byte(was))
	}
	return errors.Join(tx.Bury(dead...), tx.PutBlob(adoptedBlob(id), nil))
}

// digestsOf returns the digests of k's secrets.
func digestsOf(k *access.Key) [][32]byte {
	digests := [][32]byte{k.Digest}
	if k.Previous != nil {
		digests = append(digests, k.Previous.Digest)
	}
	return digests
}
