package registrar

import (
	"context"
	"net/netip"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Policy is the rules for keys that the configuration sets. Zero turns a rule
// off.
type Policy struct {
	MaxExpiry     time.Duration   // from its creation or change, a key lives at most so long
	DefaultExpiry time.Duration   // how long a key lives for which no expiry was given
	IdleExpiry    time.Duration   // a key unused for so long is revoked
	RotateGrace   time.Duration   // how long the old secret stays good unless the request says
	RotateSettle  time.Duration   // how long it stays good once the new secret was used; 0: until the grace ends
	AuditRetain   time.Duration   // how long audit entries are kept
	Notice        []time.Duration // before expiry, when api_key_expiring is sent
}

// Idempotency makes a repeated request return the answer of the first.
type Idempotency struct {
	Key   string   // the client's: 1 to 255 visible ASCII characters
	Scope string   // who asks: "operator" or the id of the caller's key
	Body  [32]byte // hash of the request; another one under the same Key is a Mismatch
}

// Issued is a key together with its new secret.
type Issued struct {
	Key      *access.Key
	Secret   token.Secret
	Replayed bool // the answer of an earlier request with the same Idempotency
}

// RotateRequest says how a key gets a new secret.
type RotateRequest struct {
	// Grace is how long the old secret stays good, in whole seconds; 0 is not at
	// all, nil is the policy's.
	Grace       *time.Duration
	Idempotency *Idempotency
}

// AuditFilter says which audit entries a list holds. Empty fields match all.
type AuditFilter struct {
	Tenant string
	Object string
	Action string
	Actor  string    // an actor's kind, name or key
	Since  time.Time // at or after
	Until  time.Time // before
}

// ImportKey is a key of another product. Exactly one of Secret, SHA256 and Hash
// is set.
type ImportKey struct {
	Line        int // where it stood, for the report
	Tenant      string
	Name        string
	Description string
	Secret      token.Secret
	SHA256      []byte // plain SHA-256 of the secret, 32 bytes
	Hint        string // what the secret starts with; may be empty
	Hash        string // salted or slow hash, as token.ParseHash reads it
	Permissions []string
	Addresses   []netip.Prefix
	Rate        *access.Rate
	Expires     time.Time // zero is never
	Created     time.Time // zero is now
	LastUsed    time.Time // zero is never
	Metadata    map[string]string
	Disabled    bool
	Environment string
	ID          string // a key id of ours to keep; empty for a new one
}

// ImportOptions says how Import works.
type ImportOptions struct {
	DryRun        bool // check everything, change nothing
	CreateTenants bool // make the tenants that are not there
}

// ImportResult is what became of one ImportKey.
type ImportResult struct {
	Line    int
	ID      access.KeyID
	Skipped bool   // the tenant has a key with this secret already
	Err     *Error // why it was refused; nil if it was not
}

// Me is what a key may know of itself.
type Me struct {
	Key    *access.Key
	Tenant *access.Tenant
	Plan   *access.Plan // nil: none of that name, or no default plan
	Use    access.Use
}

// Desk is the tenant's door to the registrar, bound to the key of its caller.
type Desk struct {
	r      *Registrar
	caller access.KeyID
	actor  access.Actor
}

var errPending = &Error{Code: Unavailable, Message: "not there yet"}

// WithActor returns a context whose changes are put down to a in the audit trail.
func WithActor(ctx context.Context, a access.Actor) context.Context { return ctx }

// IssueKey mints a key.
func (r *Registrar) IssueKey(ctx context.Context, req CreateKeyRequest) (*Issued, error) {
	return nil, errPending
}

// RotateKey gives a key a new secret.
func (r *Registrar) RotateKey(ctx context.Context, id access.KeyID, req RotateRequest) (*Issued, error) {
	return nil, errPending
}

// SettleRotation ends the old secret's grace early.
func (r *Registrar) SettleRotation(ctx context.Context, id access.KeyID) error { return errPending }

// Adopt makes an imported digest one of ours.
func (r *Registrar) Adopt(ctx context.Context, id access.KeyID, alg uint8, was [32]byte, secret token.Secret) error {
	return errPending
}

// RevokeSecret revokes the key that has a secret.
func (r *Registrar) RevokeSecret(ctx context.Context, secret token.Secret) (*access.Key, error) {
	return nil, errPending
}

// RecordUses stores last uses.
func (r *Registrar) RecordUses(ctx context.Context, uses map[access.KeyID]access.Use) error {
	return errPending
}

// Sweep does what time asks for.
func (r *Registrar) Sweep(ctx context.Context) error { return errPending }

// Audit lists audit entries.
func (r *Registrar) Audit(ctx context.Context, f AuditFilter, after uint64, limit int) ([]access.AuditEntry, uint64, error) {
	return nil, 0, errPending
}

// VerifyAudit checks the audit trail.
func (r *Registrar) VerifyAudit(ctx context.Context) (uint64, error) { return 0, errPending }

// Import stores keys of another product.
func (r *Registrar) Import(ctx context.Context, keys []ImportKey, o ImportOptions) ([]ImportResult, error) {
	return nil, errPending
}

// LastUse returns the last stored use of a key.
func (r *Registrar) LastUse(ctx context.Context, id access.KeyID) (access.Use, error) {
	return access.Use{}, errPending
}

// RecordBackup notes a backup in the audit trail.
func (r *Registrar) RecordBackup(ctx context.Context, bytes int64) error { return errPending }

// Desk returns the tenant's door for a caller.
func (r *Registrar) Desk(caller access.KeyID, actor access.Actor) *Desk {
	return &Desk{r, caller, actor}
}

// IssueKey mints a key of the caller's tenant.
func (d *Desk) IssueKey(ctx context.Context, req CreateKeyRequest) (*Issued, error) {
	return nil, errPending
}

// Keys lists the tenant's keys.
func (d *Desk) Keys(ctx context.Context, f KeyFilter, after access.KeyID, limit int) ([]*access.Key, access.KeyID, error) {
	return nil, access.KeyID{}, errPending
}

// Key returns one of the tenant's keys.
func (d *Desk) Key(ctx context.Context, id access.KeyID) (*access.Key, error) { return nil, errPending }

// UpdateKey changes one of the tenant's keys.
func (d *Desk) UpdateKey(ctx context.Context, id access.KeyID, u KeyUpdate) (*access.Key, error) {
	return nil, errPending
}

// RotateKey gives one of the tenant's keys a new secret.
func (d *Desk) RotateKey(ctx context.Context, id access.KeyID, req RotateRequest) (*Issued, error) {
	return nil, errPending
}

// RevokeKey refuses one of the tenant's keys for good.
func (d *Desk) RevokeKey(ctx context.Context, id access.KeyID) (*access.Key, error) {
	return nil, errPending
}

// LastUse returns the last stored use of one of the tenant's keys.
func (d *Desk) LastUse(ctx context.Context, id access.KeyID) (access.Use, error) {
	return access.Use{}, errPending
}

// Me returns the caller.
func (d *Desk) Me(ctx context.Context) (*Me, error) { return nil, errPending }
