package mgmt

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// The kinds of a Desk.
const (
	DeskKeys = "keys" // the keys of the caller's tenant
	DeskMe   = "me"   // the caller's own key
)

// Caller is the key that a request was let in with.
type Caller struct {
	Key     access.KeyID
	Tenant  string
	Address string // of the client
}

// DeskOptions is what a Desk works with.
type DeskOptions struct {
	// Kind is DeskKeys, DeskMe, DeskUsage or DeskProviderKeys. Required.
	Kind string
	// Base is the path that the routes are under, such as /v1/api-keys. Required.
	Base string
	// Registrar returns the running registrar. Its error is answered with 503.
	// Required.
	Registrar func() (*registrar.Registrar, error)
	// Dialect is how to speak. Required.
	Dialect *dialect.Compiled
	// CallerFrom returns the caller of a request that the gate let in. A request
	// without one is answered like one without a key. Required.
	CallerFrom func(*http.Request) (Caller, bool)
	// Require names for each action (dialect.Create and so on) the permissions one
	// of which the caller needs; an action without any needs none.
	Require map[string][]string
	// Holds reports whether the caller has one of the permissions, as its plan and
	// tenant are now. Required if Require is not empty.
	Holds func(c Caller, need []string) bool
	// Use returns the last use of a key; nil shows none.
	Use func(access.KeyID) access.Use
	// LastRefusal returns why and in which unix second a key was refused last, 0
	// for never known; nil is never.
	LastRefusal func(access.KeyID) (access.Reason, int64)
	// Account returns what was counted for the caller's tenant; nil is nothing.
	Account func(tenant string) (Account, error)
	// KeyCredits returns what was counted of the caller's own credits; Limited is
	// false if it has none. Nil is nothing.
	KeyCredits func(access.KeyID) (credit.Balance, error)
	// Recorder returns what counts requests, or the reason why nothing does.
	// Required for DeskUsage.
	Recorder func() (*usage.Recorder, error)
	// Verify asks a provider whether the key that a tenant has stored is good, as
	// Handler.Verify does. Required for DeskProviderKeys.
	Verify func(ctx context.Context, tenant, provider string) (ProviderVerdict, error)
	// Params are query parameters that are left alone, such as one that holds the
	// key.
	Params []string
	// OnInternal is told of faults whose text clients are not shown; nil drops
	// them.
	OnInternal func(r *http.Request, err error)
	// Now tells the time; nil is time.Now.
	Now func() time.Time
}

// Desk serves the tenant's door: the keys, the usage and the provider keys of the
// caller's own tenant, in the words of a dialect. It may be used by many requests at once.
type Desk struct{ o DeskOptions }

// NewDesk returns a Desk.
func NewDesk(o DeskOptions) *Desk {
	o.Base = strings.TrimRight(o.Base, "/")
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Desk{o}
}

// visit is one request at a Desk.
type visit struct {
	*Desk
	w      http.ResponseWriter
	r      *http.Request
	caller Caller
	desk   *registrar.Desk
	action string
	in     *dialect.Input // the body, once it was read
	name   string         // what the path names: a key or a provider, by its text
	id     access.KeyID   // zero, which is nobody's, where that is none of ours
	plan   string         // name of the caller's plan, if the answer shows it
}

// ServeHTTP implements http.Handler.
func (d *Desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	v := &visit{Desk: d, w: w, r: r}
	var ok bool
	if v.caller, ok = d.o.CallerFrom(r); !ok {
		v.challenge("")
		v.refuse(access.Missing, dialect.Values{})
		return
	}
	actions, name, ok := d.find(r.URL)
	if !ok {
		v.fail(&Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is nothing at this path"})
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if v.action, ok = actions[method]; !ok {
		w.Header().Set("Allow", allowed(actions))
		v.fail(&Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed", Message: "this method is not allowed here"})
		return
	}
	if need := d.o.Require[v.action]; len(need) > 0 && !d.o.Holds(v.caller, need) {
		scope := strings.Join(need, " ")
		v.challenge(`, error="insufficient_scope", scope="` + scope + `"`)
		v.refuse(access.Forbidden, dialect.Values{KeyID: v.caller.Key.String(), Permission: scope})
		return
	}
	v.name = name
	if id, err := access.ParseKeyID(name); err == nil {
		v.id = id
	}
	v.serve()
}

// serve does what was asked for, once it is clear that it may be.
func (v *visit) serve() {
	reg, err := v.o.Registrar()
	if err != nil {
		v.fail(notRunning(err))
		return
	}
	v.desk = reg.Desk(v.caller.Key, v.actor())
	routes := routesOfDesk
	switch v.o.Kind {
	case DeskProviderKeys:
		routes = routesOfProviderKeys
	case DeskKeys, DeskMe:
		err = v.readPlan()
	}
	if err == nil {
		err = routes[v.action](v)
	}
	if err != nil {
		v.fail(err)
	}
}

// actor is who the audit trail puts changes down to.
func (v *visit) actor() access.Actor {
	return access.Actor{Kind: access.ActorKey, Key: v.caller.Key.String(), Address: v.caller.Address}
}

func (v *visit) challenge(params string) {
	v.w.Header().Set("WWW-Authenticate", `Bearer realm="`+v.o.Dialect.Realm()+`"`+params)
}

var routesOfDesk = map[string]func(*visit) error{
	dialect.Create: (*visit).create,
	dialect.List:   (*visit).list,
	dialect.Get:    (*visit).get,
	dialect.Update: (*visit).update,
	dialect.Rotate: (*visit).rotate,
	dialect.Revoke: (*visit).revoke,
	dialect.Me:     (*visit).me,
	actUsage:       (*visit).usage,
	actCredits:     (*visit).credits,
}
