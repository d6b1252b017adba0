package dialect

import (
	"net/netip"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Refusal is the answer to a refused request. Its bytes are shared and must not
// be changed.
type Refusal struct {
	Status      int
	Body        []byte // complete, with a line feed at the end
	ContentType string
	Dynamic     bool // Body lacks details that depend on the request: see RefusalBody
}

// Values is what the details of an error may tell of a request. A zero member
// is not known.
type Values struct {
	KeyID      string // as access.KeyID.String writes it
	ExpiredAt  string // RFC 3339
	Header     string // the header in which a key is wanted
	Permission string // those that would do, joined by spaces
	Field      string // the member of the request at fault
	RetryAfter int64  // seconds
	Limit      int64  // requests

	CreditsNeeded    int64 // whole credits, rounded up
	CreditsAvailable int64 // whole credits, rounded down; known if CreditsNeeded is
}

// KeyView is a key and what belongs to it in an answer.
type KeyView struct {
	Key     *access.Key
	Secret  string         // the text of the key, at create and rotate alone
	Use     access.Use     // the last use
	Plan    string         // name of the plan that holds
	Limits  []access.Rate  // the rates that hold, for me alone
	Refusal *RefusedBefore // the last refusal, for me alone; nil for none known
}

// RefusedBefore is a refusal that is past.
type RefusedBefore struct {
	Reason access.Reason
	At     int64 // unix seconds
}

// Input is what a request asks for. A nil member was not given.
type Input struct {
	Name        *string
	Description *string
	Permissions *[]string
	Rate        *access.Rate
	PlanRate    bool // the plan's rate was asked for, by null
	ExpiresAt   *time.Time
	Never       bool           // no expiry was asked for, by null
	ExpiresIn   *time.Duration // whole seconds, more than none
	Addresses   *[]netip.Prefix
	Metadata    *map[string]string
	Environment *string
	Disabled    *bool          // at update alone
	Grace       *time.Duration // at rotate alone; the dialect's own if the request gives none
	ExpiryName  string         // the member that gave the expiry, by its name in the request
	RateName    string         // likewise the rate
}

// InputError is what is wrong with a request body, in words that may be shown.
type InputError struct {
	Field   string // by its name in the request; may be empty
	Message string // lower case, no full stop
}

// Error returns the message.
func (e *InputError) Error() string { return e.Message }
