package mgmt

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// DeskProviderKeys is the kind of a Desk for the keys that the caller's tenant
// has with providers.
const DeskProviderKeys = "provider_keys"

// The actions of such a Desk, for DeskOptions.Require.
const (
	ActionStore  = "store"  // POST base
	ActionList   = "list"   // GET base
	ActionVerify = "verify" // POST base/{provider}/verify
	ActionDelete = "delete" // DELETE base/{provider}
)

// ProviderVerdict is what a provider said of a key. It is the answer to
// POST tenants/{tenant}/provider-keys/{provider}/verify.
type ProviderVerdict struct {
	Provider string `json:"provider"`
	Valid    bool   `json:"valid"`
	Reason   string `json:"reason"` // one word; empty, and null in JSON, if the key is valid
}

// MarshalJSON implements json.Marshaler.
func (v ProviderVerdict) MarshalJSON() ([]byte, error) {
	out := struct {
		Provider string  `json:"provider"`
		Valid    bool    `json:"valid"`
		Reason   *string `json:"reason"`
	}{v.Provider, v.Valid, positive(v.Reason)}
	return json.Marshal(out)
}

// RekeyReport says what one call of POST rekey did, and what is left.
type RekeyReport struct {
	Tenants int  `json:"tenants"` // that got a new data key
	Keys    int  `json:"keys"`    // their provider keys, all sealed anew
	Pending int  `json:"pending"` // tenants that have none yet
	Done    bool `json:"done"`    // another call could do no more
	// Failed names the tenants of which something does not open, which keep all as
	// it was; empty for none.
	Failed string `json:"failed,omitempty"`
}

// ProviderKey is a stored provider key as the API shows it.
type ProviderKey struct {
	Provider       string     `json:"provider"`
	LastFour       string     `json:"last_four"` // empty for a key that is too short to show any of it
	CreatedAt      time.Time  `json:"created_at"`
	LastUsedAt     *time.Time `json:"last_used_at"`     // null: never
	LastVerifiedAt *time.Time `json:"last_verified_at"` // null: never
	Valid          *bool      `json:"valid"`            // what the last verification said; null if there was none
}

// ProviderKeyList is the answer to GET tenants/{tenant}/provider-keys: all
// there are, in order of providers.
type ProviderKeyList struct {
	ProviderKeys []ProviderKey `json:"provider_keys"`
}

// StoreProviderKey is the body of PUT tenants/{tenant}/provider-keys/{provider}.
type StoreProviderKey struct {
	APIKey string `json:"api_key"`
}

// ShowProviderKey returns the API's form of a provider key.
func ShowProviderKey(k *access.ProviderKey) ProviderKey {
	out := ProviderKey{Provider: k.Provider, LastFour: k.LastFour, CreatedAt: k.CreatedAt.UTC(),
		LastUsedAt: unix(k.LastUsed), LastVerifiedAt: unix(k.LastVerified)}
	if k.LastVerified != 0 {
		out.Valid = new(k.Valid)
	}
	return out
}

// TooMany returns the refusal of a verification that came too soon: 429, with
// the code of the gate. The time until it may come again is rounded up to whole
// seconds, of which it is at least one.
func TooMany(retry time.Duration) error {
	return &Error{Status: http.StatusTooManyRequests, Code: access.RateLimited.Answer().Code, RetryAfter: max(1, int64(math.Ceil(retry.Seconds()))),
		Message: "this was asked for too often: wait before you ask again"}
}

// NoVerify returns the refusal to verify a key of a provider that is configured
// without a way to: 400.
func NoVerify(provider string) error {
	return &Error{Status: http.StatusBadRequest, Code: "invalid_request", Field: "provider",
		Message: fmt.Sprintf("keys of the provider %s cannot be verified here", provider),
		Hint:    "give the provider a verify in the configuration"}
}

// Unreachable returns the answer for a provider that gave none to conclude
// from: 502, with the code of the gate. Operators alone are shown the cause, which must hold no secret.
func Unreachable(provider string, cause error) error {
	return &Error{Status: http.StatusBadGateway, Code: access.UpstreamFailed.Answer().Code, Hint: cause.Error(),
		Message: fmt.Sprintf("the provider %s could not be reached: nothing is known of the key, and nothing was changed", provider)}
}
