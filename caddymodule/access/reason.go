package access

import "net/http"

// Reason is why a request was let in or refused. The set is closed: status,
// code, message, challenge and metric label all come from one table.
type Reason uint8

// The reasons, in the order in which they are checked.
const (
	Allowed            Reason = iota // a good key
	Anonymous                        // let in without a key: public, optional or preflight
	MethodNotAllowed                 // CONNECT or TRACE
	TooEarly                         // an unsafe request in replayable TLS early data
	InsecureTransport                // cleartext HTTP from another machine
	NotNormal                        // a request target in which paths can be hidden
	Ambiguous                        // two different credentials
	Missing                          // no credential
	Throttled                        // too many failed attempts from this address
	Malformed                        // not the shape of any key
	Unknown                          // no such key
	Revoked                          // revoked for good
	Disabled                         // switched off by its owner
	Suspended                        // its tenant is suspended
	Expired                          // past its expiry
	AddressNotAllowed                // not one of the key's networks
	PlanRestricted                   // the plan or the tenant lacks the permission
	Forbidden                        // the key lacks the permission, or no rule is about the request
	WrongTenant                      // the request names another tenant
	RateLimited                      // a token bucket is empty
	ConcurrencyLimited               // too many requests at once
	QuotaExceeded                    // a quota of the period is used up
	NoCredits                        // the credits do not last for the request
	BadProviderKey                   // a provider key that cannot be used, or of a provider that is not let in
	Unavailable                      // the store is not there yet, or no longer
	UpstreamFailed                   // the API behind cannot be reached
	UpstreamBusy                     // no API server behind is available
	UpstreamTimeout                  // the API behind did not answer in time
	numReasons
)

// NumReasons is the number of reasons, for arrays indexed by Reason.
const NumReasons = int(numReasons)

// Challenge says which WWW-Authenticate error a refusal carries (RFC 6750,
// section 3).
type Challenge uint8

// The challenges.
const (
	ChallengeNone           Challenge = iota // no WWW-Authenticate
	ChallengeBare                            // a challenge without an error
	ChallengeInvalidRequest                  // error="invalid_request"
	ChallengeInvalidToken                    // error="invalid_token"
	ChallengeScope                           // error="insufficient_scope" and the scope
)

// Answer is what a client is told for a reason.
type Answer struct {
	Label     string // metric label and placeholder value
	Status    int    // HTTP status; 0 for the reasons that let in
	Code      string // stable error code
	Message   string
	Challenge Challenge
	Failure   bool // counts as a failed attempt of the client's address
}

const unauthorized = "Invalid or missing API key"

var answers = [NumReasons]Answer{
	Allowed:            {Label: "allowed"},
	Anonymous:          {Label: "anonymous"},
	MethodNotAllowed:   {Label: "method_not_allowed", Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: "This method is not allowed here"},
	TooEarly:           {Label: "too_early", Status: http.StatusTooEarly, Code: "too_early", Message: "Send this request again after the TLS handshake"},
	InsecureTransport:  {Label: "insecure_transport", Status: http.StatusForbidden, Code: "forbidden", Message: "Use https: API keys are not accepted over cleartext http"},
	Ambiguous:          {Label: "ambiguous", Status: http.StatusBadRequest, Code: "invalid_request", Message: "The request carries two different credentials", Challenge: ChallengeInvalidRequest},
	NotNormal:          {Label: "not_normal", Status: http.StatusBadRequest, Code: "invalid_request", Message: "The request target is not in its normal form"},
	Missing:            {Label: "missing", Status: http.StatusUnauthorized, Code: "unauthorized", Message: unauthorized, Challenge: ChallengeBare},
	Throttled:          {Label: "throttled", Status: http.StatusTooManyRequests, Code: "rate_limit_exceeded", Message: "Too many failed attempts. Please try again later."},
	Malformed:          {Label: "malformed", Status: http.StatusUnauthorized, Code: "unauthorized", Message: unauthorized, Challenge: ChallengeInvalidToken, Failure: true},
	Unknown:            {Label: "unknown", Status: http.StatusUnauthorized, Code: "unauthorized", Message: unauthorized, Challenge: ChallengeInvalidToken, Failure: true},
	Revoked:            {Label: "revoked", Status: http.StatusUnauthorized, Code: "unauthorized", Message: unauthorized, Challenge: ChallengeInvalidToken, Failure: true},
	Disabled:           {Label: "disabled", Status: http.StatusUnauthorized, Code: "unauthorized", Message: unauthorized, Challenge: ChallengeInvalidToken, Failure: true},
	Suspended:          {Label: "suspended", Status: http.StatusUnauthorized, Code: "unauthorized", Message: unauthorized, Challenge: ChallengeInvalidToken, Failure: true},
	Expired:            {Label: "expired", Status: http.StatusUnauthorized, Code: "unauthorized", Message: unauthorized, Challenge: ChallengeInvalidToken, Failure: true},
	AddressNotAllowed:  {Label: "address_not_allowed", Status: http.StatusForbidden, Code: "forbidden", Message: "This API key may not be used from this address"},
	PlanRestricted:     {Label: "plan_restricted", Status: http.StatusForbidden, Code: "forbidden", Message: "Your plan doesn't include access to this feature"},
	Forbidden:          {Label: "forbidden", Status: http.StatusForbidden, Code: "forbidden", Message: "API key does not have permission for this resource", Challenge: ChallengeScope},
	WrongTenant:        {Label: "wrong_tenant", Status: http.StatusForbidden, Code: "forbidden", Message: "API key does not have permission for this resource"},
	RateLimited:        {Label: "rate_limited", Status: http.StatusTooManyRequests, Code: "rate_limit_exceeded", Message: "Rate limit exceeded. Please try again later."},
	ConcurrencyLimited: {Label: "concurrency_limited", Status: http.StatusTooManyRequests, Code: "rate_limit_exceeded", Message: "Too many requests at once. Please try again later."},
	QuotaExceeded:      {Label: "quota_exceeded", Status: http.StatusTooManyRequests, Code: "quota_exceeded", Message: "The quota of this period is used up"},
	NoCredits:          {Label: "no_credits", Status: http.StatusPaymentRequired, Code: "insufficient_credits", Message: "Not enough credits for this request"},
	BadProviderKey:     {Label: "bad_provider_key", Status: http.StatusBadRequest, Code: "invalid_request", Message: "A provider key of this request cannot be used here"},
	Unavailable:        {Label: "unavailable", Status: http.StatusServiceUnavailable, Code: "unavailable", Message: "The service is temporarily unavailable. Please try again."},
	UpstreamFailed:     {Label: "upstream_failed", Status: http.StatusBadGateway, Code: "bad_gateway", Message: "The service behind this address did not answer"},
	UpstreamBusy:       {Label: "upstream_busy", Status: http.StatusServiceUnavailable, Code: "unavailable", Message: "The service is temporarily unavailable. Please try again."},
	UpstreamTimeout:    {Label: "upstream_timeout", Status: http.StatusGatewayTimeout, Code: "gateway_timeout", Message: "The service behind this address did not answer in time"},
}

// Answer returns the row of the table for r. It panics for a value that is no
// reason.
func (r Reason) Answer() *Answer { return &answers[r] }

// LetsIn reports whether the request goes on to the API.
func (r Reason) LetsIn() bool { return r <= Anonymous }

// String returns the label of r.
func (r Reason) String() string {
	if int(r) >= NumReasons {
		return "invalid"
	}
	return answers[r].Label
}
