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
const MaxPermissions = 64

// maxExpiry is the first instant that RFC 3339 cannot write.
var maxExpiry = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)

// CreateKeyRequest is a key to be.
type CreateKeyRequest struct {
	Tenant      string            // required: an active tenant
	Name        string            // for people; may be empty
	Expires     *time.Time        // from when it is refused, in whole seconds; nil is never
	Rate        *access.Rate      // overrides the plan's rates; nil is the plan's
	Prefix      string            // one that is configured; empty is the environment's
	Environment string            // picks its first prefix; empty is the prefix's
	Permissions []string          // told to the upstream; doubles are dropped
	Metadata    map[string]string // the owner's own values
	Description string            // for people; may be empty
	Addresses   []netip.Prefix    // where it may be used from; none is anywhere
	ExpiresIn   time.Duration     // the expiry as a time from now; not together with Expires
	Idempotency *Idempotency      // nil: each request makes a key
}

// CreateKey mints a key and stores it without its secret, which is returned
// here and nowhere else. Errors: InvalidRequest, NotFound for a tenant that is
// not there, Conflict for a suspended one, Unavailable.
func (r *Registrar) CreateKey(ctx context.Context, req CreateKeyRequest) (*access.Key, token.Secret, error) {
	prefix, err := r.checkCreate(req)
	if err != nil {
		return nil, token.Secret{}, err
	}
	k, secret, err := r.mint(req, prefix)
	if err != nil {
		return nil, token.Secret{}, public("minting a key", err)
	}
	err = r.o.Store.Update(ctx, func(tx store.Tx) error {
		t, err := tenant(tx, req.Tenant)
		if err != nil {
			return err
		}
		if t.Status != access.StatusActive {
			return &Error{Code: Conflict, Field: "tenant", Message: fmt.Sprintf("tenant %q is %s: none of its keys would pass", t.ID, t.Status),
				Hint: "caddy keytoll tenants resume " + t.ID}
		}
		return tx.CreateKey(k)
	})
	if err != nil {
		return nil, token.Secret{}, public("creating a key", err)
	}
	r.emit("api_key_created", keyEvent(k))
	return k, secret, nil
}

func (r *Registrar) mint(req CreateKeyRequest, prefix Prefix) (*access.Key, token.Secret, error) {
	set, err := token.NewSet(prefix.Text)
	if err != nil {
		return nil, token.Secret{}, err
	}
	secret, err := token.Mint(prefix.Text, r.o.Random)
	if err != nil {
		return nil, token.Secret{}, err
	}
	var id access.KeyID
	if _, err := token.AppendRandom(id[:0], len(id), r.o.Random); err != nil {
		return nil, token.Secret{}, err
	}
	k := &access.Key{
		KeyHead: access.KeyHead{
			ID:          id,
			Digest:      r.o.Digester.Sum(secret.Reveal()),
			Alg:         token.AlgHMAC,
			Status:      access.StatusActive,
			Tenant:      req.Tenant,
			Environment: prefix.Environment,
			Rights:      access.NewRights(req.Permissions, nil),
		},
		Name:      req.Name,
		Prefix:    set.Display(secret),
		Metadata:  maps.Clone(req.Metadata),
		CreatedAt: r.now(),
	}
	if req.Expires != nil {
		k.Expires = req.Expires.Unix()
	}
	if req.Rate != nil {
		k.Rate = *req.Rate
	}
	return k, secret, nil
}

func (r *Registrar) checkCreate(req CreateKeyRequest) (Prefix, error) {
	if req.Tenant == "" {
		return Prefix{}, invalid("tenant", "a key needs a tenant")
	}
	permissions := func() error {
		if n := len(req.Permissions); n > MaxPermissions {
			return fmt.Errorf("a key has at most %d permissions, not %d", MaxPermissions, n)
		}
		for _, p := range req.Permissions {
			if err := access.CheckPermission(p); err != nil {
				return err
			}
		}
		return nil
	}
	err := errors.Join( // the first is shown
		checked("tenant", access.CheckTenantID(req.Tenant)),
		checked("name", access.CheckName(req.Name)),
		checked("permissions", permissions()),
		checked("metadata", access.CheckMetadata(req.Metadata)),
		r.checkExpiry(req.Expires),
		checkRate(req.Rate),
	)
	if err != nil {
		e, _ := errors.AsType[*Error](err)
		return Prefix{}, e
	}
	return r.pickPrefix(req.Prefix, req.Environment)
}

func (r *Registrar) checkExpiry(t *time.Time) error {
	switch {
	case t == nil:
		return nil
	case t.Unix() <= r.o.Now().Unix():
		return invalid("expires_at", "the expiry %s is in the past", t.UTC().Format(time.RFC3339))
	case !t.Before(maxExpiry):
		return invalid("expires_at", "the expiry is after the year 9999: leave it out for a key that never expires")
	}
	return nil
}

func checkRate(rate *access.Rate) error {
	if rate == nil {
		return nil
	}
	return checked("rate", rate.Validate())
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
