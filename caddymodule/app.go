package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func init() {
	caddy.RegisterModule(new(App))
}

// defaultPrefix is what keys are minted with unless prefixes are configured.
const defaultPrefix = "kt_"

// startWait is how long a request waits for an app that has not started yet.
const startWait = 10 * time.Second

// App is the configuration that all gates share. What it describes is kept in
// an engine that outlives it: a reload swaps the configuration and leaves
// database, buckets and counters as they are.
type App struct {
	// Where keys and tenants are kept. Default: `{"backend": "bolt"}`.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=keytoll.storage inline_key=backend"`

	// 32 random bytes in base64, as a placeholder such as `{env.KEYTOLL_MASTER_KEY}`
	// or `{file./etc/keytoll/master.key}`; it peppers the digests of keys and
	// must stay outside the database. Default: the file master.key beside the
	// database, made at the first start.
	MasterKey string `json:"master_key,omitempty"`

	// The master key before MasterKey, while `caddy keytoll rekey` is still to be
	// run. Default: none.
	PreviousMasterKey string `json:"previous_master_key,omitempty"`

	// What keys may be allowed to do, by name. Default: no permissions, and then
	// a key needs none but where a gate asks for one.
	Permissions map[string]*Permission `json:"permissions,omitempty"`

	// How long keys live and how they are rotated.
	KeyPolicy *KeyPolicy `json:"key_policy,omitempty"`

	// How credits, quotas and usage are counted.
	Metering *Metering `json:"metering,omitempty"`

	// How the trail of changes is kept.
	Audit *Audit `json:"audit,omitempty"`

	// The prefixes new keys are minted with, the first one by default.
	// Default: `kt_` without an environment.
	Prefixes []Prefix `json:"prefixes,omitempty"`

	// Plans by name. A tenant's keys have the limits of its plan.
	Plans map[string]*Plan `json:"plans,omitempty"`

	// The plan of tenants that name none. Default: no plan and so no limits.
	DefaultPlan string `json:"default_plan,omitempty"`

	// Tenants by id that are created at start if they do not exist. From then on
	// the store owns them.
	Tenants map[string]*Tenant `json:"tenants,omitempty"`

	// Ways of answering by name, for gates and management. Five presets need no
	// definition: audiopod, example, personalabs, prosodyai and prosopo.
	Dialects map[string]*dialect.Dialect `json:"dialects,omitempty"`

	// The dialect of all that name none. Default: keytoll's own.
	Dialect string `json:"dialect,omitempty"`

	// Bounds failed attempts per client network. Default: 30 in a minute for an
	// IPv4 address or an IPv6 /64.
	Throttle *Throttle `json:"throttle_failures,omitempty"`

	// Third parties whose keys callers may bring, by name. Ten are known and need
	// nothing said of them: anthropic, cartesia, deepgram, elevenlabs, fishaudio,
	// groq, huggingface, inworld, openai and resembleai. Default: none.
	Providers map[string]*provider.Definition `json:"providers,omitempty"`

	// Wraps the data keys that seal stored provider keys. Default: the master key.
	KMSRaw json.RawMessage `json:"kms,omitempty" caddy:"namespace=keytoll.kms inline_key=service"`

	// What wrapped data keys before KMS, or before the master key if there is none,
	// while `caddy keytoll rekey` is still to be run. Default: none.
	PreviousKMSRaw json.RawMessage `json:"previous_kms,omitempty" caddy:"namespace=keytoll.kms inline_key=service"`

	// Puts unknown keys to an existing backend while customers move in. Default:
	// no learning.
	Learn *Learn `json:"learn,omitempty"`

	// Tunes the garbage collector of the whole process. Default: as Caddy has it.
	GC *GC `json:"gc,omitempty"`

	ctx      caddy.Context
	logger   *zap.Logger
	events   *caddyevents.App
	backend  store.Backend
	master   *token.Master
	previous *token.Master
	keys     token.Set
	plans    map[string]*access.Plan
	throttle gate.Throttle
	named    map[string]access.Rate // of the limits that handlers named

	providers    map[string]*provider.Provider
	verifier     *provider.Verifier
	kms          KeyWrapper // nil: the master key wraps
	previousKMS  KeyWrapper // nil: none
	keyring      atomic.Pointer[seal.Keyring]
	providerUses providerUses
	unseals      unseals

	metered
	permissions  *access.Permissions // set for good once all handlers are provisioned
	compiled     map[string]*dialect.Compiled
	metering     *engine.Metering // nil if no gate has a meter
	letUsageGo   func()           // of how long this configuration keeps usage; nil as metering is
	troubled     minutely         // of troubles with metering
	mistold      minutely         // of costs that the API told wrong
	unavailable  minutely         // of requests that are refused for want of us
	config       uint64           // number of the configuration, for terms that are kept
	metersUsed   bool             // some gate has a meter
	reported     bool             // some gate has charge_report
	takesReports bool             // there is a keytoll_api charges
	atStart      []func() error   // checks for when all handlers are provisioned

	mu        sync.Mutex // guards opened and closed
	opened    chan struct{}
	closed    bool
	openErr   error
	jobs      *jobs // set before opened is closed
	engine    atomic.Pointer[engine.Engine]
	registrar atomic.Pointer[registrar.Registrar]
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "keytoll", New: func() caddy.Module { return new(App) }}
}

