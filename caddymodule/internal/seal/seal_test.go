package seal_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/seal"
)

func TestBox(t *testing.T) {
	b := seal.New([32]byte{1})
	aad, plain := []byte("aad"), []byte("a secret")
	sealed := b.Seal(aad, plain)
	if bytes.Contains(sealed, plain) || len(sealed) != len(plain)+28 || bytes.Equal(sealed, b.Seal(aad, plain)) {
		t.Errorf("sealed %q", sealed)
	}
	if got, err := b.Open(aad, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("opened %q, %v", got, err)
	}
	for i := range sealed {
		sealed[i] ^= 1
		if _, err := b.Open(aad, sealed); !errors.Is(err, seal.ErrSealed) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		sealed[i] ^= 1
	}
	for name, open := range map[string]func() ([]byte, error){
		"aad":   func() ([]byte, error) { return b.Open([]byte("aae"), sealed) },
		"key":   func() ([]byte, error) { return seal.New([32]byte{2}).Open(aad, sealed) },
		"short": func() ([]byte, error) { return b.Open(aad, sealed[:20]) },
		"none":  func() ([]byte, error) { return b.Open(aad, nil) },
	} {
		if got, err := open(); !errors.Is(err, seal.ErrSealed) || got != nil {
			t.Errorf("another %s: %q, %v", name, got, err)
		}
	}
}
