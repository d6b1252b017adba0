package caddymodule

import (
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
)

// tenantTerms is what a configuration says of one tenant. It is not changed.
type tenantTerms struct {
	app       *App
	until     int64 // unix second from which it must be worked out anew; 0 is never
	payer     credit.Payer
	plan      *meterPlan
	perKey    flightLimit
	perTenant flightLimit
	credits   bool          // the plan has credits: usage headers by default
	light     bool          // requests are neither charged nor bounded nor observed
	seen      atomic.Uint32 // the round of watchCredits that knows of it
	observes  bool          // real is less than what is enforced
	misled    atomic.Bool   // a provider key of the tenant's turned out not to be used
	real      *credit.Terms
}

// newTerms works out a tenant's terms.
func (a *App) newTerms(m *engine.Metering, t *index.Tenant, now int64) *tenantTerms {
	tt := &tenantTerms{app: a}
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

// maxKeyTerms bounds the keys whose terms are kept.
const maxKeyTerms = 1 << 14

// keyTermsCache keeps the terms of keys with credits of their own, by key. It is
// safe for concurrent use.
type keyTermsCache struct {
	mu sync.RWMutex
	of map[access.KeyID]*keyTerms
}

// keyTerms is what an override says of a key's credits.
type keyTerms struct {
	override *index.Override
	plan     *meterPlan // of the tenant, whose period it is
	payer    credit.Payer
	real     *credit.Terms // what would refuse if it was not only observed
}

// keyPayer returns the key's own limit of credits, if its override in force sets
// one. Few keys have: their terms are kept for as long as override and plan are
// the same.
func (a *App) keyPayer(m *engine.Metering, own *index.Override, plan *meterPlan, id access.KeyID) credit.Payer {
	if own == nil || own.Credits == 0 || plan == nil || plan.credits == nil {
		return credit.Payer{}
	}
	return a.keyTermsOf(m, own, plan, id).payer
}

func (a *App) keyTermsOf(m *engine.Metering, o *index.Override, plan *meterPlan, id access.KeyID) *keyTerms {
	k := &a.keyTerms
	k.mu.RLock()
	kt := k.of[id]
	k.mu.RUnlock()
	if kt != nil && kt.override == o && kt.plan == plan {
		return kt
	}
	real := &credit.Allowance{Amount: o.Credits, Period: plan.credits.Period, Strict: plan.credits.Strict}
	held := *real
	if plan.creditsObserve {
		held.Overage = access.MaxCredits
	}
	kt = &keyTerms{o, plan, credit.Payer{Purse: m.Ledger.KeyPurse(id), Terms: &credit.Terms{Credits: &held}}, &credit.Terms{Credits: real}}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of == nil || len(k.of) >= maxKeyTerms {
		k.of = make(map[access.KeyID]*keyTerms) // those in use come again
	}
	k.of[id] = kt
	return kt
}
