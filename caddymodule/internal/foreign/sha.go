package foreign

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// MaxSalt is the longest salt of a SHA-256, in bytes.
const MaxSalt = 128

type saltedHash struct {
	salt   []byte
	sum    [sha256.Size]byte
	suffix bool // the salt stands behind the secret
}

// Salted returns the hash that is the SHA-256 of salt and secret, or of secret
// and salt if suffix is set. Errors: a salt that is empty or longer than MaxSalt.
func Salted(salt []byte, sum [32]byte, suffix bool) (Hash, error) {
	if len(salt) == 0 || len(salt) > MaxSalt {
		return Hash{}, fmt.Errorf("a salt of %d bytes: want 1 to %d", len(salt), MaxSalt)
	}
	return Hash{&saltedHash{append([]byte(nil), salt...), sum, suffix}}, nil
}

func parseSalted(text string) (scheme, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 && len(parts) != 4 {
		return nil, errors.New("not a salted hash: want sha256:<salt>:<hash>, with :suffix if the salt stands behind the key")
	}
	suffix := false
	if len(parts) == 4 {
		if suffix = parts[3] == "suffix"; !suffix && parts[3] != "prefix" {
			return nil, errors.New("a salt is a prefix or a suffix")
		}
	}
	salt, err := decodeBytes(parts[1])
	if err != nil {
		return nil, fmt.Errorf("salt of a hash: %w", err)
	}
	sum, err := SHA256(parts[2])
	if err != nil {
		return nil, err
	}
	h, err := Salted(salt, sum, suffix)
	return h.scheme, err
}

func (h *saltedHash) verify(text string) bool {
	d := sha256.New()
	if !h.suffix {
		d.Write(h.salt)
	}
	d.Write([]byte(text))
	if h.suffix {
		d.Write(h.salt)
	}
	return subtle.ConstantTimeCompare(d.Sum(nil), h.sum[:]) == 1
}

func (h *saltedHash) slow() bool  { return false }
func (h *saltedHash) memory() int { return 0 }

func (h *saltedHash) String() string {
	s := "sha256:" + hex.EncodeToString(h.salt) + ":" + hex.EncodeToString(h.sum[:])
	if h.suffix {
		s += ":suffix"
	}
	return s
}

// SHA256 reads a SHA-256: 64 hex digits, or 32 bytes in standard or URL base64,
// padded or not.
func SHA256(text string) (sum [32]byte, err error) {
	var b []byte
	switch len(text) {
	case hex.EncodedLen(len(sum)):
		b, err = hex.DecodeString(text)
	case base64.RawStdEncoding.EncodedLen(len(sum)), base64.StdEncoding.EncodedLen(len(sum)):
		b, err = decodeBase64(text)
	}
	if err != nil || len(b) != len(sum) {
		return sum, errors.New("not a SHA-256: want 64 hex digits, or 32 bytes in base64")
	}
	return [32]byte(b), nil
}

// decodeBytes reads hex, or else base64. What could be both is hex.
func decodeBytes(text string) ([]byte, error) {
	if len(text) > 2*MaxSalt {
		return nil, fmt.Errorf("%d characters: at most %d bytes are allowed", len(text), MaxSalt)
	}
	if b, err := hex.DecodeString(text); err == nil {
		return b, nil
	}
	b, err := decodeBase64(text)
	if err != nil {
		return nil, errors.New("neither hex nor base64")
	}
	return b, nil
}

// decodeBase64 reads both alphabets, padded or not.
func decodeBase64(text string) ([]byte, error) {
	enc := base64.StdEncoding
	if strings.ContainsAny(text, "-_") {
		enc = base64.URLEncoding
	}
	if strings.ContainsAny(text, "\r\n") {
		return nil, base64.CorruptInputError(0) // the decoder skips them
	}
	if !strings.HasSuffix(text, "=") {
		enc = enc.WithPadding(base64.NoPadding)
	}
	return enc.Strict().DecodeString(text)
}
