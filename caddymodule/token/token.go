// Package token makes and reads the secret text of an API key:
//
//	<prefix><32 base62 random characters><6 base62 characters of a CRC-32>
//
// The random part carries 190 bits. The checksum is the IEEE CRC-32 of all
// that stands before it, most significant digit first; it lets a gate refuse
// garbage before any lookup and lets secret scanners be sure of a find. Secrets
// are stored only as a Digest. The package imports the standard library alone.
package token

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
)

const (
	randomLen   = 32
	checksumLen = 6
	bodyLen     = randomLen + checksumLen
	shownLen    = 6 // random characters of a display prefix
	alphabet    = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// MaxLen is the longest credential that is looked at, in bytes, whoever made
// it.
const MaxLen = 512

// MaxPrefix is the longest prefix a key may be minted with, in bytes.
const MaxPrefix = 32

// Secret is the text of an API key. No way of printing it shows any of it;
// Reveal gives the whole text. Secrets are not to be compared with ==.
type Secret struct {
	// A pointer and not a string: fmt prints the unexported fields of a struct
	// around a Secret without asking for its methods, and then shows an address.
	text *string
}

// Wrap makes a Secret of text that came from a client or a file.
func Wrap(text string) Secret { return Secret{&text} }

// Reveal returns the whole secret. Call it only to show a new key to its
// owner, once.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether s is empty.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// String returns a redacted form.
func (s Secret) String() string { return "[secret]" }

// GoString returns a redacted form.
func (s Secret) GoString() string { return "token.Secret{[secret]}" }

// Format writes a redacted form for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// MarshalText returns a redacted form, so that encoders do too.
func (s Secret) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// CheckPrefix says what is wrong with a key prefix, or nil. A prefix is 1 to
// MaxPrefix letters, digits and '_', ending with '_'.
func CheckPrefix(p string) error {
	if p == "" || len(p) > MaxPrefix || p[len(p)-1] != '_' {
		return fmt.Errorf("key prefix %q: want at most %d letters, digits and '_', ending with '_', such as ak_live_", p, MaxPrefix)
	}
	for i := range len(p) {
		if c := p[i]; c != '_' && digit(c) < 0 {
			return fmt.Errorf("key prefix %q: %q is not a letter, digit or '_'", p, c)
		}
	}
	return nil
}

// Mint makes a new secret with the given prefix from random. It returns an
// error only if random does.
func Mint(prefix string, random io.Reader) (Secret, error) {
	if err := CheckPrefix(prefix); err != nil {
		return Secret{}, err
	}
	b := make([]byte, 0, len(prefix)+bodyLen)
	b = append(b, prefix...)
	b, err := AppendRandom(b, randomLen, random)
	if err != nil {
		return Secret{}, err
	}
	b = appendChecksum(b)
	return Wrap(string(b)), nil
}

// AppendRandom appends n base62 characters drawn evenly from random.
func AppendRandom(b []byte, n int, random io.Reader) ([]byte, error) {
	var buf [64]byte
	for n > 0 {
		if _, err := io.ReadFull(random, buf[:]); err != nil {
			return nil, fmt.Errorf("reading random bytes: %w", err)
		}
		for _, c := range buf {
			// 248 is the largest multiple of 62 in a byte: what lies above would
			// make some characters likelier.
			if c < 248 && n > 0 {
				b = append(b, alphabet[c%62])
				n--
			}
		}
	}
	return b, nil
}

// Shape is what the text of a credential says of itself.
type Shape uint8

// The shapes.
const (
	Foreign  Shape = iota // of another shape, even if of a minted prefix: only a lookup can tell
	Minted                // a minted prefix, the right length and checksum
	Garbage               // a minted prefix, as long as a minted key and all base62, with a wrong checksum
	Oversize              // empty, too long, or with characters no key has
)

// Set is the prefixes that are minted here. The zero Set mints none. It is
// safe for concurrent use.
type Set struct{ prefixes []string }

// ErrDuplicatePrefix reports a prefix that is listed twice.
var ErrDuplicatePrefix = errors.New("key prefix is listed twice")

// NewSet checks the prefixes and returns their set.
func NewSet(prefixes ...string) (Set, error) {
	for i, p := range prefixes {
		if err := CheckPrefix(p); err != nil {
			return Set{}, err
		}
		for _, q := range prefixes[:i] {
			if p == q {
				return Set{}, fmt.Errorf("%w: %s", ErrDuplicatePrefix, p)
			}
		}
	}
	return Set{append([]string(nil), prefixes...)}, nil
}

// Classify tells the shape of text. It does not allocate.
func (s Set) Classify(text string) Shape {
	if text == "" || len(text) > MaxLen {
		return Oversize
	}
	if !visible(text) {
		return Oversize
	}
	garbage := false
	for _, p := range s.prefixes {
		if strings.HasPrefix(text, p) {
			if wellFormed(text, len(p)) {
				return Minted
			}
			garbage = garbage || shaped(text, len(p))
		}
	}
	if garbage {
		return Garbage
	}
	return Foreign
}

// Merge returns the set of the prefixes of both sets. If t adds none to s the
// result is s and ok is false.
func (s Set) Merge(t Set) (both Set, ok bool) {
	both.prefixes = slices.Clip(s.prefixes)
	for _, p := range t.prefixes {
		if !slices.Contains(s.prefixes, p) {
			both.prefixes = append(both.prefixes, p)
		}
	}
	return both, len(both.prefixes) > len(s.prefixes)
}

// Find returns the bounds of the first minted key within text, or ok = false.
// A key may stand anywhere, as in a URL or a cookie. Each byte is looked at a
// fixed number of times, whoever wrote the text. It does not allocate.
func (s Set) Find(text string) (start, end int, ok bool) {
	if len(text) <= bodyLen {
		return 0, 0, false // shorter than any key
	}
	return s.find(text, 0)
}

// find is Find for the keys whose prefix ends at from or later.
func (s Set) find(text string, from int) (start, end int, ok bool) {
	if len(s.prefixes) == 0 {
		return 0, 0, false
	}
	for {
		i := strings.IndexByte(text[from:], '_') // the last character of every prefix
		if i < 0 {
			return 0, 0, false
		}
		from += i + 1
		if len(text)-from < bodyLen {
			return 0, 0, false
		}
		for _, p := range s.prefixes {
			if strings.HasSuffix(text[:from], p) && wellFormed(text[from-len(p):from+bodyLen], len(p)) {
				return from - len(p), from + bodyLen, true
			}
		}
	}
}

// Redact returns text with every minted key cut down to its display prefix. It
// returns text itself if there is none.
func (s Set) Redact(text string) string {
	_, end, ok := s.Find(text)
	if !ok {
		return text
	}
	var b strings.Builder
	b.Grow(len(text))
	done := 0
	for ok {
		b.WriteString(text[done : end-bodyLen+shownLen])
		b.WriteString("…")
		// The next key's prefix may reach back into this one: look for its end.
		done = end
		_, end, ok = s.find(text, done)
	}
	b.WriteString(text[done:])
	return b.String()
}

// Display returns what lists may show of a secret: its prefix and six
// characters, or, for a key that was not minted here, at most its first six.
func (s Set) Display(secret Secret) string {
	t := secret.Reveal()
	for _, p := range s.prefixes {
		if strings.HasPrefix(t, p) && len(t) == len(p)+bodyLen {
			return t[:len(p)+shownLen]
		}
	}
	return t[:min(shownLen, len(t)/4)]
}

// shaped reports whether text is as long as a key of a prefix of this length,
// and all base62 behind it.
func shaped(text string, prefix int) bool {
	if len(text) != prefix+bodyLen {
		return false
	}
	all := int8(0) // below zero once a digit was
	for i := prefix; i < len(text); i++ {
		all |= digits[text[i]]
	}
	return all >= 0
}

// visible reports whether text is visible ASCII alone, eight bytes at a time. In
// a word of such bytes none has its high bit, nor gets it by adding 1 to each or
// by taking '!' from each; in any other word, the lowest byte that is not visible
// does.
func visible(text string) bool {
	const ones = 0x0101010101010101
	b, out := bytesOf(text), uint64(0)
	for ; len(b) >= 8; b = b[8:] {
		w := binary.LittleEndian.Uint64(b)
		out |= w | (w + ones) | (w - '!'*ones)
	}
	for _, c := range b {
		w := uint64(c) | '!'*ones&^0xff
		out |= w | (w + ones) | (w - '!'*ones)
	}
	return out&(0x80*ones) == 0
}

func wellFormed(text string, prefix int) bool {
	if !shaped(text, prefix) {
		return false
	}
	at := len(text) - checksumLen
	var sum uint64
	for i := at; i < len(text); i++ {
		sum = sum*62 + uint64(digit(text[i]))
	}
	return sum == uint64(checksum(text[:at]))
}

func appendChecksum(b []byte) []byte {
	sum := uint64(crc32.ChecksumIEEE(b))
	var digits [checksumLen]byte
	for i := checksumLen - 1; i >= 0; i-- {
		digits[i] = alphabet[sum%62]
		sum /= 62
	}
	return append(b, digits[:]...)
}

func checksum(s string) uint32 { return crc32.ChecksumIEEE(bytesOf(s)) }

// digit returns the base62 value of c, or -1.
func digit(c byte) int { return int(digits[c]) }

var digits = func() (t [256]int8) {
	for i := range t {
		t[i] = -1
	}
	for i := range len(alphabet) {
		t[alphabet[i]] = int8(i)
	}
	return t
}()
