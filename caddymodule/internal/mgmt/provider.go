package mgmt

import (
	"fmt"
	"math"
	"net/http"
	"time"
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
	Provider string  `json:"provider"`
	Valid    bool    `json:"valid"`
	Reason   *string `json:"reason"` // one word; null if the key is valid
}

// RekeyReport says what one call of POST rekey did, and what is left.
type RekeyReport struct {
	Tenants int  `json:"tenants"` // that got a new data key
	Keys    int  `json:"keys"`    // their provider keys, all sealed anew
	Pending int  `json:"pending"` // tenants whose turn is to come, and those of Failed
	Done    bool `json:"done"`    // nothing is left that another call could do
	// Failed says which tenants could not be rekeyed and why, without secrets. All
	// that is theirs is as it was.
	Failed []string `json:"failed,omitempty"`
}

// The codes of refusals that are reasons of the gate as well. A dialect has one
// way to say them, whoever does.
const (
	codeTooMany     = "rate_limit_exceeded"
	codeUnreachable = "bad_gateway"
)

// TooMany returns the refusal of a verification that came too soon: 429. The
// time until it may come again is rounded up to whole seconds, of which it
// is at least one.
func TooMany(retry time.Duration) error {
	return &Error{Status: http.StatusTooManyRequests, Code: codeTooMany, RetryAfter: max(1, int64(math.Ceil(retry.Seconds()))),
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
// from: 502. Operators alone are shown the cause, which must hold no secret.
func Unreachable(provider string, cause error) error {
	return &Error{Status: http.StatusBadGateway, Code: codeUnreachable, Hint: cause.Error(),
		Message: fmt.Sprintf("the provider %s could not be reached: nothing is known of the key, and nothing was changed", provider)}
}
