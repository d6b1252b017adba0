package access

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// idPrefix starts every key id that keytoll shows.
const idPrefix = "key_"

// KeyID names a key for good: 16 base62 characters (95 bits). It is not a
// secret and survives rotation.
type KeyID [16]byte

// ErrKeyID reports text that is not a key id.
var ErrKeyID = errors.New("not a key id: want key_ and 16 letters or digits")

// ParseKeyID reads the form that String writes. It returns ErrKeyID for
// anything else.
func ParseKeyID(s string) (KeyID, error) {
	var id KeyID
	if len(s) != len(idPrefix)+len(id) || s[:len(idPrefix)] != idPrefix {
		return id, ErrKeyID
	}
	copy(id[:], s[len(idPrefix):])
	for _, c := range id {
		if !alphanumeric(c) {
			return KeyID{}, ErrKeyID
		}
	}
	return id, nil
}

// String returns "key_" and the 16 characters.
func (id KeyID) String() string { return idPrefix + string(id[:]) }

// AppendTo appends what String returns, without allocating.
func (id *KeyID) AppendTo(b []byte) []byte { return append(append(b, idPrefix...), id[:]...) }

// Status is the life state of a key or a tenant.
type Status uint8

// The states. Zero is no state, so that a forgotten field is never active.
const (
	StatusActive    Status = 1 + iota
	StatusDisabled         // a key switched off; may be enabled again
	StatusRevoked          // a key that is gone for good
	StatusSuspended        // a tenant none of whose keys pass
)

var statusNames = [...]string{"", "active", "disabled", "revoked", "suspended"}

// String returns the lower-case word for s, or "unknown".
func (s Status) String() string {
	if s == 0 || int(s) >= len(statusNames) {
		return "unknown"
	}
	return statusNames[s]
}

// ParseStatus reads the words that String writes.
func ParseStatus(s string) (Status, error) {
	for i, n := range statusNames {
		if i > 0 && n == s {
			return Status(i), nil
		}
	}
	return 0, fmt.Errorf("unknown status %q: want active, disabled, revoked or suspended", s)
}

// KeyHead is what every request needs to know of a key. It is kept in memory
// for all keys.
type KeyHead struct {
	ID          KeyID
	Digest      [32]byte // of the secret, under Alg
	Alg         uint8    // token.Alg… that made Digest
	Status      Status   // active, disabled or revoked
	Expires     int64    // unix seconds from which the key is refused; 0 is never
	Rate        Rate     // overrides the plan's rates; zero means the plan's
	Tenant      string   // id of the tenant the key belongs to
	Environment string   // of the prefix it was minted with; may be empty

	Rights   *Rights   // what it may do and from where; nil: no permission, any address
	Override *Override // of parts of the plan; nil for none
	Previous *Previous // the secret before a rotation with grace; nil for none
	Imported *Imported // the hash of a secret not yet seen here; nil once it was
}

// Rights is what a key may do and from where. It is shared by many keys and
// never changed.
type Rights struct {
	Permissions []string       // sorted, without doubles; see Holds
	Addresses   []netip.Prefix // masked and sorted; none is any address
}

// Previous is a secret that was rotated away and is still good for a while.
type Previous struct {
	Digest [32]byte // under Alg
	Alg    uint8
	Since  int64 // unix second of the rotation
	Until  int64 // unix second from which the secret is refused
}

// Imported is a secret that is known by another product's slow or salted hash
// alone. Its key's Digest is nobody's until the secret comes by and is adopted.
type Imported struct {
	Hint string // what the secret starts with; may be empty
	Hash string // as package foreign reads it
}

// Key is a whole key record, but for its secret, which is nowhere.
type Key struct {
	KeyHead
	Name        string            // for people; at most MaxName bytes
	Description string            // for people; at most MaxDescription bytes
	Prefix      string            // the first characters of the secret, for lists
	Metadata    map[string]string // the owner's own values
	CreatedAt   time.Time
	RotatedAt   time.Time // when the secret was made, if it is not the first; else zero
	RevokedAt   time.Time // zero unless revoked
}

// Permissions returns the key's permissions, which must not be changed.
func (k *KeyHead) Permissions() []string {
	if k.Rights == nil {
		return nil
	}
	return k.Rights.Permissions
}

// Addresses returns the networks the key may be used from, which must not be
// changed; none is any.
func (k *KeyHead) Addresses() []netip.Prefix {
	if k.Rights == nil {
		return nil
	}
	return k.Rights.Addresses
}

// NewRights returns the Rights with these permissions and networks, sorted,
// masked and without doubles; nil for none at all.
func NewRights(permissions []string, addresses []netip.Prefix) *Rights {
	if len(permissions) == 0 && len(addresses) == 0 {
		return nil
	}
	r := &Rights{Permissions: slices.Compact(slices.Sorted(slices.Values(permissions)))}
	for _, a := range addresses {
		r.Addresses = append(r.Addresses, a.Masked())
	}
	slices.SortFunc(r.Addresses, netip.Prefix.Compare)
	r.Addresses = slices.Compact(r.Addresses)
	return r
}

// Use is the last request that a key was let in with. It is up to a minute
// old.
type Use struct {
	At      int64      // unix seconds; 0 is never
	Address netip.Addr // of the client; may be the zero Addr
	Agent   string     // User-Agent, at most MaxAgent bytes
}

// Tenant is a customer of the API: the owner of keys.
type Tenant struct {
	ID     string
	Name   string // for people; at most MaxName bytes
	Plan   string // name of a plan in the configuration; empty is the default plan
	Status Status // active or suspended
	// Permissions bound those of the tenant's keys; nil is no bound.
	Permissions []string
	Override    *Override // of parts of the plan; nil for none
	Grants      []Grant   // at most MaxGrants
	Metadata    map[string]string
	CreatedAt   time.Time
}

// Plan is a set of limits that tenants share by name.
type Plan struct {
	Name  string
	Rates []Rate // per key, all of them hold
	// Permissions bound those of the keys; nil is no bound.
	Permissions []string
	MaxKeys     int // keys of a tenant that are not revoked; 0 is no bound
}
