package registrar

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// MaxImport is how many keys one Import takes.
const MaxImport = 25_000

// ImportKey is a key of another product, or one that was exported here.
// Exactly one of Secret, SHA256, Hash and Digest is set.
type ImportKey struct {
	Line        int // where it stood, for the report
	Tenant      string
	Name        string
	Description string
	Secret      token.Secret
	SHA256      []byte // plain SHA-256 of the secret, 32 bytes
	Hint        string // what the secret starts with; may be empty
	Hash        string // salted or slow hash, as package foreign reads it; it is not read here
	Digest      []byte // token.AlgHMAC digest of this installation, 32 bytes
	Prefix      string // what lists show of the secret, if Digest is set
	Permissions []string
	Addresses   []netip.Prefix
	Rate        *access.Rate // nil is the plan's
	Expires     time.Time    // zero is never; may be past
	Created     time.Time    // zero is now
	LastUsed    time.Time    // zero is never
	Metadata    map[string]string
	Disabled    bool
	Revoked     bool   // goes before Disabled
	Environment string // may be empty
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
	Skipped bool   // the tenant has this key already
	Err     *Error // why it was refused; nil if it was not
}

// Import stores keys, those that are not refused, in one transaction, and
// returns what became of each, in order. It may be run again: a key that the
// tenant has already, whatever became of it since, is skipped. The policy's
// bounds of expiry and the plan's of the number of keys do not hold for keys
// that are moved in. A secret that was revoked or rotated away here is refused
// with Conflict, also if its key or tenant is deleted since, unless the key is
// moved in as revoked. What cannot be known: a SHA-256 of a secret that was
// minted here or moved in as a digest, a digest of one that was only known by
// its SHA-256, and a salted or slow hash of any secret unless this very hash
// was moved in before, under the same id. Errors: InvalidRequest for more than MaxImport keys,
// Unavailable.
func (r *Registrar) Import(ctx context.Context, list []ImportKey, o ImportOptions) ([]ImportResult, error) {
	if len(list) > MaxImport {
		return nil, invalid("", "an import takes at most %d keys at once", MaxImport)
	}
	set, err := r.set()
	if err != nil {
		return nil, err
	}
	var results []ImportResult
	err = r.o.Store.Update(ctx, func(tx store.Tx) error {
		m := &importing{r: r, tx: tx, o: o, set: set, find: r.finder(),
			bounds: make(map[string]*bounds), batch: make(map[[32]byte]access.KeyID), made: make(map[string]int)}
		results = make([]ImportResult, len(list))
		for i := range list {
			if i%256 == 255 && ctx.Err() != nil {
				return ctx.Err()
			}
			out := &results[i]
			out.Line = list[i].Line
			err := m.add(ctx, &list[i], out)
			if e, ok := errors.AsType[*Error](err); ok {
				out.Err = e
			} else if err != nil {
				return err
			}
		}
		return m.finish(ctx, results)
	})
	if err = public("importing keys", err); err != nil {
		return nil, err
	}
	return results, nil
}

// set returns the set of all configured prefixes.
func (r *Registrar) set() (token.Set, error) {
	var texts []string
	for _, p := range r.o.Prefixes() {
		texts = append(texts, p.Text)
	}
	return token.NewSet(texts...)
}

// importing is one import in its transaction.
type importing struct {
	r      *Registrar
	tx     store.Tx
	o      ImportOptions
	set    token.Set
	find   func(rd store.Reader, digest [32]byte) (access.KeyID, bool, error)
	bounds map[string]*bounds
	batch  map[[32]byte]access.KeyID // digests of this import
	made   map[string]int            // keys that count, by tenant
	unseen bool                      // one was made before now, and nobody knows whether it is used
}

