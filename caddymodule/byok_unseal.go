package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
)

const (
	// unsealTimeout bounds how long a request waits for its stored provider keys.
	unsealTimeout = 5 * time.Second
	// unsealPause is the longest time for which a stored provider key is not tried
	// again that could not be opened; one for which that took less rests less.
	unsealPause = time.Second
	// kmsCalls bounds the calls of a KMS that are under way.
	kmsCalls = 64
)

// errKeyReplaced says that a stored provider key is no longer the one that was
// asked for.
var errKeyReplaced = errors.New("the provider key was replaced or deleted")

// unseals is the stored provider keys that are being opened, by id: each once,
// however many requests wait for it, and not again for a moment after it failed.
type unseals struct {
	mu sync.Mutex
	of map[string]*unseal
}

type unseal struct {
	done chan struct{} // closed when the others are set
	text string
	err  error
}

// unsealed returns a stored provider key. The first use of one in a while opens
// what is stored. That goes on if ctx ends, or if the request, which started at
// the limiter's time of started, has waited long enough.
func (a *App) unsealed(ctx context.Context, e *engine.Engine, tenant string, ref *index.ProviderKey, started int64) (string, error) {
	if text, ok := e.Unsealed.Get(ref.ID); ok {
		return text, nil
	}
	a.unseals.mu.Lock()
	u := a.unseals.of[ref.ID]
	if u == nil {
		u = &unseal{done: make(chan struct{})}
		if a.unseals.of == nil {
			a.unseals.of = make(map[string]*unseal)
		}
		a.unseals.of[ref.ID] = u
		go a.unseal(e, tenant, ref, u)
	}
	a.unseals.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, unsealTimeout-time.Duration(e.Limiter.Now()-started))
	defer cancel()
	select {
	case <-u.done:
		return u.text, u.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// unseal opens a stored provider key for all who wait.
func (a *App) unseal(e *engine.Engine, tenant string, ref *index.ProviderKey, u *unseal) {
	start := time.Now()
	u.text, u.err = a.openStored(e, tenant, ref)
	forget := func() {
		a.unseals.mu.Lock()
		defer a.unseals.mu.Unlock()
		delete(a.unseals.of, ref.ID)
	}
	if u.err == nil || errors.Is(u.err, errKeyReplaced) {
		forget()
	} else {
		a.logger.Error("a stored provider key cannot be used", zap.String("tenant", tenant), zap.String("provider", ref.Provider),
			zap.Error(u.err), zap.NamedError("cause", errors.Unwrap(u.err)))
		time.AfterFunc(min(time.Since(start), unsealPause), forget)
	}
	close(u.done)
}

func (a *App) openStored(e *engine.Engine, tenant string, ref *index.ProviderKey) (string, error) {
	reg, err := a.activeRegistrar()
	if err != nil {
		return "", err
	}
	epoch := e.Unsealed.Epoch()
	ctx, cancel := context.WithTimeout(context.Background(), unsealTimeout)
	defer cancel()
	plain, err := reg.UnsealProviderKey(ctx, tenant, ref.Provider, ref.ID)
	if err != nil {
		if forgotten(err) {
			err = errKeyReplaced
		}
		return "", err
	}
	text := string(plain)
	e.Unsealed.Put(epoch, ref.ID, plain)
	clear(plain)
	return text, nil
}

// patientKMS keeps a KMS that hangs from holding up more than a few calls:
// those that it has, each for as long as its caller waits.
type patientKMS struct {
	KeyWrapper
	slots chan struct{}
}

func newPatientKMS(k KeyWrapper) *patientKMS { return &patientKMS{k, make(chan struct{}, kmsCalls)} }

// Wrap implements seal.Wrapper.
func (k *patientKMS) Wrap(ctx context.Context, plain, aad []byte) ([]byte, error) {
	return k.call(ctx, k.KeyWrapper.Wrap, plain, aad)
}

// Unwrap implements seal.Wrapper.
func (k *patientKMS) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	return k.call(ctx, k.KeyWrapper.Unwrap, wrapped, aad)
}

// call asks the KMS with copies of its own: it may go on when nobody waits for it
// any longer.
func (k *patientKMS) call(ctx context.Context, ask func(context.Context, []byte, []byte) ([]byte, error), in, aad []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, unsealTimeout)
	defer cancel()
	select {
	case k.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%d calls of the KMS are under way: %w", kmsCalls, ctx.Err())
	}
	type answer struct {
		out []byte
		err error
	}
	answers := make(chan answer, 1)
	in, aad = bytes.Clone(in), bytes.Clone(aad)
	go func() {
		a := answer{err: errors.New("the kms module panicked")}
		defer func() {
			_ = recover() // its text may hold what was to be wrapped
			clear(in)
			<-k.slots
			answers <- a
		}()
		a.out, a.err = ask(ctx, in, aad)
	}()
	select {
	case a := <-answers:
		return a.out, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the KMS does not answer: %w", ctx.Err())
	}
}
