package credit

import (
	"runtime/debug"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Balance is what a payer has. Limit − Used is always Remaining.
type Balance struct {
	Limited   bool           // it has an allowance; else all is zero
	Limit     access.Credits // of the period, carried credits and unexpired grants
	Used      access.Credits
	Remaining access.Credits // 0 and up
	Overage   access.Credits // used beyond Limit; above the allowed overage it is a debt
	Carried   access.Credits // part of Limit
	Resets    time.Time      // end of the period; zero if it has none
}

// Whole returns whole credits: limit and remaining rounded down, and used such
// that limit − used is remaining.
func (b *Balance) Whole() (used, limit, remaining int64) {
	limit, remaining = b.Limit.Floor(), b.Remaining.Floor()
	return limit - remaining, limit, remaining
}

// read calls fn with a payer's purse locked and bound to its terms. It does
// nothing for one that pays nothing.
func (l *Ledger) read(who Payer, fn func(p *Purse, t *Terms, now int64) error) (err error) {
	p, t := who.Purse, who.Terms
	if p == nil || t == nil {
		return nil
	}
	now := l.seconds()
	defer guard(l.slots, debug.SetPanicOnFault(true), &err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.bind(t); err != nil {
		return err
	}
	return fn(p, t, now)
}

// Balance returns what a payer has now. It opens a new period as a charge does.
func (l *Ledger) Balance(who Payer) (b Balance, err error) {
	if who.Terms == nil || who.Terms.Credits == nil {
		return b, nil
	}
	err = l.read(who, func(p *Purse, t *Terms, now int64) error {
		if err := p.turnCredits(now); err != nil {
			return err
		}
		b = p.balance(t, now)
		return nil
	})
	return b, err
}

// balance is Balance, once the period is the present one.
func (p *Purse) balance(t *Terms, now int64) Balance {
	carried, used := access.Credits(p.credit.carried()), access.Credits(p.credit.used())
	b := Balance{Limited: true, Limit: t.Credits.Amount + carried, Carried: carried}
	b.Remaining, b.Overage = max(b.Limit-used, 0), max(used-b.Limit, 0)
	for i := range p.grants {
		if g := &p.grants[i]; g.spendable(now) {
			// With more than an int64 can hold, the rest does not show.
			if limit, ok := b.Limit.Add(g.Amount); ok {
				b.Limit, b.Remaining = limit, b.Remaining+g.left(now)
			}
		}
	}
	b.Used = b.Limit - b.Remaining
	b.Resets = p.credit.resets()
	return b
}

// GrantBalance is a grant and what was used of it.
type GrantBalance struct {
	Grant
	Used, Remaining access.Credits // of an expired grant, none remain
}

// Grants returns the grants of the terms in the order in which they are spent.
func (l *Ledger) Grants(who Payer) (list []GrantBalance, err error) {
	err = l.read(who, func(p *Purse, _ *Terms, now int64) error {
		list = make([]GrantBalance, len(p.grants))
		for i := range p.grants {
			g := &p.grants[i]
			list[i] = GrantBalance{g.Grant, access.Credits(g.used()), g.left(now)}
		}
		return nil
	})
	return list, err
}

// QuotaBalance is a quota and what was used of it.
type QuotaBalance struct {
	Quota
	Used   int64     // may be above Amount
	Resets time.Time // zero if it never does
}

// Quotas returns the quotas of the terms, in their order.
func (l *Ledger) Quotas(who Payer) (list []QuotaBalance, err error) {
	err = l.read(who, func(p *Purse, t *Terms, now int64) error {
		all := make([]QuotaBalance, len(t.Quotas))
		for i, q := range t.Quotas {
			a := p.quotas[i]
			if err := a.turn(now, q.Period, 0); err != nil {
				return err
			}
			all[i] = QuotaBalance{Quota: q, Used: a.used(), Resets: a.resets()}
		}
		list = all
		return nil
	})
	return list, err
}
