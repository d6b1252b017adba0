package caddymodule

import (
	"crypto/sha256"
	"slices"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
)

// tenantTerms is what a configuration says of one tenant. It is not changed. It
// knows the configuration by its number, so that tenants that nobody uses any
// more do not keep what is left of old configurations.
type tenantTerms struct {
	config    uint64 // App.config
	until     int64  // unix second from which it must be worked out anew; 0 is never
	payer     credit.Payer
	plan      *meterPlan
	seen      atomic.Uint32 // the round of watchCredits that knows of it
	credits   bool          // the plan has credits: usage headers by default
	light     bool          // requests are neither charged nor bounded nor observed
	observes  bool          // real is less than what is enforced
	misled    atomic.Bool   // a provider key of the tenant's turned out not to be used
	perKey    flightLimit
	perTenant flightLimit
	real      *credit.Terms
}

// configs numbers configurations.
var configs atomic.Uint64

// newTerms works out a tenant's terms.
func (a *App) newTerms(m *engine.Metering, t *index.Tenant, now int64) *tenantTerms {
	tt := &tenantTerms{config: a.config}
	name := t.Plan
	if name == "" {
		name = a.DefaultPlan
	}
	o := t.Override
	if !o.In(now) {
		o = new(access.Override) // replaces nothing
	}
	tt.until = o.Until
	plan := a.meterPlans[name]
	if plan != nil {
		tt.plan, tt.perKey, tt.perTenant, tt.credits = plan, plan.perKey, plan.perTenant, plan.credits != nil
	}
	if o.Concurrent > 0 {
		tt.perTenant.most = o.Concurrent
	}
	if plan == nil {
		return tt
	}
	real := &credit.Terms{Quotas: plan.quotas}
	if plan.credits != nil {
		allowance := *plan.credits
		real.Credits = &allowance
		if o.Credits > 0 {
			allowance.Amount = o.Credits
		}
		for _, g := range t.Grants {
			if g.Expires == 0 || g.Expires > now {
				real.Grants = append(real.Grants, credit.Grant{ID: grantID(g.ID), Amount: g.Amount, Expires: g.Expires})
			}
		}
	}
	tt.real = real
	tt.payer = credit.Payer{Purse: m.Ledger.Purse(t.ID), Terms: tt.enforced()}
	return tt
}

// countsCredits reports whether the plan of a name, or the default plan for "",
// has credits.
func (a *App) countsCredits(plan string) bool {
	if plan == "" {
		plan = a.DefaultPlan
	}
	p := a.meterPlans[plan]
	return p != nil && p.credits != nil
}

// grantID is the ledger's name of a grant.
func grantID(id string) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
}

// enforced returns the terms that refuse: what is only observed is counted
// under a bound that is never met.
func (tt *tenantTerms) enforced() *credit.Terms {
	p := tt.plan
	out := *tt.real
	if p.creditsObserve && out.Credits != nil {
		tt.observes = true
		wide := *out.Credits
		wide.Overage = access.MaxCredits
		out.Credits = &wide
	}
	if slices.Contains(p.quotasObserve, true) {
		tt.observes = true
		out.Quotas = slices.Clone(out.Quotas)
		for i, observe := range p.quotasObserve {
			if observe {
				out.Quotas[i].Amount = maxQuota
			}
		}
	}
	if out.Credits == nil && len(out.Quotas) == 0 {
		return nil
	}
	return &out
}

// ofKey returns how many requests a key may have at one time. own is its
// override in force, or nil.
func (tt *tenantTerms) ofKey(own *index.Override) flightLimit {
	if own != nil && own.Concurrent > 0 {
		return flightLimit{own.Concurrent, tt.perKey.observe}
	}
	return tt.perKey
}

// keyTerms is what an override says of a key's credits. It is not changed. It
// knows its configuration by the plan alone, so that keys that nobody uses any
// more do not keep what is left of old configurations.
type keyTerms struct {
	plan  *meterPlan // of the tenant, whose period it is
	payer credit.Payer
	real  *credit.Terms // what would refuse if it was not only observed
}

// keyPayer returns the key's own limit of credits, if its override in force sets
// one.
func keyPayer(m *engine.Metering, own *index.Override, plan *meterPlan, id access.KeyID) credit.Payer {
	if own == nil || own.Credits == 0 || plan == nil || plan.credits == nil {
		return credit.Payer{}
	}
	return keyTermsOf(m, own, plan, id).payer
}

// keyTermsOf returns what an override says of a key's credits, whose tenant has
// the plan. It is kept with the override for as long as the plan is the same,
// and no two configurations share one.
func keyTermsOf(m *engine.Metering, own *index.Override, plan *meterPlan, id access.KeyID) *keyTerms {
	if kt, _ := own.Terms.Load().(*keyTerms); kt != nil && kt.plan == plan {
		return kt
	}
	real := &credit.Terms{Credits: &credit.Allowance{Amount: own.Credits, Period: plan.credits.Period, Strict: plan.credits.Strict}}
	held := real
	if plan.creditsObserve {
		wide := *real.Credits
		wide.Overage = access.MaxCredits
		held = &credit.Terms{Credits: &wide}
	}
	kt := &keyTerms{plan, credit.Payer{Purse: m.Ledger.KeyPurse(id), Terms: held}, real}
	own.Terms.Store(kt)
	return kt
}
