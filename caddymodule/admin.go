package caddymodule

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
)

func init() {
	caddy.RegisterModule(new(AdminAPI))
}

// AdminAPI is the operator's door: the routes under /keytoll/v1/ of Caddy's
// admin endpoint, for all tenants.
type AdminAPI struct{ handler http.Handler }

// CaddyModule returns the Caddy module information.
func (*AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.keytoll", New: func() caddy.Module { return new(AdminAPI) }}
}

// Provision makes the handler. It holds nothing of a configuration: admin
// modules are never cleaned up.
func (a *AdminAPI) Provision(ctx caddy.Context) error {
	h := mgmt.NewHandler(activeRegistrar, activeStatus)
	h.Use, h.Backup, h.Installation = activeUse, activeBackup, activeInstallation
	h.Account, h.KeyCredits, h.Usage = activeAccount, activeKeyCredits, activeRecorder
	h.Verify, h.Rekey = activeVerify, activeRekey
	logger := ctx.Logger()
	h.OnInternal = func(r *http.Request, err error) {
		logger.Error("management request failed", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
	}
	a.handler = h
	return nil
}

// Routes returns the routes of the admin endpoint.
func (a *AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/keytoll/v1/", Handler: caddy.AdminHandlerFunc(
		func(w http.ResponseWriter, r *http.Request) error {
			a.handler.ServeHTTP(w, r)
			return nil
		})}}
}

// activeApp returns the app of the running configuration.
func activeApp() (*App, error) {
	app, err := caddy.ActiveContext().AppIfConfigured("keytoll")
	if err != nil {
		return nil, &registrar.Error{Code: registrar.Unavailable, Message: "the running configuration does not use keytoll",
			Hint: "add the directive keytoll to a site"}
	}
	return app.(*App), nil
}

func activeRegistrar() (*registrar.Registrar, error) {
	app, err := activeApp()
	if err != nil {
		return nil, err
	}
	if reg := app.registrar.Load(); reg != nil {
		return reg, nil
	}
	return nil, &registrar.Error{Code: registrar.Unavailable, Message: "keytoll has not started yet", Hint: "try again in a moment"}
}

// activeEngine returns the engine of the running configuration, or nil.
func activeEngine() *engine.Engine {
	app, err := activeApp()
	if err != nil {
		return nil
	}
	return app.engine.Load()
}

// activeUse returns the last use of a key.
func activeUse(id access.KeyID) access.Use {
	app, err := activeApp()
	if err != nil {
		return access.Use{}
	}
	return app.lastUse(id)
}

// activeBackup writes a copy of the store, counters included.
func activeBackup(ctx context.Context, w io.Writer) (int64, error) {
	if _, err := activeRegistrar(); err != nil {
		return 0, err
	}
	e := activeEngine()
	if e == nil {
		return 0, store.ErrClosed
	}
	return e.Backup(ctx, w)
}

// activeInstallation returns a name that all databases under one master key
// share: that is whose digests can be read.
func activeInstallation() string {
	e := activeEngine()
	if e == nil {
		return ""
	}
	id := e.Installation()
	return hex.EncodeToString(id[:])
}

// status is the answer to GET /keytoll/v1/status.
type status struct {
	Storage string         `json:"storage"` // where keys are kept
	Keys    map[string]int `json:"keys"`    // by status
	Tenants map[string]int `json:"tenants"` // by status
	Buckets int            `json:"buckets"` // token buckets in the shared table
	Plans   []string       `json:"plans"`   // of the running configuration

	Permissions []string `json:"permissions"` // of the running configuration, none if keys need none

	Prefixes []Prefix          `json:"prefixes"` // that keys are minted with
	Reasons  map[string]uint64 `json:"requests"`
}

func activeStatus() any {
	app, err := activeApp()
	if err != nil {
		return status{}
	}
	s := status{Storage: app.backend.Identity(), Plans: slices.Sorted(slices.Values(app.planNames())), Prefixes: app.Prefixes, Permissions: []string{},
		Keys: map[string]int{}, Tenants: map[string]int{}, Reasons: map[string]uint64{}}
	for _, p := range app.permissions.List() {
		s.Permissions = append(s.Permissions, p.Name)
	}
	e := app.engine.Load()
	if e == nil {
		return s
	}
	s.fill(e)
	return s
}

func (s *status) fill(e *engine.Engine) {
	n := e.Index.Counts()
	for _, st := range []access.Status{access.StatusActive, access.StatusDisabled, access.StatusRevoked} {
		s.Keys[st.String()] = int(n.Keys[st])
	}
	for _, st := range []access.Status{access.StatusActive, access.StatusSuspended} {
		s.Tenants[st.String()] = int(n.Tenants[st])
	}
	s.Buckets = e.Limiter.Len()
	for i := range e.Counts.Requests {
		if n := e.Counts.Requests[i].Load(); n > 0 {
			s.Reasons[access.Reason(i).String()] = n
		}
	}
}

// Interface guards
var (
	_ caddy.AdminRouter = (*AdminAPI)(nil)
	_ caddy.Provisioner = (*AdminAPI)(nil)
)
