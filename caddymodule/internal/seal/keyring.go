package seal

import (
	"context"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrNoWrapper reports a data key that was wrapped by what the keyring has not.
// The text names it.
var ErrNoWrapper = errors.New("what wrapped the data key is not configured")

// Wrapper protects data keys: a master key, or a KMS. It is safe for concurrent
// use.
type Wrapper interface {
	// Name names the key that wraps, such as "master:5f0c…", in 1 to 256 bytes. It
	// is no secret, is stored with what was wrapped, and is the same for the same
	// key at each start.
	Name() string
	// Wrap encrypts plain, which it must not keep or change, and binds it to aad.
	Wrap(ctx context.Context, plain, aad []byte) ([]byte, error)
	// Unwrap returns what Wrap was given. It returns ErrSealed, wrapped or bare, if
	// wrapped or aad is not the same, bit for bit; other errors say that it could
	// not be found out.
	Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
}

// NewWrapper returns a Wrapper that is a key of ours. The key must serve no
// other purpose.
func NewWrapper(name string, key [32]byte) Wrapper { return local{name, New(key)} }

type local struct {
	name string
	box  *Box
}

func (l local) Name() string { return l.name }

func (l local) Wrap(ctx context.Context, plain, aad []byte) ([]byte, error) {
	return l.box.Seal(aad, plain), ctx.Err()
}

func (l local) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return l.box.Open(aad, wrapped)
}

// Keyring makes data keys and opens them. It cannot be changed and is safe for
// concurrent use.
type Keyring struct {
	names  []string // the primary's first
	byName map[string]Wrapper
}

// NewKeyring returns the keyring that wraps new data keys by primary and opens
// those of the others too. Of two wrappers of one name the first counts.
func NewKeyring(primary Wrapper, others ...Wrapper) *Keyring {
	k := &Keyring{byName: make(map[string]Wrapper, 1+len(others))}
	for _, w := range append([]Wrapper{primary}, others...) {
		if _, twice := k.byName[w.Name()]; !twice {
			k.names, k.byName[w.Name()] = append(k.names, w.Name()), w
		}
	}
	return k
}

// Primary returns the name of what wraps new data keys.
func (k *Keyring) Primary() string { return k.names[0] }

// Names returns the names of all wrappers, the primary's first.
func (k *Keyring) Names() []string { return append([]string(nil), k.names...) }

// Wrapped is a data key as it is stored.
type Wrapped struct {
	Wrapper string // name of what wrapped it
	Bytes   []byte
}

// New makes a data key and wraps it by the primary, bound to aad. An error is
// the wrapper's.
func (k *Keyring) New(ctx context.Context, aad []byte) (*DataKey, Wrapped, error) {
	set, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, Wrapped{}, fmt.Errorf("making a data key: %w", err)
	}
	var out keyset.MemReaderWriter
	call := &call{Wrapper: k.byName[k.Primary()]}
	if err = set.WriteWithContext(ctx, &out, call, aad); err != nil {
		return nil, Wrapped{}, call.failed("wrapping", err)
	}
	d, err := open(set)
	return d, Wrapped{k.Primary(), out.EncryptedKeyset.GetEncryptedKeyset()}, err
}

// Open unwraps a data key. It returns ErrNoWrapper if w names no wrapper of the
// keyring, ErrSealed if that did not wrap these bytes with this aad, or the
// wrapper's error, which concludes nothing.
func (k *Keyring) Open(ctx context.Context, w Wrapped, aad []byte) (*DataKey, error) {
	by, ok := k.byName[w.Wrapper]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrNoWrapper, w.Wrapper)
	}
	// Only the encrypted part of tink's form is stored: the rest of it says in the
	// open what is within and is bound to nothing.
	in := keyset.MemReaderWriter{EncryptedKeyset: &tinkpb.EncryptedKeyset{EncryptedKeyset: w.Bytes}}
	call := &call{Wrapper: by}
	set, err := keyset.ReadWithContext(ctx, &in, call, aad)
	if err != nil {
		return nil, call.failed("unwrapping", err)
	}
	return open(set)
}

// call is one use of a wrapper by tink, which keeps of an error the text alone.
type call struct {
	Wrapper
	err error
}

func (c *call) EncryptWithContext(ctx context.Context, plain, aad []byte) (b []byte, err error) {
	b, c.err = c.Wrap(ctx, plain, aad)
	return b, c.err
}

func (c *call) DecryptWithContext(ctx context.Context, wrapped, aad []byte) (b []byte, err error) {
	b, c.err = c.Unwrap(ctx, wrapped, aad)
	return b, c.err
}

// failed returns the error of a call that ended with err.
func (c *call) failed(doing string, err error) error {
	if c.err != nil {
		err = c.err
	} else if doing == "unwrapping" {
		err = ErrSealed // what was unwrapped is no data key
	}
	return fmt.Errorf("%s a data key with %s: %w", doing, c.Name(), err)
}

// DataKey seals the values of one tenant with AES-256-GCM. It is safe for
// concurrent use.
type DataKey struct{ aead tink.AEAD }

func open(set *keyset.Handle) (*DataKey, error) {
	a, err := aead.New(set)
	if err != nil {
		return nil, ErrSealed // a keyset of another kind: none of ours
	}
	return &DataKey{a}, nil
}

// Seal returns plain encrypted and bound to aad, which is not part of the
// result: 33 bytes more than plain. Nonces are random: one data key seals at
// most 2^32 values.
func (d *DataKey) Seal(aad, plain []byte) ([]byte, error) {
	sealed, err := d.aead.Encrypt(plain, aad)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return sealed, nil
}

// Open returns what Seal was given. It returns ErrSealed if the value or aad is
// not the same, bit for bit.
func (d *DataKey) Open(aad, sealed []byte) ([]byte, error) {
	plain, err := d.aead.Decrypt(sealed, aad)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