// add stores one key, skips it, or returns an *Error that refuses it.
func (m *importing) add(ctx context.Context, in *ImportKey, out *ImportResult) error {
	if err := in.check(); err != nil {
		return err
	}
	b, err := m.boundsOf(ctx, in.Tenant)
	if err != nil {
		return err
	}
	k, aliases, err := m.key(in)
	if err != nil {
		return err
	}
	out.ID = k.ID
	if err := m.r.checkPermissions(b, k.Permissions()); err != nil {
		return err
	}
	if out.Skipped, err = m.there(k, in.ID != "", aliases, out); err != nil || out.Skipped {
		return err
	}
	if err := m.alive(k, in); err != nil {
		return err
	}
	for _, d := range aliases {
		m.batch[d] = k.ID
	}
	if err := errors.Join(m.tx.CreateKey(k), m.noteAlias(k, in)); err != nil {
		return err
	}
	if k.Status != access.StatusRevoked {
		m.made[k.Tenant]++
	}
	if in.LastUsed.IsZero() {
		m.unseen = m.unseen || !in.Created.IsZero()
		return nil
	}
	return m.tx.PutUse(k.ID, access.Use{At: in.LastUsed.Unix()})
}

// boundsOf reads a tenant, and makes it if that is wanted.
func (m *importing) boundsOf(ctx context.Context, id string) (*bounds, error) {
	if b := m.bounds[id]; b != nil {
		return b, nil
	}
	b, err := m.r.boundsOf(m.tx, nil, id)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == NotFound && m.o.CreateTenants {
		t, err := m.r.newTenant(CreateTenantRequest{ID: id})
		if err != nil {
			return nil, err
		}
		if err := errors.Join(m.tx.PutTenant(t), m.r.recordTenant(ctx, m.tx, "tenant.created", nil, t)); err != nil {
			return nil, err
		}
		b = &bounds{tenant: t, plan: m.r.o.Plan(t.Plan), now: m.r.now().Unix()}
	} else if err != nil {
		return nil, err
	}
	m.bounds[id] = b
	return b, nil
}

// there reports whether the tenant has k, by its id or by one of the digests
// that its secret may be stored under. It refuses a secret of another tenant's.
func (m *importing) there(k *access.Key, named bool, digests [][32]byte, out *ImportResult) (bool, error) {
	taken := &Error{Code: Exists, Field: "key", Message: "another key has this secret or id already"}
	for _, d := range digests {
		id, ok := m.batch[d]
		if !ok {
			var err error
			if id, ok, err = m.find(m.tx, d); err != nil {
				return false, err
			}
		}
		if !ok {
			continue
		}
		other, err := m.tx.Key(id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if other.Tenant != k.Tenant {
			return false, taken
		}
		out.ID = other.ID
		return true, nil
	}
	// An exported key that was rotated since is the same still: its creation says
	// so.
	switch other, err := m.tx.Key(k.ID); {
	case errors.Is(err, store.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case other.Tenant != k.Tenant, named && other.Digest != k.Digest && !k.CreatedAt.Equal(other.CreatedAt):
		return false, taken
	}
	return true, nil
}

// finish adds what is true of the import as a whole, or takes all of it back.
func (m *importing) finish(ctx context.Context, results []ImportResult) error {
	if m.o.DryRun {
		return errUnchanged
	}
	var created, skipped, refused int
	for _, out := range results {
		switch {
		case out.Err != nil:
			refused++
		case out.Skipped:
			skipped++
		default:
			created++
		}
	}
	if created == 0 {
		return errUnchanged
	}
	for t, n := range m.made {
		if err := addKeys(m.tx, t, n); err != nil {
			return err
		}
	}
	a := act{action: "keys.imported", object: "keys", after: map[string]int{"created": created, "skipped": skipped, "refused": refused}}
	if tenants := slices.Collect(maps.Keys(m.made)); len(tenants) == 1 {
		a.tenant = tenants[0]
	}
	return errors.Join(m.r.record(ctx, m.tx, a), changeSweep(m.tx, func(s *sweepState) {
		if m.unseen { // idle from now on, not from its creation
			s.Uses = m.r.now().Unix()
		}
	}))
}
