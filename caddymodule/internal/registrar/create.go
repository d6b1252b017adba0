package registrar

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// MaxPermissions is how many permissions a key may have.
const MaxPermissions = access.MaxPermissions

// maxExpiry is the first instant that RFC 3339 cannot write.
var maxExpiry = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)

// CreateKeyRequest is a key to be.
type CreateKeyRequest struct {
	Tenant      string            // required: an active tenant; at a Desk it is the caller's, whatever this says
	Name        string            // for people; may be empty
	Expires     *time.Time        // from when it is refused, in whole seconds; nil is the policy's default, else never
	Rate        *access.Rate      // overrides the plan's rates; nil is the plan's
	Prefix      string            // one that is configured; empty is the environment's
	Environment string            // picks its first prefix; empty is the prefix's
	Permissions []string          // what it may do; doubles are dropped
	LikeCaller  bool              // at a Desk: what the caller may do, in place of Permissions
	Metadata    map[string]string // the owner's own values
	Description string            // for people; may be empty
	Addresses   []netip.Prefix    // where it may be used from; none is anywhere
	ExpiresIn   time.Duration     // the expiry as a time from now; not together with Expires
	Idempotency *Idempotency      // nil: each request makes a key
}

// CreateKey mints a key and stores it without its secret, which is returned
// here and nowhere else. Errors as IssueKey.
func (r *Registrar) CreateKey(ctx context.Context, req CreateKeyRequest) (*access.Key, token.Secret, error) {
	out, err := r.IssueKey(ctx, req)
	if err != nil {
		return nil, token.Secret{}, err
	}
	return out.Key, out.Secret, nil
}

// IssueKey mints a key and stores it without its secret, which is in the
// answer alone and, sealed and for ten minutes, in the one kept for
// req.Idempotency. Errors: InvalidRequest, NotFound for a tenant that is not
// there, Conflict for a suspended one and for what its plan does not allow,
// Mismatch, Unavailable.
func (r *Registrar) IssueKey(ctx context.Context, req CreateKeyRequest) (*Issued, error) {
	return r.issue(ctx, nil, req)
}

func (r *Registrar) issue(ctx context.Context, d *Desk, req CreateKeyRequest) (*Issued, error) {
	route := "create"
	if d == nil {
		route += "\x00" + req.Tenant
	}
	o, err := r.newOnce(req.Idempotency, d, route)
	if err != nil {
		return nil, err
	}
	if out, err := o.replay(ctx, d); out != nil || err != nil {
		return out, err
	}
	if err := checkCreate(req, d); err != nil {
		return nil, err
	}
	var out *Issued
	err = r.o.Store.Update(ctx, func(tx store.Tx) (err error) {
		if out, err = o.find(tx, d); err != nil {
			return err
		}
		if out != nil { // the same request was faster by a moment
			return errUnchanged
		}
		if out, err = r.create(tx, d, req); err != nil {
			return err
		}
		return errors.Join(r.recordKey(ctx, tx, "key.created", nil, out.Key), o.keep(tx, out))
	})
	if err = public("creating a key", err); err != nil {
		return nil, err
	}
	if !out.Replayed {
		r.emit("api_key_created", keyEvent(out.Key))
	}
	return out, nil
}

// create makes a key in a transaction.
func (r *Registrar) create(tx store.Tx, d *Desk, req CreateKeyRequest) (*Issued, error) {
	b, err := r.boundsOf(tx, d, req.Tenant)
	if err != nil {
		return nil, err
	}
	if b.tenant.Status != access.StatusActive {
		return nil, &Error{Code: Conflict, Field: "tenant", Message: fmt.Sprintf("tenant %q is %s: none of its keys would pass", b.tenant.ID, b.tenant.Status),
			Hint: "caddy keytoll tenants resume " + b.tenant.ID}
	}
	k, err := r.newKey(b, req)
	if err != nil {
		return nil, err
	}
	prefix, err := r.prefixFor(b, req)
	if err != nil {
		return nil, err
	}
	if err := checkRoom(tx, b); err != nil {
		return nil, err
	}
	secret, err := r.mint(k, prefix)
	if err != nil {
		return nil, err
	}
	var id access.KeyID
	if _, err := token.AppendRandom(id[:0], len(id), r.o.Random); err != nil {
		return nil, err
	}
	k.ID, k.Environment = id, prefix.Environment
	return &Issued{Key: k, Secret: secret}, errors.Join(tx.CreateKey(k), addKeys(tx, k.Tenant, 1), r.noteOverride(tx, k))
}

