package caddymodule

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// verifyRate is how often a tenant's keys may be put to providers.
var verifyRate = access.Rate{Requests: 10, Burst: 10, Window: time.Minute}

// verifyClass tells its buckets from those of limits.
var verifyClass = limitClass("provider keys", []byte("verify"))

// verifyProvider asks a provider whether the key that a tenant has stored is
// good. It goes to no address but the configured one.
func (a *App) verifyProvider(ctx context.Context, tenant, name string) (out mgmt.ProviderVerdict, err error) {
	reg, err := a.activeRegistrar()
	if err != nil {
		return out, err
	}
	e := a.engine.Load()
	key, err := reg.ProviderKey(ctx, tenant, name)
	if err != nil {
		return out, err
	}
	p := a.providers[name]
	if p == nil || !p.CanVerify() {
		return out, mgmt.NoVerify(name)
	}
	ask := limit.Ask{Class: verifyClass, Subject: limit.SubjectOf(tenant), Rate: verifyRate}
	if r := e.Limiter.Take(e.Limiter.Now(), []limit.Ask{ask}); !r.OK {
		return out, mgmt.TooMany(r.Retry)
	}
	plain, err := reg.UnsealProviderKey(ctx, tenant, name, key.ID)
	if err != nil {
		return out, err
	}
	verdict, err := a.verifier.Verify(ctx, p, string(plain))
	clear(plain)
	countVerdict(e, verdict, err)
	if errors.Is(err, provider.ErrUnreachable) {
		a.logger.Warn("a provider could not be reached to verify a key", zap.String("provider", name), zap.Error(err))
		return out, mgmt.Unreachable(name, err)
	}
	if err == nil {
		err = reg.RecordProviderVerified(ctx, tenant, name, key.ID, verdict.Valid)
	}
	return mgmt.ProviderVerdict{Provider: name, Valid: verdict.Valid, Reason: verdict.Reason}, err
}

// countVerdict counts what became of a verification.
func countVerdict(e *engine.Engine, r provider.Result, err error) {
	verdict := engine.VerdictInvalid
	switch {
	case err != nil:
		verdict = engine.VerdictUnknown
	case r.Valid:
		verdict = engine.VerdictValid
	}
	e.Counts.Verified[verdict].Add(1)
}

// rekeyBatch is how many tenants one call of rekey does.
const rekeyBatch = 200

// rekey seals the provider keys of the next tenants anew, under data keys that
// the present master key or KMS wraps. The first call lets the present master
// key open the database, and the last one ends that of the one before it.
func (a *App) rekey(ctx context.Context) (out mgmt.RekeyReport, err error) {
	reg, err := a.activeRegistrar()
	if err != nil {
		return out, err
	}
	e := a.engine.Load()
	if err := a.useMasters(ctx, e, true); err != nil {
		return out, err
	}
	done, stuck := reg.Rekey(ctx, rekeyBatch)
	if stuck != nil && !done.Done {
		return out, stuck
	}
	out = mgmt.RekeyReport{Tenants: done.Tenants, Keys: done.Keys, Done: done.Done}
	if out.Pending, err = reg.RekeyPending(ctx); err != nil {
		return out, err
	}
	if out.Pending == 0 {
		err = a.useMasters(ctx, e, false)
	}
	return out, errors.Join(stuck, err)
}

// useMasters says which master keys open the database: the present one, and the
// one before it while data keys may be under it. What ends that one is done
// without asking whether it is configured: a run may have broken off before.
func (a *App) useMasters(ctx context.Context, e *engine.Engine, both bool) error {
	k, ok := e.Store.(engine.Keeper)
	switch {
	case !ok || a.master == nil, both && a.previous == nil, k.Opens(*a.master) == both:
		return nil // the last step lets in no key that did not open it before
	case both:
		return k.SetMasters(ctx, *a.master, *a.previous)
	}
	return k.SetMasters(ctx, *a.master)
}

// forgotten is the registrar's word for what is not there.
func forgotten(err error) bool {
	var e *registrar.Error
	return errors.As(err, &e) && e.Code == registrar.NotFound
}

func activeVerify(ctx context.Context, tenant, name string) (mgmt.ProviderVerdict, error) {
	app, err := activeApp()
	if err != nil {
		return mgmt.ProviderVerdict{}, err
	}
	return app.verifyProvider(ctx, tenant, name)
}

func activeRekey(ctx context.Context) (mgmt.RekeyReport, error) {
	app, err := activeApp()
	if err != nil {
		return mgmt.RekeyReport{}, err
	}
	return app.rekey(ctx)
}
