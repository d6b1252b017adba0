package caddymodule

import (
	"context"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// watchCredits tells who used 80, 90 or 100 % of the credits of the period,
// grants included: once each in a period, as event credits_low. It looks at the
// tenants that had a request that ended since the last call; it is meant to be
// called once a minute, and once more before the engine closes.
func (a *App) watchCredits(m *engine.Metering) {
	e := a.engine.Load()
	if m == nil || e == nil {
		return
	}
	var resets time.Time // of the tenant that is looked at
	err := m.Watch.Look(context.Background(), e.Store, func(t *rollup.Thresholds, tenant string) {
		who := e.Index.TenantByID(tenant)
		if who == nil {
			return
		}
		terms := a.termsOf(m, who, e.Unix(e.Limiter.Now()))
		b, err := m.Ledger.Balance(terms.payer)
		if err != nil || !b.Limited {
			return // its next request brings it here again
		}
		resets = b.Resets
		subject := rollup.Subject{Tenant: tenant, Limit: "credits/" + terms.payer.Terms.Credits.Period.Kind.String()}
		t.Check(subject, max(resets.Unix(), 0), int64(b.Used), int64(b.Limit))
	}, func(low rollup.ThresholdEvent) { a.creditsLow(low, resets) })
	if err != nil {
		a.meterTrouble(err)
	}
}

// creditsLow emits the event. Amounts are credits.
func (a *App) creditsLow(low rollup.ThresholdEvent, resets time.Time) {
	const name = "credits_low"
	if !a.events.ShouldEmit(name) {
		return
	}
	data := map[string]any{"tenant": low.Tenant, "percent": int(low.Percent),
		"used": access.Credits(low.Used), "limit": access.Credits(low.Max)}
	if !resets.IsZero() {
		data["resets_at"] = resets.Format(time.RFC3339)
	}
	a.emit(name, data)
}

// spent notes for watchCredits that a request of a tenant with credits ended.
// It costs nanoseconds: all but the first in a minute find that out from seen.
func (b *bill) spent(c *gate.Call) {
	if c.Tenant != nil && b.terms.credits {
		b.metering().Watch.Touch(&b.terms.seen, c.Tenant.ID)
	}
}

// became counts what became of a charge.
func (b *bill) became(key credit.Payer, refusal *credit.Refusal) {
	t := &b.metering().Totals
	switch refusal.Reason {
	case credit.Charged:
		if b.sold = b.terms.credits || key.Terms != nil; b.sold {
			t.Charged.Add(int64(b.taken()))
		}
	case credit.QuotaExceeded:
		t.Quota.Add(1)
	case credit.InsufficientCredits:
		t.Refused.Add(int64(b.taken()))
	}
}

// total counts the end of a request.
func (b *bill) total(c *gate.Call, final access.Credits) {
	if b.sold {
		b.sold = false
		b.metering().Totals.Settle(int64(b.taken()), int64(final))
		b.spent(c)
	}
}
