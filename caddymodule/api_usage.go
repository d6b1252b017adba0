package caddymodule

import (
	"errors"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// What the doors show of metering: the operator's for all tenants, and
// keytoll_api usage for the caller's own.

var errNothingCounted = errors.New("keytoll_api usage has nothing to show: no gate counts anything; give a plan credits, a quota or concurrent, or a gate a route")

// checkCounted refuses a door to counts that nobody makes.
func (a *App) checkCounted() error {
	if !a.metersUsed {
		return errNothingCounted
	}
	return nil
}

func activeAccount(tenant string) (mgmt.Account, error) {
	app, err := activeApp()
	if err != nil {
		return mgmt.Account{}, err
	}
	return app.account(tenant)
}

func activeKeyCredits(id access.KeyID) (credit.Balance, error) {
	app, err := activeApp()
	if err != nil {
		return credit.Balance{}, err
	}
	return app.keyCredits(id)
}

func activeRecorder() (*rollup.Recorder, error) {
	app, err := activeApp()
	if err != nil {
		return nil, err
	}
	return app.recorder()
}

// recorder returns what counts requests.
func (a *App) recorder() (*rollup.Recorder, error) {
	if _, err := a.activeRegistrar(); err != nil {
		return nil, err
	}
	if a.engine.Load() == nil || a.metering == nil {
		return nil, &registrar.Error{Code: registrar.Unavailable, Message: "nothing is counted: the running configuration has no metering",
			Hint: "give a plan credits, a quota or concurrent, or a gate a route"}
	}
	return a.metering.Usage, nil
}

// account returns what was counted for a tenant: nothing where nothing is, and
// for one that was deleted a moment ago.
func (a *App) account(tenant string) (out mgmt.Account, err error) {
	e := a.engine.Load()
	if e == nil || a.metering == nil {
		return out, nil
	}
	t := e.Index.TenantByID(tenant)
	if t == nil {
		return out, nil
	}
	m := a.metering
	tt := a.termsOf(m, t, e.Unix(e.Limiter.Now()))
	if tt.payer.Terms == nil {
		return out, nil
	}
	if out.Credits, err = m.Ledger.Balance(tt.payer); err != nil {
		return out, a.uncounted(err)
	}
	left, err := m.Ledger.Grants(tt.payer)
	if err != nil {
		return out, a.uncounted(err)
	}
	out.Left = grantsLeft(t.Grants, left)
	if out.Quotas, err = quotasOf(m, tt); err != nil {
		return out, a.uncounted(err)
	}
	return out, nil
}

// keyCredits returns what was counted of a key's own credits: nothing where its
// override in force sets none, where nothing is counted, and for a key that was
// deleted a moment ago.
func (a *App) keyCredits(id access.KeyID) (b credit.Balance, err error) {
	e := a.engine.Load()
	if e == nil || a.metering == nil {
		return b, nil
	}
	rec := e.Index.ByID(id)
	if rec == nil {
		return b, nil
	}
	m, own, now := a.metering, e.Index.Override(rec), e.Unix(e.Limiter.Now())
	if !own.In(now) {
		return b, nil
	}
	plan := a.termsOf(m, e.Index.Tenant(rec), now).plan
	if b, err = m.Ledger.Balance(keyPayer(m, own, plan, id)); err != nil {
		return b, a.uncounted(err)
	}
	return b, nil
}

// uncounted says that counts cannot be read now.
func (a *App) uncounted(err error) error {
	a.meterTrouble(err)
	return errors.Join(&registrar.Error{Code: registrar.Unavailable, Message: "the counts cannot be read at the moment",
		Hint: "the server's log says why"}, err)
}

// grantsLeft returns what is left of grants by their ids.
func grantsLeft(grants []access.Grant, counted []credit.GrantBalance) map[string]access.Credits {
	left := make(map[string]access.Credits, len(counted))
	for _, g := range grants {
		for i := range counted {
			if counted[i].ID == grantID(g.ID) {
				left[g.ID] = counted[i].Remaining
			}
		}
	}
	return left
}

// quotasOf returns the quotas of the plan, also those that are only observed.
func quotasOf(m *engine.Metering, tt *tenantTerms) ([]mgmt.Quota, error) {
	counted, err := m.Ledger.Quotas(tt.payer)
	if err != nil {
		return nil, err
	}
	var list []mgmt.Quota
	for i := range min(len(counted), len(tt.real.Quotas)) {
		real := tt.real.Quotas[i] // of which the enforced terms have a wider copy
		q := mgmt.Quota{Meter: real.Meter.String(), Per: real.Period.Kind.String(), Limit: real.Amount, Used: counted[i].Used}
		q.Observe = i < len(tt.plan.quotasObserve) && tt.plan.quotasObserve[i]
		if at := counted[i].Resets; !at.IsZero() {
			q.ResetsAt = new(at.UTC().Truncate(time.Second))
		}
		list = append(list, q)
	}
	return list, nil
}
