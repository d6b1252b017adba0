// Package seal encrypts small values at rest, so that whoever holds a copy of
// the database alone can neither read nor change them.
//
// A Box is one key and seals what lives for minutes. What lives for years is
// sealed under data keys: each tenant has one, and it is stored wrapped by a
// master key or a KMS, which a Keyring knows by name. So the wrapping key can be
// replaced without touching the values, and a tenant's data key goes with the
// tenant.
//
//	wrapper   → data key: bound to the associated data of Keyring.New, the tenant
//	data key  → value:    bound to the associated data of DataKey.Seal, the tenant
//	                      and the record
//
// A wrapped key or a value that was moved to another tenant or record does not
// open; nor does one of which a bit was changed. Nothing here tells an older
// value from a newer one of the same associated data: callers give each new
// value another.
//
// Data keys are keysets of tink-go. It keeps several keys under one name, lets a
// value say which of them it was sealed with, and encrypts keysets with
// associated data, through KMSs as well; golang.org/x/crypto has the ciphers and
// would leave all that to us. age seals files to recipients and has no
// associated data: a value that was moved to another record would open.
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
