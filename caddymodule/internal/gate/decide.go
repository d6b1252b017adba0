package gate

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Match says whether a rule is about a request. A nil Match is about all.
type Match func(*http.Request) (bool, error)

// Per is what the buckets of a limit are kept for.
type Per uint8

// The subjects of a limit.
const (
	PerKey Per = iota
	PerTenant
	PerAddress
)

var perNames = [...]string{"key", "tenant", "address"}

// String returns key, tenant or address.
func (p Per) String() string { return perNames[p] }

// ParsePer reads what String writes.
func ParsePer(s string) (Per, bool) {
	for i, n := range perNames {
		if n == s {
			return Per(i), true
		}
	}
	return 0, false
}

// Limit is one rate limit of a gate.
type Limit struct {
	Match Match
	Per   Per
	Rate  access.Rate
	Class uint64 // tells its buckets from those of other limits
	Name  string // in RateLimit fields
}

// MaxLimits is how many token buckets one request can draw on. A request that
// more limits are about is refused as Unavailable: none of them may be left out.
const MaxLimits = 8

// classes of buckets that are not a gate's limits
const (
	classFailures uint64 = 1
	classPlan     uint64 = 16 // and up: the second and later rates of a plan
)

// State is what outlives configurations: who holds keys, and how much of which
// limit is used.
type State struct {
	Index    *index.Index
	Limiter  *limit.Limiter
	Digester *token.Digester

	// Foreign finds the key of a text that only a slow or salted hash knows; busy
	// is that it cannot tell now. It may wait. nil: there are none.
	Foreign func(ctx context.Context, text string) (rec *index.Record, busy bool)
	// Adopt is told of a secret that was let in and is known by another digest
	// than ours: that of rec was `was`, under alg. It must not wait. It may be nil.
	Adopt func(rec *index.Record, alg uint8, was [32]byte, secret token.Secret)

	// lastFailure is the limiter's time of the last failed attempt, plus one. A
	// gate that sees none for long need not look up the client's address.
	lastFailure atomic.Int64
}

// Throttle bounds failed attempts per client network.
type Throttle struct {
	Rate           access.Rate // zero is off
	V4Bits, V6Bits int
}

// Gate is the rules of one gate under one configuration. It is immutable and
// safe for concurrent use.
type Gate struct {
	Sources     []Source
	Keys        token.Set // the prefixes minted here
	Public      []Match
	Optional    bool
	AllowHTTP   bool
	WebSocket   bool // may be opened over HTTP/2 and HTTP/3, by CONNECT
	Limits      []Limit
	Plans       map[string]*access.Plan
	DefaultPlan *access.Plan // may be nil: no limits but the keys' own
	Throttle    Throttle
	Now         func() time.Time // nil is time.Now

	Permissions *access.Permissions // may be nil: then a name holds itself alone
	Permits     []Permit            // see Permit; none: a key needs no permission
	Guards      []Guard             // all that are about a request hold
	// Learn is asked about secrets of another shape than ours that nobody knows,
	// once the client's failures are no hindrance. It returns the key's record, or
	// nil; busy if it cannot tell now. nil: nobody is asked.
	Learn      func(ctx context.Context, text string) (rec *index.Record, busy bool)
	NormalForm bool          // refuse targets that are not; set if any rule is about paths
	Notice     time.Duration // how long before its end an expiry is a Call's Sunset

	once  sync.Once // makes needs
	needs map[string]need

	// Client tells the address of a request's client; the zero Addr if it has
	// none. It is asked at most once for a request, and only if that matters.
	Client func(*http.Request) netip.Addr
}

// Call is one request on its way through a gate: what Decide is told and what
// it finds out.
type Call struct {
	Started int64 // the limiter's time
	Secure  bool  // TLS, loopback or a unix socket

	Reason    access.Reason
	Limited   bool // at least one limit is about the request
	Throttled bool // this very request exhausted its address's failures
	Old       bool // it came with a secret that was rotated away
	Slow      bool // State.Foreign was asked

	CreditsNeeded, CreditsAvailable int64 // whole credits, if the reason is NoCredits

	looked bool  // for the address
	alg    uint8 // of the digest that the secret was found by

	Record     *index.Record // nil unless the secret was right
	Tenant     *index.Tenant // nil unless the secret was right
	Result     limit.Result  // of the limits; valid if Limited
	Retry      time.Duration // of a throttled client
	Needed     []string      // permissions of which the request needs one; see Permit
	Deprecated int64         // unix second of the rotation, if Old; 0 is none
	Sunset     int64         // unix second at which the secret ends, if Old or within the notice; 0 is none

	mark    uint64 // first bytes of our digest of the secret
	found   uint64 // those of the digest it was found by
	foreign *foreign
	address netip.Addr // see Gate.Address
}

