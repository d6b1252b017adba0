package caddymodule

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// KMS is a guest in the namespace keytoll.kms: a key management service that
// wraps the data keys of tenants in place of the master key.
type KMS interface {
	// Wrapper returns the service. It must not call it yet: configurations are
	// checked offline.
	Wrapper() (KeyWrapper, error)
}

// KeyWrapper encrypts data keys, a few hundred bytes each, and opens them
// again. It is safe for concurrent use. Calls are rare: when a tenant stores its
// first provider key, when a stored key is used after a while, and at a rekey.
type KeyWrapper interface {
	// Name names the key that wraps, such as "awskms:arn:…": 1 to 256 bytes that
	// are no secret. It is stored with what the key wrapped and must be the same
	// after a restart; names that start with "master:" are taken.
	Name() string
	// Wrap returns plain encrypted and bound to aad.
	Wrap(ctx context.Context, plain, aad []byte) ([]byte, error)
	// Unwrap returns what Wrap was given. It must fail if wrapped or aad is not
	// the same, bit for bit.
	Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error)
}

// maxProviders bounds the providers of an app.
const maxProviders = 64

// provisionProviders compiles the providers and loads the KMS.
func (a *App) provisionProviders() error {
	if len(a.Providers) > maxProviders {
		return fmt.Errorf("there are %d providers, at most %d are allowed", len(a.Providers), maxProviders)
	}
	a.providers = make(map[string]*provider.Provider, len(a.Providers))
	for _, name := range slices.Sorted(maps.Keys(a.Providers)) {
		d, err := definition(name, a.Providers[name])
		if err != nil {
			return err
		}
		p, err := provider.Compile(name, d)
		if err != nil {
			return fmt.Errorf("provider %s: %w", name, err)
		}
		a.providers[name] = p
		registerRedaction(p.SecretHeaders(), nil, a.keys)
	}
	a.verifier = provider.NewVerifier(provider.VerifierOptions{})
	return a.provisionKMS()
}

// definition returns what is said of a provider; one of which nothing is said
// is shipped.
func definition(name string, d *provider.Definition) (provider.Definition, error) {
	if d != nil && (d.Header != "" || len(d.Inject) > 0 || d.Verify != nil) {
		return *d, nil
	}
	shipped, ok := provider.Preset(name)
	if !ok {
		return provider.Definition{}, fmt.Errorf("provider %s is none of those that keytoll knows (%s): say how its key comes: provider %[1]s { header X-Provider-Key-… }", name, strings.Join(provider.Presets(), ", "))
	}
	return shipped, nil
}

func (a *App) provisionKMS() (err error) {
	if a.KMSRaw != nil {
		if a.kms, err = a.loadKMS("KMSRaw"); err != nil {
			return fmt.Errorf("kms: %w", err)
		}
	}
	if a.PreviousKMSRaw != nil {
		if a.previousKMS, err = a.loadKMS("PreviousKMSRaw"); err != nil {
			return fmt.Errorf("previous kms: %w", err)
		}
	}
	return nil
}

// loadKMS loads the guest of a field.
func (a *App) loadKMS(field string) (KeyWrapper, error) {
	mod, err := a.ctx.LoadModule(a, field)
	if err != nil {
		return nil, fmt.Errorf("loading module: %w", err)
	}
	guest, ok := mod.(KMS)
	if !ok {
		return nil, fmt.Errorf("module %T is not for keytoll", mod)
	}
	k, err := guest.Wrapper()
	if err != nil {
		return nil, err
	}
	if name := k.Name(); name == "" || len(name) > 256 || strings.HasPrefix(name, masterName) {
		return nil, fmt.Errorf("the name %q of its key: want 1 to 256 bytes that do not start with %s", name, masterName)
	}
	return newPatientKMS(k), nil
}

// masterName starts the names of master keys as wrappers.
const masterName = "master:"

// masterWrapper wraps data keys under a master key.
func masterWrapper(m token.Master) seal.Wrapper {
	return seal.NewWrapper(masterName+m.Name(), m.Derive("provider data keys"))
}

// newKeyring returns what wraps data keys: the KMS or the master key, and those
// that wrapped earlier ones.
func (a *App) newKeyring(e *engine.Engine) *seal.Keyring {
	var list []seal.Wrapper
	if a.kms != nil {
		list = append(list, a.kms)
	}
	current := e.Master
	if a.master != nil {
		current = *a.master
	}
	list = append(list, masterWrapper(current))
	if a.previous != nil && !a.previous.Equal(current) {
		list = append(list, masterWrapper(*a.previous))
	}
	if a.previousKMS != nil {
		list = append(list, a.previousKMS)
	}
	return seal.NewKeyring(list[0], list[1:]...)
}

// providerNames returns the names of the configured providers.
func (a *App) providerNames() []string { return slices.Sorted(maps.Keys(a.providers)) }

// providerUses gathers the last uses of stored provider keys, one of each in a
// minute.
type providerUses struct {
	mu   sync.Mutex
	list []registrar.ProviderUse
}

// maxProviderUses bounds what waits for the store; last uses beyond are not
// noted.
const maxProviderUses = 1 << 16

func (u *providerUses) add(use registrar.ProviderUse) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list) < maxProviderUses {
		u.list = append(u.list, use)
	}
}

// flush stores what was gathered; after an error it is tried again with the
// next.
func (u *providerUses) flush(store func([]registrar.ProviderUse) error) {
	u.mu.Lock()
	list := u.list
	u.list = nil
	u.mu.Unlock()
	if len(list) == 0 || store(list) == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list)+len(list) <= maxProviderUses {
		u.list = append(list, u.list...)
	}
}

// keepProviderUses stores the last uses of provider keys, and overwrites keys
// that were not used for a while.
func (a *App) keepProviderUses(e *engine.Engine, reg *registrar.Registrar) {
	e.Unsealed.Sweep()
	a.providerUses.flush(func(list []registrar.ProviderUse) error {
		return a.logged("storing last uses of provider keys", reg.RecordProviderUses(context.Background(), list))
	})
}
