// Package foreign reads the hashes under which other products keep their keys,
// so that keys can be moved in without their text: bcrypt, argon2 and SHA-256
// with a salt. Hashes whose check would cost more than about a second of one
// processor or 256 MiB are refused. No error holds any part of a hash.
package foreign

import (
	"errors"
	"fmt"
	"strings"
)

// MaxHash is the longest text of a hash, in bytes.
const MaxHash = 512

// ErrUnknown reports a hash of no form that is read here.
var ErrUnknown = errors.New("a hash of an unknown form: want bcrypt ($2b$…), argon2id or argon2i ($argon2id$v=19$…), or sha256:<salt>:<hash>")

// Hash is the hash of one secret by another product. The zero Hash is of no
// secret. It is immutable and safe for concurrent use.
type Hash struct{ scheme scheme }

// scheme is one way of hashing, with the hash.
type scheme interface {
	verify(text string) bool
	slow() bool
	memory() int
	String() string
}

// Parse reads one hash:
//
//	$2a$, $2b$, $2y$                     bcrypt of cost 4 to 14
//	$argon2id$v=19$m=…,t=…,p=…$salt$hash  argon2id, argon2i: m ≤ 262144, t ≤ 10, p ≤ 16 and m·t ≤ 1048576
//	sha256:<salt>:<hash>[:prefix|suffix]  SHA-256 of salt and secret, each in hex or base64; the salt
//	                                      stands before the secret unless it says suffix
//
// Errors: ErrUnknown, or what is wrong in words, without the hash.
func Parse(text string) (Hash, error) {
	if len(text) > MaxHash {
		return Hash{}, fmt.Errorf("a hash of %d bytes: at most %d are read", len(text), MaxHash)
	}
	var s scheme
	var err error
	switch {
	case strings.HasPrefix(text, "$2"):
		s, err = parseBcrypt(text)
	case strings.HasPrefix(text, "$argon2"):
		s, err = parseArgon(text)
	case strings.HasPrefix(text, "sha256:"):
		s, err = parseSalted(text)
	default:
		return Hash{}, ErrUnknown
	}
	if err != nil {
		return Hash{}, err
	}
	return Hash{s}, nil
}

// Verify reports whether the hash is that of text. Hashes are compared in
// constant time. It costs up to about a second and Memory bytes.
func (h Hash) Verify(text string) bool { return h.scheme != nil && h.scheme.verify(text) }

// Slow reports whether Verify is slow on purpose, so that callers must bound how
// many run at once.
func (h Hash) Slow() bool { return h.scheme != nil && h.scheme.slow() }

// Memory returns about how many bytes Verify needs.
func (h Hash) Memory() int {
	if h.scheme == nil {
		return 0
	}
	return h.scheme.memory()
}

// Text returns a form that Parse reads as the same hash. It is no secret of a
// customer, but helps to guess one: keep it where digests are kept.
func (h Hash) Text() string {
	if h.scheme == nil {
		return ""
	}
	return h.scheme.String()
}

// String returns a redacted form.
func (h Hash) String() string { return "[hash]" }

// GoString returns a redacted form.
func (h Hash) GoString() string { return "foreign.Hash{[hash]}" }

// Verify parses a hash and checks text against it; a hash that is not read
// matches nothing. It costs what Hash.Verify does.
func Verify(hash, text string) bool {
	h, err := Parse(hash)
	return err == nil && h.Verify(text)
}
