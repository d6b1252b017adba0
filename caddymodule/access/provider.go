package access

import (
	"fmt"
	"io"
	"time"
)

// Bounds of provider keys.
const (
	MaxProvider    = 32   // bytes of a provider's name
	MaxProviderKey = 4096 // bytes of a provider key before it is sealed
	MaxProviders   = 64   // provider keys of one tenant
)

// ProviderKey is a key of a tenant's own for a provider, kept sealed. What it
// prints as names it and shows nothing of it.
type ProviderKey struct {
	Tenant   string
	Provider string // as CheckProvider wants it
	// ID is pk_ and 16 letters or digits, new with each key that is stored: what
	// was sealed under one opens under no other.
	ID           string
	LastFour     string    // the last four characters; empty if the key has fewer than 16
	CreatedAt    time.Time // in whole seconds
	LastUsed     int64     // unix seconds; 0 is never
	LastVerified int64     // likewise
	Valid        bool      // what the last verification said; false if there was none
	Sealed       []byte    `json:"-"` // opaque
}

// DataKey is what seals the provider keys of one tenant, itself wrapped. What
// it prints as names it and shows nothing of it.
type DataKey struct {
	Tenant    string
	Wrapper   string    // name of what wrapped it: a master key or a KMS
	Wrapped   []byte    `json:"-"` // opaque
	CreatedAt time.Time // in whole seconds
}

// CheckProvider says what is wrong with a provider's name, or nil. Such names
// go into paths, the configuration and metrics: lower-case letters, digits, '-'
// and '_', starting with a letter.
func CheckProvider(name string) error {
	if name == "" || len(name) > MaxProvider || name[0] < 'a' || name[0] > 'z' {
		return fmt.Errorf("provider %q: want 1 to %d lower-case letters, digits, '-' or '_', starting with a letter", clip(name), MaxProvider)
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Errorf("provider %q: %q is not a lower-case letter, digit, '-' or '_'", name, c)
		}
	}
	return nil
}

// String names the key, whose it is and for whom.
func (k ProviderKey) String() string {
	return fmt.Sprintf("provider key %s of tenant %s for %s", k.ID, k.Tenant, k.Provider)
}

// Format writes what String returns for every verb.
func (k ProviderKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// String names the tenant and the wrapper.
func (k DataKey) String() string {
	return fmt.Sprintf("data key of tenant %s under %s", k.Tenant, k.Wrapper)
}

// Format writes what String returns for every verb.
func (k DataKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }
