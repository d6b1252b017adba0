package registrar

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// What wraps data keys may be a service far away. It is asked outside of
// transactions, which run one after another: one reads the data key, and the
// one that writes makes sure that it is still the same.

// errRaced ends a transaction that found another data key than was read before.
var errRaced = errors.New("the data key was changed meanwhile")

// dataKeyTries bounds how often a change is tried anew because another one came
// before it.
const dataKeyTries = 10

// retry runs try until it returns something else than errRaced.
func retry(try func() error) error {
	for range dataKeyTries {
		if err := try(); !errors.Is(err, errRaced) {
			return err
		}
	}
	return &Error{Code: Conflict, Message: "the tenant's provider keys are being changed by others", Hint: "try again"}
}

// ring returns what wraps data keys now.
func (r *Registrar) ring() (*seal.Keyring, error) {
	ring := r.o.Keyring()
	if ring == nil {
		return nil, &Error{Code: Unavailable, Message: "provider keys cannot be sealed here", Hint: "this storage hands out no master key: use one that does"}
	}
	return ring, nil
}

// dataKeyAAD binds a data key to its tenant.
func dataKeyAAD(tenantID string) []byte { return bind("keytoll data key v1", tenantID) }

// providerKeyAAD binds what is sealed to its tenant and provider, and to the id
// of the one time that it was brought: what is sealed of an older one does not
// open in the record of a newer. A whole record that somebody puts back, who can
// write to the file, does, for as long as the tenant has the data key of then.
func providerKeyAAD(k *access.ProviderKey) []byte {
	return bind("keytoll provider key v1", k.Tenant, k.Provider, k.ID)
}

// bind puts each part behind its length, so that no two lists are the same bytes.
func bind(purpose string, parts ...string) []byte {
	b := []byte(purpose)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// dataKey reads a tenant's data key; nil if it has none.
func dataKey(rd store.Reader, tenantID string) (*access.DataKey, error) {
	k, err := rd.DataKey(tenantID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return k, err
}

// stillThere returns errRaced if the data key is not the one that was read, nil
// for none.
func stillThere(rd store.Reader, tenantID string, have *access.DataKey) error {
	now, err := dataKey(rd, tenantID)
	if err != nil {
		return err
	}
	if (now == nil) != (have == nil) || now != nil && (now.Wrapper != have.Wrapper || !bytes.Equal(now.Wrapped, have.Wrapped)) {
		return errRaced
	}
	return nil
}

// dropDataKey deletes a tenant's data key if there is nothing that it seals.
func dropDataKey(tx store.Tx, tenantID string) error {
	used := false
	err := tx.ProviderKeys(tenantID, func(*access.ProviderKey) bool {
		used = true
		return false
	})
	if err != nil || used {
		return err
	}
	if err := tx.DeleteDataKey(tenantID); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// dataKeyFor returns what seals a tenant's provider keys: the data key that it
// has or, for nil, a new one together with the record that is to be stored.
func (r *Registrar) dataKeyFor(ctx context.Context, ring *seal.Keyring, tenantID string, have *access.DataKey) (*seal.DataKey, *access.DataKey, error) {
	if have == nil {
		return r.newDataKey(ctx, ring, tenantID)
	}
	k, err := openDataKey(ctx, ring, tenantID, have)
	return k, have, err
}

func (r *Registrar) newDataKey(ctx context.Context, ring *seal.Keyring, tenantID string) (*seal.DataKey, *access.DataKey, error) {
	k, w, err := ring.New(ctx, dataKeyAAD(tenantID))
	if err != nil {
		return nil, nil, unanswered(ctx, fmt.Sprintf("a new data key of tenant %q", tenantID), err)
	}
	return k, &access.DataKey{Tenant: tenantID, Wrapper: w.Wrapper, Wrapped: w.Bytes, CreatedAt: r.now()}, nil
}

// openDataKey opens a tenant's data key. Nil, where there are provider keys, is
// one that somebody took out of the database.
func openDataKey(ctx context.Context, ring *seal.Keyring, tenantID string, have *access.DataKey) (*seal.DataKey, error) {
	what := fmt.Sprintf("the data key of tenant %q", tenantID)
	if have == nil {
		return nil, unopened(what, fmt.Errorf("it is missing: %w", seal.ErrSealed))
	}
	k, err := ring.Open(ctx, seal.Wrapped{Wrapper: have.Wrapper, Bytes: have.Wrapped}, dataKeyAAD(tenantID))
	if err != nil {
		return nil, unanswered(ctx, what, err)
	}
	return k, nil
}

// unanswered is unopened for what was asked of a wrapper, but for a request that
// ended.
func unanswered(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return unopened(what, err)
}

// unopened is the refusal for a seal that did not open or could not be made.
// Its cause may be logged.
func unopened(what string, err error) *Error {
	e := &Error{Code: Unavailable, Message: "the tenant's provider keys cannot be opened now", Hint: "try again: what wraps data keys does not answer",
		cause: fmt.Errorf("%s: %w", what, err)}
	switch {
	case errors.Is(err, seal.ErrNoWrapper):
		e.Hint = "configure the master key or KMS of before as the previous one, and run: caddy keytoll rekey"
	case errors.Is(err, seal.ErrSealed):
		e.Hint = "the database was changed or damaged: put a backup back, or delete the key and store it anew"
	}
	return e
}
