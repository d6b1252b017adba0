package caddymodule

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/foreign"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// sweepEvery is how often what time asks for is looked at: keys that nobody
// uses, expiries to tell of, answers and audit entries that are too old.
const sweepEvery = time.Hour

// jobs is the work that an app does beside requests.
type jobs struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// setHooks makes the engine ask and tell this app of what requests leave behind.
func (a *App) setHooks(e *engine.Engine, reg *registrar.Registrar) {
	e.Hooks(engine.Hooks{
		RecordUses: func(uses map[access.KeyID]access.Use) error {
			return a.logged("storing last uses", reg.RecordUses(context.Background(), uses))
		},
		OnAdopt: func(id access.KeyID, alg uint8, was [32]byte, secret token.Secret) error {
			return a.logged("adopting an imported key", reg.Adopt(bySystem(context.Background(), "import"), id, alg, was, secret))
		},
		OnSettled: func(id access.KeyID) error {
			return a.logged("ending a rotated secret", reg.SettleRotation(bySystem(context.Background(), "rotation"), id))
		},
		Verify: verifyForeign,
	})
}

// startJobs does what time asks for until the returned jobs are stopped.
func (a *App) startJobs(e *engine.Engine, reg *registrar.Registrar) *jobs {
	ctx, cancel := context.WithCancel(context.Background())
	j := &jobs{cancel, make(chan struct{})}
	stopExport := a.startExport(a.metering)
	go func() {
		defer close(j.done)
		defer stopExport()
		defer a.keepProviderUses(e, reg)
		a.tick(ctx, e, reg)
	}()
	return j
}

// tick does what is due each minute and each hour, until ctx ends.
func (a *App) tick(ctx context.Context, e *engine.Engine, reg *registrar.Registrar) {
	hour, minute := time.NewTicker(sweepEvery), time.NewTicker(time.Minute)
	defer hour.Stop()
	defer minute.Stop()
	for sweep := true; ; {
		if sweep {
			if err := reg.Sweep(ctx); err != nil && ctx.Err() == nil {
				_ = a.logged("sweeping", err)
			}
		}
		select {
		case <-hour.C:
			sweep = true
		case <-minute.C:
			sweep = false
			a.watchCredits(a.metering)
			a.keepProviderUses(e, reg)
		case <-ctx.Done():
			return
		}
	}
}

// bySystem says that keytoll itself makes a change, for the audit trail.
func bySystem(ctx context.Context, name string) context.Context {
	return registrar.WithActor(ctx, access.Actor{Kind: access.ActorSystem, Name: name})
}

// stop waits for the work that is under way.
func (j *jobs) stop() {
	if j != nil {
		j.cancel()
		<-j.done
	}
}

func (a *App) logged(what string, err error) error {
	if err != nil {
		a.logger.Error(what, zap.Error(err))
	}
	return err
}

// verifyForeign reports whether text is what another product's hash was made
// of.
func verifyForeign(hash, text string) bool {
	h, err := foreign.Parse(hash)
	return err == nil && h.Verify(text)
}
