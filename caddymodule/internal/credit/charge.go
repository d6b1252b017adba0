package credit

import (
	"runtime/debug"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// blockOfPrices is how many charges a lease is for by default.
const blockOfPrices = 256

// Charge takes a price and units from a tenant and, if it has a purse, from a
// key, and notes in r what it took. It does so under all limits of both or
// takes nothing: then it says why, quotas before credits and the tenant's
// before the key's, and r is a receipt for nothing. It waits for other charges
// of the same purses, and for the disk if the terms are strict.
func (l *Ledger) Charge(r *Receipt, tenant, key Payer, price access.Credits, units Units) Refusal {
	return l.ChargeAt(l.seconds(), r, tenant, key, price, units)
}

// ChargeAt is Charge for who has looked at the clock already: now is a unix
// second.
func (l *Ledger) ChargeAt(now int64, r *Receipt, tenant, key Payer, price access.Credits, units Units) (f Refusal) {
	if r.open || tenant.Purse == nil || key.Purse == tenant.Purse {
		return failed(ErrOpen, false)
	}
	if price < 0 || price > access.MaxCredits || !units.valid() {
		return failed(ErrAmount, false)
	}
	r.tenant, r.key, r.now, r.price, r.units = tenant, key, inRange(now), price, units
	if err := r.charge(l.slots, &f); err != nil {
		f = failed(err, f.OfKey)
	}
	return f
}

// charge is Charge for arguments in range.
func (r *Receipt) charge(slots Slots, f *Refusal) (err error) {
	defer guard(slots, debug.SetPanicOnFault(true), &err)
	r.lock()
	defer r.unlock()
	if r.cut(0); r.quick() {
		r.open = true
		return nil
	}
	if r.plan(f); f.OK() {
		err = r.take(0)
		r.open = err == nil
	}
	return err
}

// quick charges payers whose terms are simple, in the period that is open, if
// there is as much left of the allowance: what is charged most often, and what
// plan and take would do. It reports false, and does nothing, where it is not
// that.
func (r *Receipt) quick() bool {
	tenant, key := r.tenant.Purse, r.key.Purse
	if !tenant.quick(&r.tenant, r.now) || key != nil && !key.quick(&r.key, r.now) {
		return false
	}
	if r.price == 0 {
		return true
	}
	if key != nil && !key.simpleHas(int64(r.price)) || !tenant.credit.slot.Spend(int64(r.price), tenant.simple.most) {
		return false
	}
	r.few[0] = part{account: tenant.credit, period: tenant.credit.slot.Period(), amount: int64(r.price)}
	if r.count = 1; key != nil {
		_ = key.credit.slot.Spend(int64(r.price), key.simple.most) // it has: its lock is held
		r.few[1] = part{account: key.credit, period: key.credit.slot.Period(), amount: int64(r.price), ofKey: true}
		r.count = 2
	}
	return true
}

// quick reports whether what a purse is charged now is simple.
func (p *Purse) quick(who *Payer, now int64) bool {
	return p.terms == who.Terms && now < p.simple.until
}

// simpleHas reports whether Spend would spend an amount.
func (p *Purse) simpleHas(amount int64) bool {
	used := p.credit.slot.Used()
	return used >= 0 && used <= p.simple.most+p.credit.carried()-amount
}

func (u *Units) valid() bool {
	for _, n := range u {
		if n < 0 {
			return false
		}
	}
	return true
}

// plan notes all parts that are to be taken, or in f why they cannot be.
func (r *Receipt) plan(f *Refusal) {
	r.planQuotas(&r.tenant, false, f)
	if r.key.Purse != nil && f.Reason != Failed {
		r.planQuotas(&r.key, true, f)
	}
	if f.OK() {
		r.planCredits(&r.tenant, false, f)
	}
	if r.key.Purse != nil && f.OK() {
		r.planCredits(&r.key, true, f)
	}
}

// planQuotas notes what is to be taken from a payer's quotas. A refusal for a
// quota that resets later than f does takes its place.
func (r *Receipt) planQuotas(who *Payer, ofKey bool, f *Refusal) {
	p, t := who.Purse, who.Terms
	if p == nil || t == nil {
		return
	}
	if err := p.bind(t); err != nil {
		*f = failed(err, ofKey)
		return
	}
	for i, a := range p.quotas {
		q := &t.Quotas[i]
		if err := a.turn(r.now, q.Period, 0); err != nil {
			*f = failed(err, ofKey)
			return
		}
		left, units := q.Amount-a.used(), r.units[q.Meter]
		if (left <= 0 || units > left) && a.until > f.end {
			*f = Refusal{Reason: QuotaExceeded, OfKey: ofKey, Meter: q.Meter}
			f.until(a.until, r.now)
		}
		r.note(part{account: a, period: a.slot.Period(), amount: units, upTo: q.Amount, ofKey: ofKey, quota: true, meter: q.Meter})
	}
}

// planCredits notes what is to be taken from a payer's credits.
func (r *Receipt) planCredits(who *Payer, ofKey bool, f *Refusal) {
	p := who.Purse
	if p == nil || who.Terms == nil || p.credit == nil { // it is bound already
		return
	}
	if err := p.turnCredits(r.now); err != nil {
		*f = failed(err, ofKey)
		return
	}
	if r.price == 0 {
		return
	}
	if short := p.spend(r, ofKey, r.price); short > 0 {
		*f = Refusal{Reason: InsufficientCredits, OfKey: ofKey, Needed: r.price, Available: r.price - short}
		f.until(p.credit.until, r.now)
	}
}

// turnCredits opens the period of the bound allowance that now is in.
func (p *Purse) turnCredits(now int64) error {
	by := &p.by
	most := int64(0)
	if by.Add {
		most = int64(by.Amount)
	}
	err := p.credit.turn(now, by.Period, most)
	if err == nil {
		p.simplify()
	}
	return err
}

// spend notes from where an amount is to be taken, in the order of spending.
// It returns how much of it is not there; that too is noted, on the period's
// account.
func (p *Purse) spend(r *Receipt, ofKey bool, amount access.Credits) (short access.Credits) {
	by, a := &p.by, p.credit
	limit := by.Amount + access.Credits(a.carried())
	used := access.Credits(a.used())
	base := min(amount, max(limit-used, 0))
	rest := amount - base
	first := r.count
	if base > 0 {
		r.note(part{account: a, period: a.slot.Period(), amount: int64(base), ofKey: ofKey})
	}
	for i := range p.grants {
		if rest == 0 {
			break
		}
		if n := min(p.grants[i].left(r.now), rest); n > 0 {
			g := &p.grants[i]
			r.note(part{account: g.account, amount: int64(n), ofKey: ofKey, upTo: by.lease(g.account, n, g.Amount)})
			rest -= n
		}
	}
	if rest > 0 {
		short = max(rest-max(limit+by.Overage-max(used, limit), 0), 0)
		r.note(part{account: a, period: a.slot.Period(), amount: int64(rest), ofKey: ofKey})
	}
	if by.Strict {
		upTo := by.lease(a, base+rest, limit+by.Overage)
		for i := first; i < r.count; i++ {
			if r.at(i).account == a {
				r.at(i).upTo = upTo
			}
		}
	}
	return short
}

// lease returns up to where an account must be leased to count an amount more,
// 0 if it need not be. It is a block more than that, within a limit.
func (by *Allowance) lease(a *account, amount, limit access.Credits) int64 {
	if !by.Strict {
		return 0
	}
	sum, ok := access.Credits(a.used()).Add(amount)
	if !ok || int64(sum) <= a.slot.Leased() {
		return 0 // what does not fit is not counted either
	}
	block := by.Block
	if block == 0 {
		block, ok = amount.Mul(blockOfPrices)
	}
	if ahead, fits := sum.Add(block); ok && fits {
		return int64(max(sum, min(ahead, limit)))
	}
	return int64(max(sum, limit))
}