// newKey returns the key that is asked for, if the bounds allow it, without id
// and secret.
func (r *Registrar) newKey(b *bounds, req CreateKeyRequest) (*access.Key, error) {
	expires, err := r.newExpiry(b, req.Expires, req.ExpiresIn)
	if err != nil {
		return nil, err
	}
	var rate access.Rate
	switch {
	case req.Rate != nil:
		rate = *req.Rate
	case b.caller != nil:
		rate = b.caller.Rate
	}
	permissions := req.Permissions
	if req.LikeCaller && b.caller != nil {
		permissions = b.caller.Permissions()
	}
	addresses := req.Addresses
	if len(addresses) == 0 && b.caller != nil {
		addresses = b.caller.Addresses()
	}
	k := &access.Key{
		KeyHead: access.KeyHead{Status: access.StatusActive, Tenant: b.tenant.ID, Expires: expires, Rate: rate,
			Rights: access.NewRights(permissions, addresses), Override: b.inherited()},
		Name: req.Name, Description: req.Description, Metadata: maps.Clone(req.Metadata), CreatedAt: r.now(),
	}
	if !req.LikeCaller || b.caller == nil { // what plan and tenant lack is told at use
		if err := r.checkPermissions(b, k.Permissions()); err != nil {
			return nil, err
		}
	}
	if err := b.checkAddresses(k.Rights); err != nil {
		return nil, err
	}
	return k, b.checkRate(rate)
}

// mint gives k a new secret.
func (r *Registrar) mint(k *access.Key, prefix Prefix) (token.Secret, error) {
	set, err := token.NewSet(prefix.Text)
	if err != nil {
		return token.Secret{}, err
	}
	secret, err := token.Mint(prefix.Text, r.o.Random)
	if err != nil {
		return token.Secret{}, err
	}
	k.Digest, k.Alg, k.Prefix = r.o.Digester.Sum(secret.Reveal()), token.AlgHMAC, set.Display(secret)
	return secret, nil
}

// checkCreate checks what is wrong whatever is stored.
func checkCreate(req CreateKeyRequest, d *Desk) error {
	if d == nil {
		if req.Tenant == "" {
			return invalid("tenant", "a key needs a tenant")
		}
		if err := checked("tenant", access.CheckTenantID(req.Tenant)); err != nil {
			return err
		}
	}
	var rate error
	if req.Rate != nil {
		rate = checked("rate", req.Rate.Validate())
	}
	return first(
		checked("name", access.CheckName(req.Name)),
		checked("description", access.CheckDescription(req.Description)),
		checked("permissions", checkNames(req.Permissions)),
		checked("addresses", checkNetworks(req.Addresses)),
		checked("metadata", access.CheckMetadata(req.Metadata)),
		rate,
	)
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkNames(permissions []string) error {
	if n := len(permissions); n > MaxPermissions {
		return fmt.Errorf("there may be at most %d permissions, not %d", MaxPermissions, n)
	}
	for _, p := range permissions {
		if err := access.CheckPermission(p); err != nil {
			return err
		}
	}
	return nil
}

func checkNetworks(list []netip.Prefix) error {
	if n := len(list); n > access.MaxAddresses {
		return fmt.Errorf("a key is bound to at most %d networks, not %d", access.MaxAddresses, n)
	}
	for _, p := range list {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("%s is not a network: want one such as 192.0.2.0/24 or 2001:db8::/32", p)
		}
	}
	return nil
}

// prefixFor returns the prefix that a new key's secret starts with. A key made
// at a desk is of the caller's environment unless it asks for another.
func (r *Registrar) prefixFor(b *bounds, req CreateKeyRequest) (Prefix, error) {
	if b.caller != nil && req.Prefix == "" && req.Environment == "" {
		if p, err := r.pickPrefix("", b.caller.Environment); err == nil {
			return p, nil
		}
	}
	return r.pickPrefix(req.Prefix, req.Environment)
}

func (r *Registrar) pickPrefix(text, environment string) (Prefix, error) {
	prefixes := r.o.Prefixes()
	if len(prefixes) == 0 {
		return Prefix{}, invalid("prefix", "no key prefix is configured")
	}
	for _, p := range prefixes {
		if (text == "" || p.Text == text) && (environment == "" || p.Environment == environment) {
			return p, nil
		}
	}
	var known []string
	for _, p := range prefixes {
		known = append(known, strings.TrimSuffix(p.Text+" "+p.Environment, " "))
	}
	var e *Error
	switch {
	case text == "":
		e = invalid("environment", "no key prefix has the environment %q", environment)
	case environment == "":
		e = invalid("prefix", "key prefix %q is not configured", text)
	default:
		e = invalid("prefix", "no key prefix %q with the environment %q is configured", text, environment)
	}
	e.Hint = "configured: " + strings.Join(known, ", ")
	return Prefix{}, e
}
