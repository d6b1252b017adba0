// Package seal encrypts small values at rest, so that whoever holds a copy of
// the database alone can neither read nor change them.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
)

// ErrSealed reports a value that was not sealed with this key and this
// additional data, or was changed since.
var ErrSealed = errors.New("the sealed value cannot be opened with this key")

// Box seals with AES-256-GCM. It is safe for concurrent use.
type Box struct{ aead cipher.AEAD }

// New returns the Box of a key, which must serve no other purpose. Nonces are
// random: one key seals at most 2^32 values.
func New(key [32]byte) *Box {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // only for keys of another length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // only for blocks of another size
	}
	return &Box{aead}
}

// Seal returns plain encrypted and bound to aad, which is not part of the
// result: 28 bytes more than plain.
func (b *Box) Seal(aad, plain []byte) []byte { return b.aead.Seal(nil, nil, plain, aad) }

// Open returns what Seal was given. It returns ErrSealed if the value or aad
// is not the same, bit for bit.
func (b *Box) Open(aad, sealed []byte) ([]byte, error) {
	plain, err := b.aead.Open(nil, nil, sealed, aad)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