// Provision checks the configuration. It opens no file: `caddy validate` must
// pass while a server runs on the same database.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger = ctx, ctx.Logger()
	ev, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	a.events = ev.(*caddyevents.App)
	if err := a.provisionKeys(); err != nil {
		return err
	}
	if err := a.provisionPermissions(); err != nil {
		return err
	}
	if err := a.provisionDialects(); err != nil {
		return err
	}
	if err := a.provisionPlans(); err != nil {
		return err
	}
	if err := a.provisionMetering(); err != nil {
		return err
	}
	if err := a.provisionThrottle(); err != nil {
		return err
	}
	if err := a.GC.validate(); err != nil {
		return err
	}
	if err := a.provisionStorage(); err != nil {
		return err
	}
	if err := a.provisionLearn(); err != nil {
		return err
	}
	if err := a.provisionProviders(); err != nil {
		return err
	}
	return ctx.GetMetricsRegistry().Register(collector{a})
}

// Start opens the store, or joins the engine that has it open, and creates the
// configured tenants. An error keeps the old configuration serving.
func (a *App) Start() error {
	for _, check := range a.atStart {
		if err := check(); err != nil {
			return err
		}
	}
	if _, err := a.open(context.Background()); err != nil {
		return err
	}
	a.GC.apply(a.logger)
	a.warnUnfilteredLogs()
	return nil
}

// Stop does nothing: requests may still be on their way.
func (a *App) Stop() error { return nil }

// Cleanup lets go of the engine. The last configuration to do so closes it.
func (a *App) Cleanup() error {
	a.mu.Lock()
	opened := a.opened
	a.closed = true
	a.mu.Unlock()
	a.Learn.close()
	if opened == nil {
		return nil
	}
	<-opened
	if a.engine.Load() == nil {
		return nil
	}
	a.jobs.stop()
	if a.letUsageGo != nil {
		a.letUsageGo()
	}
	_, err := engines.Delete(a.backend.Identity())
	return err
}

// Engine returns the running engine. A request that comes before Start opens
// it itself, and waits for it at most startWait. It returns nil if there is
// none by then.
func (a *App) running(ctx context.Context) *engine.Engine {
	if e := a.engine.Load(); e != nil {
		return e
	}
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	e, err := a.open(ctx)
	if err != nil {
		a.logger.Error("the store is not open", zap.Error(err))
	}
	return e
}

// open is called by Start and by early requests; the first call does the work.
func (a *App) open(ctx context.Context) (*engine.Engine, error) {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil, store.ErrClosed
	}
	if a.opened == nil {
		a.opened = make(chan struct{})
		go func() {
			defer close(a.opened)
			a.openErr = a.join()
		}()
	}
	opened := a.opened
	a.mu.Unlock()
	select {
	case <-opened:
		return a.engine.Load(), a.openErr
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// join takes a share of the pooled engine.
func (a *App) join() error {
	e, err := a.acquire()
	if err != nil {
		return err
	}
	a.keyring.Store(a.newKeyring(e))
	reg := a.newRegistrar(e)
	if n := e.Replayed(); n > 0 {
		a.logger.Warn("the database is older than some revocations: these keys were revoked again", zap.Int("keys", n))
		_ = a.logged("noting revocations that were made again", reg.RecordReplay(context.Background(), n))
	}
	if err := a.seed(reg, e.Store); err != nil {
		_, _ = engines.Delete(a.backend.Identity())
		return err
	}
	if err := a.openMetering(e); err != nil {
		_, _ = engines.Delete(a.backend.Identity())
		return err
	}
	a.registrar.Store(reg)
	a.setHooks(e, reg) // before a request can see the engine: it may come with an imported key
	a.engine.Store(e)
	a.jobs = a.startJobs(e, reg)
	return nil
}

// seed creates the configured tenants and checks that the plans of all tenants
// are defined: a plan that was taken out of the configuration must not turn
// into no limits.
func (a *App) seed(reg *registrar.Registrar, st store.Store) error {
	ctx := bySystem(context.Background(), "configuration")
	for id, t := range a.Tenants {
		if t == nil {
			t = new(Tenant)
		}
		if err := reg.EnsureTenant(ctx, registrar.CreateTenantRequest{ID: id, Name: t.Name, Plan: t.Plan, Permissions: t.Permissions}); err != nil {
			return fmt.Errorf("creating tenant %s: %w", id, err)
		}
	}
	return a.checkTenantPlans(ctx, st)
}

func (a *App) checkTenantPlans(ctx context.Context, st store.Store) error {
	return st.View(ctx, func(r store.Reader) (missing error) {
		err := r.Tenants("", func(t *access.Tenant) bool {
			if t.Plan != "" && a.plans[t.Plan] == nil {
				missing = fmt.Errorf("tenant %s is on plan %s, which this configuration does not define: add `plan %[2]s { … }`, or move the tenant while the old configuration runs", t.ID, t.Plan)
			}
			return missing == nil
		})
		return errors.Join(err, missing)
	})
}

func (a *App) newRegistrar(e *engine.Engine) *registrar.Registrar {
	return registrar.New(registrar.Options{
		Store:    e.Store,
		Digester: e.Digester,
		Prefixes: a.registrarPrefixes,
		Plans:    a.planNames,
		Plan:     a.planOf,
		Policy:   a.policy,
		Find:     e.Index.Find,
		OnEvent:  a.emit,

		Permissions:   func() *access.Permissions { return a.permissions },
		CountsCredits: a.countsCredits,
		Keyring:       a.keyring.Load,
		Providers:     a.providerNames,
	})
}

// emit hands an event to Caddy's events app.
func (a *App) emit(name string, data map[string]any) { a.events.Emit(a.ctx, name, data) }

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