// Address returns the address of the client; the zero Addr if it has none.
func (g *Gate) Address(r *http.Request, c *Call) netip.Addr {
	if !c.looked && g.Client != nil {
		c.address, c.looked = g.Client(r), true
	}
	return c.address
}

// Asks are the limits that are about one request. They are apart from the Call
// because they are large and few need them once the request is decided.
type Asks struct {
	list [MaxLimits]limit.Ask
	n    int
}

// List returns the limits.
func (a *Asks) List() []limit.Ask { return a.list[:a.n] }

// Decide sets c.Reason and what led to it. asks is empty and is filled with the
// limits about the request.
func (g *Gate) Decide(s *State, r *http.Request, c *Call, asks *Asks) {
	c.Reason = g.decide(s, r, c, asks)
	if c.Reason.Answer().Failure {
		g.fail(s, r, c)
	}
	if c.foreign != nil {
		c.adopt(s)
	}
}

// decide is the one order of checks.
func (g *Gate) decide(s *State, r *http.Request, c *Call, asks *Asks) access.Reason {
	if reason := g.screen(r, c); reason != access.Allowed {
		return reason
	}
	if preflight(r) {
		return access.Anonymous
	}
	if r.Method == http.MethodConnect {
		defer ShowGet(r)()
	}
	public, err := anyMatch(g.Public, r)
	if err != nil {
		return access.Unavailable
	}
	reason := access.Anonymous
	if !public {
		if reason = g.authenticate(s, r, c); reason.LetsIn() {
			reason = g.authorize(s, r, c, reason)
		}
		if !reason.LetsIn() {
			return reason
		}
	}
	if !g.gather(s, r, c, asks) {
		return access.Unavailable
	}
	if asks.n > 0 {
		c.Limited = true
		c.Result = s.Limiter.Take(c.Started, asks.List())
		if !c.Result.OK {
			return access.RateLimited
		}
	}
	return reason
}

func anyMatch(ms []Match, r *http.Request) (bool, error) {
	for _, m := range ms {
		if m == nil {
			return true, nil
		}
		if ok, err := m(r); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// authenticate finds out whose request it is.
func (g *Gate) authenticate(s *State, r *http.Request, c *Call) access.Reason {
	cred := find(g.Sources, r)
	if !cred.found {
		if g.Optional {
			return access.Anonymous
		}
		return access.Missing
	}
	if cred.two {
		return access.Ambiguous
	}
	if g.throttled(s, r, c) {
		return access.Throttled
	}
	shape := g.Keys.Classify(cred.first)
	if shape == token.Garbage || shape == token.Oversize {
		return access.Malformed
	}
	reason := g.identify(s, r, c, cred.first)
	if reason == access.Unknown && g.Learn != nil && shape == token.Foreign {
		reason = g.learn(r, c, cred.first)
	}
	if reason != access.Allowed {
		return reason
	}
	c.Tenant = s.Index.Tenant(c.Record)
	if reason = g.alive(c); reason == access.Allowed {
		c.Tenant.Near()
	}
	return reason
}

func (g *Gate) alive(c *Call) access.Reason {
	switch {
	case c.Record.Status() == access.StatusRevoked:
		return access.Revoked
	case c.Record.Status() != access.StatusActive:
		return access.Disabled
	case c.Tenant == nil || c.Tenant.Status != access.StatusActive:
		return access.Suspended
	}
	if at := c.Record.Expires(); at != 0 {
		left := at - g.now().Unix()
		if left <= 0 {
			return access.Expired
		}
		if left <= int64(g.Notice/time.Second) && (c.Sunset == 0 || at < c.Sunset) {
			c.Sunset = at
		}
	}
	return access.Allowed
}

func (g *Gate) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return time.Now()
}

// Plan returns the plan of a tenant under this configuration, or nil.
func (g *Gate) Plan(t *index.Tenant) *access.Plan {
	if t != nil && t.Plan != "" {
		if p := g.Plans[t.Plan]; p != nil {
			return p
		}
	}
	return g.DefaultPlan
}
