package mgmt

import (
	"encoding/json"
	"reflect"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Key is a key as the API shows it.
type Key struct {
	ID                string            `json:"id"`
	Key               string            `json:"key,omitempty"` // the secret, at creation and rotation alone
	Tenant            string            `json:"tenant"`
	Name              string            `json:"name"`
	Description       string            `json:"description"`
	Prefix            string            `json:"prefix"` // the first characters of the secret
	Environment       string            `json:"environment"`
	Status            string            `json:"status"` // active, disabled or revoked
	Rate              *Rate             `json:"rate"`   // null: the plan's rates hold
	Permissions       []string          `json:"permissions"`
	Addresses         []string          `json:"addresses"` // networks; none is anywhere
	Metadata          map[string]string `json:"metadata"`
	Override          *Override         `json:"override"` // null: all is as the plan has it
	CreatedAt         time.Time         `json:"created_at"`
	ExpiresAt         *time.Time        `json:"expires_at"`          // null: never
	RotatedAt         *time.Time        `json:"rotated_at"`          // null: the first secret is the present one
	PreviousExpiresAt *time.Time        `json:"previous_expires_at"` // until when the secret before is good; null: there is none
	RevokedAt         *time.Time        `json:"revoked_at"`          // null: not revoked
	LastUsedAt        *time.Time        `json:"last_used_at"`        // up to a minute old; null: never
	LastUsedAddress   string            `json:"last_used_address"`
	LastUsedAgent     string            `json:"last_used_agent"`
	// Credits is what it used of credits of its own, in the answer to GET
	// keys/{key} alone. It is missing if the key has none in force, if nothing
	// counts them, or while the counts cannot be read.
	Credits *KeyCredits `json:"credits,omitempty"`
}

// KeyList is a page of keys.
type KeyList struct {
	Keys []Key  `json:"keys"`
	Next string `json:"next,omitempty"` // cursor of the next page; empty at the end
}

// CreateKey is the body of POST tenants/{tenant}/keys.
type CreateKey struct {
	Name        string            `json:"name,omitempty"`
	Description string            `json:"description,omitempty"`
	ExpiresAt   *time.Time        `json:"expires_at,omitempty"`
	ExpiresIn   *int64            `json:"expires_in,omitempty"` // seconds from now; not together with ExpiresAt
	Rate        *Rate             `json:"rate,omitempty"`
	Prefix      string            `json:"prefix,omitempty"`
	Environment string            `json:"environment,omitempty"`
	Permissions []string          `json:"permissions,omitempty"`
	Addresses   []string          `json:"addresses,omitempty"` // networks or single addresses
	Metadata    map[string]string `json:"metadata,omitempty"`
}

// UpdateKey is the body of PATCH keys/{key}. What is left out stays.
type UpdateKey struct {
	Name        *string             `json:"name,omitempty"`
	Description *string             `json:"description,omitempty"`
	Status      *string             `json:"status,omitempty"`     // active or disabled
	ExpiresAt   Nullable[time.Time] `json:"expires_at,omitzero"`  // null is never
	Rate        Nullable[Rate]      `json:"rate,omitzero"`        // null is the plan's
	Permissions *[]string           `json:"permissions,omitzero"` // replaces all
	Addresses   *[]string           `json:"addresses,omitzero"`   // replaces all; none is anywhere
	Metadata    *map[string]string  `json:"metadata,omitzero"`    // replaces all entries
}

func (*UpdateKey) refusesNull() {}

// RotateKey is the body of POST keys/{key}/rotate, which may be missing.
type RotateKey struct {
	// Grace is how long the old secret stays good, such as 24h, 7d or 0; nil is
	// what the configuration says.
	Grace *string `json:"grace,omitempty"`
}

func (*RotateKey) mayBeMissing() {}

// RevokeSecret is the body of POST keys/revoke-secret.
type RevokeSecret struct {
	Secret string `json:"secret"` // the text of the key
}

// Nullable is a field of which null says something else than its absence. The
// zero value is absent.
type Nullable[T any] struct {
	Set   bool // it is there, as a value or as null
	Value *T   // nil is null
}

// Value returns a Nullable of v.
func Value[T any](v T) Nullable[T] { return Nullable[T]{Set: true, Value: &v} }

// Null returns a Nullable of null.
func Null[T any]() Nullable[T] { return Nullable[T]{Set: true} }

// UnmarshalJSON implements json.Unmarshaler.
func (n *Nullable[T]) UnmarshalJSON(b []byte) error {
	n.Set = true
	return json.Unmarshal(b, &n.Value)
}

// MarshalJSON implements json.Marshaler. Absence is the matter of omitzero.
func (n Nullable[T]) MarshalJSON() ([]byte, error) { return json.Marshal(n.Value) }

func (Nullable[T]) inner() reflect.Type { return reflect.TypeFor[T]() }

// ShowKey returns the API's form of a key, without a secret and without its
// last use.
func ShowKey(k *access.Key) Key {
	out := Key{
		ID:          k.ID.String(),
		Tenant:      k.Tenant,
		Name:        k.Name,
		Description: k.Description,
		Prefix:      k.Prefix,
		Environment: k.Environment,
		Status:      k.Status.String(),
		Permissions: append([]string{}, k.Permissions()...),
		Addresses:   []string{},
		Metadata:    filled(k.Metadata),
		Override:    ShowOverride(k.Override),
		CreatedAt:   k.CreatedAt.UTC(),
		ExpiresAt:   unix(k.Expires),
		RotatedAt:   present(k.RotatedAt),
		RevokedAt:   present(k.RevokedAt),
	}
	for _, a := range k.Addresses() {
		out.Addresses = append(out.Addresses, a.String())
	}
	if !k.Rate.IsZero() {
		out.Rate = ShowRate(k.Rate)
	}
	if k.Previous != nil {
		out.PreviousExpiresAt = unix(k.Previous.Until)
	}
	return out
}

// use adds the last use.
func (k *Key) use(u access.Use) {
	k.LastUsedAt, k.LastUsedAgent = unix(u.At), u.Agent
	if u.Address.IsValid() {
		k.LastUsedAddress = u.Address.String()
	}
}

// unix returns the time of a unix second, nil for 0.
func unix(seconds int64) *time.Time {
	if seconds == 0 {
		return nil
	}
	return new(time.Unix(seconds, 0).UTC())
}

// present returns nil for the zero time.
func present(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}
