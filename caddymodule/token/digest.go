package token

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"unsafe"
)

// The algorithms of digests. Their ids are stored with each digest and never
// reused.
const (
	AlgHMAC     uint8 = 1 // HMAC-SHA-256 under the pepper that is derived from the master key
	AlgSHA256   uint8 = 2 // plain SHA-256 of an imported secret that was not seen yet
	AlgImported uint8 = 3 // nobody's: the secret is known by another product's salted or slow hash alone
)

// MasterLen is the length of a master key, in bytes.
const MasterLen = 32

// Master is the secret that lives outside the database. All other secrets of
// an installation are derived from it. The zero Master is of no use: its methods
// panic, but for those that print it. Masters are not to be compared with ==.
type Master struct {
	// A pointer to a string: fmt prints the unexported fields of a struct around
	// a Master without asking for its methods, and then shows an address.
	raw *string
}

// ErrMaster reports a master key of the wrong form. The message never holds
// the key.
var ErrMaster = errors.New("a master key is 32 random bytes in base64 (44 characters): make one with `openssl rand -base64 32`")

// ParseMaster reads a master key in standard or URL base64; white space around
// it is ignored. A key whose bytes are all alike is refused as an example.
func ParseMaster(text string) (Master, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		raw, err = base64.RawURLEncoding.DecodeString(text)
	}
	if err != nil || len(raw) != MasterLen {
		return Master{}, ErrMaster
	}
	if strings.Count(string(raw), string(raw[:1])) == MasterLen {
		return Master{}, errors.New("the master key is no random value: make one with `openssl rand -base64 32`")
	}
	text = string(raw)
	return Master{&text}, nil
}

// Equal reports whether m and n are the same key, in constant time. Master
// values must not be compared with ==.
func (m Master) Equal(n Master) bool { return subtle.ConstantTimeCompare(m.key(), n.key()) == 1 }

func (m Master) key() []byte { return []byte(*m.raw) }

// Name returns 16 hexadecimal digits that tell master keys apart, and nothing
// of the key: they may be stored and shown.
func (m Master) Name() string {
	name := m.Derive("master key name")
	return hex.EncodeToString(name[:8])
}

// Text returns the base64 form, for the file that keeps a generated key.
func (m Master) Text() string { return base64.StdEncoding.EncodeToString(m.key()) }

// String returns a redacted form.
func (m Master) String() string { return "[master key]" }

// GoString returns a redacted form.
func (m Master) GoString() string { return "[master key]" }

// Format writes a redacted form for every verb.
func (m Master) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[master key]") }

// MarshalText returns a redacted form, so that encoders do too.
func (m Master) MarshalText() ([]byte, error) { return []byte("[master key]"), nil }

// Derive returns a 32-byte key for one purpose (HKDF, RFC 5869). Keys of
// different purposes tell nothing of one another or of the master key.
func (m Master) Derive(purpose string) [32]byte {
	b, err := hkdf.Key(sha256.New, m.key(), nil, "keytoll v1 "+purpose, 32)
	if err != nil {
		panic(err) // only for lengths over 255 hashes
	}
	return [32]byte(b)
}

// Digester computes the digests under which secrets are stored. It is safe for
// concurrent use and does not allocate once warm.
type Digester struct{ pool sync.Pool }

type mac struct {
	hash.Hash
	sum [32]byte
}

// NewDigester returns the Digester of an installation.
func NewDigester(m Master) *Digester {
	pepper := m.Derive("digest pepper")
	d := new(Digester)
	d.pool.New = func() any { return &mac{Hash: hmac.New(sha256.New, pepper[:])} }
	return d
}

// Sum returns the AlgHMAC digest of a secret's text.
func (d *Digester) Sum(text string) [32]byte {
	m := d.pool.Get().(*mac)
	m.Reset()
	m.Write(bytesOf(text))
	m.Hash.Sum(m.sum[:0])
	sum := m.sum
	d.pool.Put(m)
	return sum
}

// bytesOf returns the bytes of s, which must only be read.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
