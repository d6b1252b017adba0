package registrar

import (
	"crypto/rand"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/audit"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Bounds of a page of a list.
const (
	DefaultLimit = 50
	MaxLimit     = 100
)

// Prefix is a key prefix that may be minted, and the environment its keys are
// of.
type Prefix struct {
	Text        string // as token.CheckPrefix wants it
	Environment string // may be empty
}

// Options is what a Registrar works with.
type Options struct {
	Store    store.Store     // where the records are; required
	Digester *token.Digester // of the installation; required
	// Prefixes returns the prefixes that may be minted; the first is the default.
	// It is called for each new key, so that a reloaded configuration counts at
	// once. Required.
	Prefixes func() []Prefix
	// Plans returns the names of the configured plans. It may be nil: then only
	// the default plan, which has no name, can be set.
	Plans func() []string
	// Permissions returns the configured permissions. It may be nil: then none
	// are.
	Permissions func() *access.Permissions
	// Plan returns a configured plan by its name, the empty one too, or nil. It
	// may be nil: then there is none.
	Plan func(name string) *access.Plan
	// CountsCredits reports whether the credits of tenants on a configured plan
	// are counted. It may be nil: then they are on all.
	CountsCredits func(plan string) bool
	// Policy returns the configured rules. It may be nil: then there are none.
	Policy func() Policy
	// Providers returns the names of the configured providers, sorted. It may be
	// nil: then none are.
	Providers func() []string
	// Keyring returns what wraps data keys. It is called for each provider key that
	// is stored or opened, so that a reloaded configuration counts at once. It, and
	// what it returns, may be nil: then provider keys are Unavailable.
	Keyring func() *seal.Keyring
	// Find returns the key that a digest belongs to, as its present or previous
	// secret, whatever the key's status. It may be nil: then the store is searched.
	Find func(digest [32]byte) (access.KeyID, bool)
	// Now tells the time; nil is time.Now.
	Now func() time.Time
	// Random is the source of ids and secrets; nil is crypto/rand.Reader.
	Random io.Reader
	// OnEvent is told of changes after they are durable: api_key_created,
	// api_key_rotated, api_key_revoked, api_key_expired (for want of use),
	// api_key_expiring, tenant_suspended, provider_key_stored and
	// provider_key_deleted. The data never holds a secret. It is called on the
	// goroutine of the change. It may be nil.
	OnEvent func(name string, data map[string]any)
}

// Registrar writes and reads tenants, keys and provider keys. It is safe for
// concurrent use.
type Registrar struct {
	o     Options
	chain *audit.Chain
	box   *seal.Box
}

// New returns a Registrar.
func New(o Options) *Registrar {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Plans == nil {
		o.Plans = func() []string { return nil }
	}
	if o.Permissions == nil {
		o.Permissions = func() *access.Permissions { return nil }
	}
	if o.Plan == nil {
		o.Plan = func(string) *access.Plan { return nil }
	}
	if o.CountsCredits == nil {
		o.CountsCredits = func(string) bool { return true }
	}
	if o.Policy == nil {
		o.Policy = func() Policy { return Policy{} }
	}
	if o.Providers == nil {
		o.Providers = func() []string { return nil }
	}
	if o.Keyring == nil {
		o.Keyring = func() *seal.Keyring { return nil }
	}
	// No secret holds a NUL: no digest that is stored tells anything of these.
	return &Registrar{o: o, chain: audit.NewChain(o.Digester.Sum("\x00audit chain")), box: seal.New(o.Digester.Sum("\x00answer seal"))}
}

// now returns the time in whole seconds: what a creation returns is then equal
// to what is read back, whatever precision the store keeps.
func (r *Registrar) now() time.Time { return r.o.Now().UTC().Truncate(time.Second) }

func (r *Registrar) emit(name string, data map[string]any) {
	if r.o.OnEvent != nil {
		r.o.OnEvent(name, data)
	}
}

func (r *Registrar) checkPlan(name string) error {
	if name == "" {
		return nil
	}
	plans := r.o.Plans()
	if slices.Contains(plans, name) {
		return nil
	}
	e := invalid("plan", "there is no plan %q in the configuration", name)
	if len(plans) == 0 {
		e.Hint = "no plan is configured: leave the plan out, or add one with `plan <name> { … }`"
	} else {
		sorted := slices.Sorted(slices.Values(plans))
		e.Hint = "plans: " + strings.Join(sorted, ", ")
	}
	return e
}

// checkLimit returns how many records a page holds.
func checkLimit(limit int) (int, error) {
	if limit == 0 {
		return DefaultLimit, nil
	}
	if limit < 0 || limit > MaxLimit {
		return 0, invalid("limit", "limit %d: want 1 to %d", limit, MaxLimit)
	}
	return limit, nil
}

// checked gives the text of one of access's checks a field.
func checked(field string, err error) error {
	if err == nil {
		return nil
	}
	return invalid(field, "%s", err)
}
