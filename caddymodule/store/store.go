// Package store is the durability contract between keytoll and the place where
// its records are kept. Package storetest checks that a backend keeps it.
package store

import (
	"context"
	"errors"
	"io"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Errors that every backend returns, wrapped or bare.
var (
	// ErrNotFound: there is no record of that id.
	ErrNotFound = errors.New("not found")
	// ErrExists: a record of that id is there already.
	ErrExists = errors.New("exists already")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("store is open in another process")
	// ErrDamaged: what is stored does not hold together. Nothing of it may be used.
	ErrDamaged = errors.New("store is damaged")
	// ErrMasterKey: the master key is missing or does not open the store.
	ErrMasterKey = errors.New("wrong or missing master key")
	// ErrNewer: the store was written by a newer keytoll.
	ErrNewer = errors.New("store was written by a newer version of keytoll")
)

// Backend opens a Store. A Caddy module in the namespace keytoll.storage
// implements it.
type Backend interface {
	// Identity names the place, not the configuration: two backends with the same
	// identity share one open store. For a file it is its absolute path with
	// links resolved.
	Identity() string
	// Open opens the store, making it if there is none. It returns ErrLocked,
	// ErrDamaged, ErrMasterKey or ErrNewer, wrapped in text that says what to do.
	Open(ctx context.Context) (Store, error)
}

// Store holds the records of one gateway. All methods are safe for concurrent
// use. A method that returns nil has made its change durable: after a crash it
// is there, whole, or, where the method had not returned, perhaps not at all.
type Store interface {
	// View runs fn on a consistent snapshot. fn must not keep the Reader.
	View(ctx context.Context, fn func(Reader) error) error

	// Update runs fn in a transaction of which all or nothing happens. Updates
	// run one after another. If fn or the commit fails, nothing is changed and
	// that error is returned. After the commit, and before Update returns, the
	// changes are handed to the follower in order. fn must have no effects but on
	// the Tx; it may run more than once.
	Update(ctx context.Context, fn func(Tx) error) error

	// Follow hands every tenant to apply, then every key, then every provider
	// key, and from then on each change, in commit order and one at a time. It
	// returns when all that is stored has been handed over. There is one follower,
	// set once.
	Follow(ctx context.Context, apply func(Change)) error

	// Backup writes a consistent copy of the store, as it is at one moment, which
	// the backend can open when it is put in the store's place; requests and
	// changes go on meanwhile. It returns the number of bytes. The copy holds no
	// master key and is worth nothing without it.
	Backup(ctx context.Context, w io.Writer) (int64, error)

	// Close waits for running transactions and releases the place. Later calls of
	// any method return ErrClosed.
	Close() error
}

// Change is one record that is new or different. Exactly one of Tenant, Key and
// ProviderKey is set, or one of the fields that end in Gone names a record that
// was deleted. A tenant's keys are told to be gone before it is; its provider
// keys go with it without a word.
type Change struct {
	Tenant     *access.Tenant  // must not be changed or kept past apply's return, except by copy
	Key        *access.KeyHead // likewise
	Old        *access.KeyHead // what the key was before; nil for a new one
	TenantGone string
	KeyGone    *access.KeyHead

	ProviderKey     *access.ProviderKey // likewise; without what is sealed
	ProviderKeyGone *access.ProviderKey // its tenant, provider and ID
}

// KeyGlance is a key as a filter sees it.
type KeyGlance struct {
	ID     access.KeyID
	Status access.Status
	Name   []byte // must not be changed, or kept when the visit ends
}

// Reader reads records. Whatever it returns may be kept and changed.
type Reader interface {
	// Tenant returns one tenant or ErrNotFound.
	Tenant(id string) (*access.Tenant, error)
	// Tenants calls yield for the tenants with ids greater than after, in order
	// of their ids, until it returns false.
	Tenants(after string, yield func(*access.Tenant) bool) error
	// Key returns one key or ErrNotFound.
	Key(id access.KeyID) (*access.Key, error)
	// Keys calls yield for the keys with ids greater than after, in order of
	// their ids, until it returns false. If tenant is not empty only that tenant's
	// keys are visited, and the others cost nothing.
	Keys(tenant string, after access.KeyID, yield func(*access.Key) bool) error
	// Glance is Keys for who wants few of many: visit is given what a filter asks
	// for, and read returns the whole key for as long as visit runs and writes
	// nothing.
	Glance(tenant string, after access.KeyID, visit func(g KeyGlance, read func() (*access.Key, error)) bool) error
	// Use returns the last use of a key that was stored; the zero Use if there is
	// none.
	Use(id access.KeyID) (access.Use, error)
	// Audit calls yield for the audit records with numbers greater than after, in
	// order, until it returns false.
	Audit(after uint64, yield func(seq uint64, record []byte) bool) error
	// LastAudit returns the newest audit record, or 0 and nil. If the newest that
	// was put is gone and TrimAudit did not delete it, that is its number and nil:
	// somebody cut the trail off, and what is put next leaves a gap.
	LastAudit() (seq uint64, record []byte, err error)
	// Answer returns what PutAnswer stored under id and until when it is kept,
	// also past that time, or ErrNotFound.
	Answer(id [32]byte) (expires int64, sealed []byte, err error)
	// Usage calls yield for the records of usage with from ≤ key < to, in the
	// order of their bytes, until it returns false. An empty from is the first,
	// a nil to the end.
	Usage(from, to []byte, yield func(key, value []byte) bool) error
	// Buried tells whether Bury ever noted the digest in this place of storage,
	// whatever state was put back since; in a Tx also by that itself. It is not
	// bound to the snapshot: what was committed since counts. A copy of the store
	// in another place may know nothing of what was buried here. The first call
	// may read all that was ever buried.
	Buried(digest [32]byte) (bool, error)
	// Blob returns what PutBlob stored under name, or ErrNotFound.
	Blob(name string) ([]byte, error)
	// ProviderKey returns a tenant's key for a provider or ErrNotFound.
	ProviderKey(tenant, provider string) (*access.ProviderKey, error)
	// ProviderKeys calls yield for a tenant's provider keys in order of the
	// providers, until it returns false. If tenant is empty it does so for all, in
	// order of the tenants and then of the providers.
	ProviderKeys(tenant string, yield func(*access.ProviderKey) bool) error
	// DataKey returns a tenant's data key or ErrNotFound.
	DataKey(tenant string) (*access.DataKey, error)
	// DataKeys calls yield for the data keys of the tenants with ids greater than
	// after, in order of these ids, until it returns false.
	DataKeys(after string, yield func(*access.DataKey) bool) error
}

// Tx reads and writes records.
type Tx interface {
	Reader
	// PutTenant stores a tenant, new or not.
	PutTenant(*access.Tenant) error
	// DeleteTenant deletes a tenant and all its keys and their uses, its provider
	// keys and its data key. It returns ErrNotFound.
	DeleteTenant(id string) error
	// CreateKey stores a new key. It returns ErrExists if its id is taken and
	// ErrNotFound if there is no such tenant. That its digest is new is the
	// caller's to check.
	CreateKey(*access.Key) error
	// UpdateKey stores a key that exists. Its tenant cannot change. It returns
	// ErrNotFound.
	UpdateKey(*access.Key) error
	// PutUse stores the last use of a key. It is no change of the key: the
	// follower is not told. A key that is not there is passed over.
	PutUse(id access.KeyID, u access.Use) error
	// PutAudit stores an audit record, whose number must be one more than the
	// newest's, or any if there is none.
	PutAudit(seq uint64, record []byte) error
	// TrimAudit deletes the audit records with numbers below before, the oldest
	// first and no more than 10,000: who may have more calls it again, in another
	// transaction.
	TrimAudit(before uint64) error
	// PutAnswer keeps a sealed answer under id until the unix second expires.
	PutAnswer(id [32]byte, expires int64, sealed []byte) error
	// TrimAnswers deletes up to max answers that were kept until now or less, and
	// returns how many that were.
	TrimAnswers(now int64, max int) (int, error)
	// Bury notes digests that must never let a request in again once the store is
	// older than this: those of revoked keys and of secrets rotated away, also
	// while they are good for a while yet. It changes no key that is stored. A store that is later put back to an older
	// state finds them at its next opening and revokes the keys that have one of
	// them as their present secret; a key that has one as the secret before that
	// loses this one and stays as it is. Thus an old backup arms none of them
	// anew. Keys that UpdateKey revokes or DeleteTenant deletes are noted by their
	// ids as well, so that they are found and revoked also where the older state
	// has them with another digest.
	Bury(digests ...[32]byte) error
	// PutUsage stores a record of usage under a key of 1 to 1,024 bytes, new or
	// not; a nil value deletes it. Both are opaque to the store.
	PutUsage(key, value []byte) error
	// PutBlob stores a small opaque value, such as the token buckets at a clean
	// stop; nil deletes it.
	PutBlob(name string, value []byte) error
	// PutProviderKey stores a tenant's key for a provider, new or not. It returns
	// ErrNotFound if there is no such tenant.
	PutProviderKey(*access.ProviderKey) error
	// DeleteProviderKey deletes a tenant's key for a provider. It returns
	// ErrNotFound.
	DeleteProviderKey(tenant, provider string) error
	// PutDataKey stores a tenant's data key, new or not. It returns ErrNotFound if
	// there is no such tenant. Whether it opens what is sealed is the caller's to
	// see to; the follower is not told.
	PutDataKey(*access.DataKey) error
	// DeleteDataKey deletes a tenant's data key. It returns ErrNotFound.
	DeleteDataKey(tenant string) error
}
