package credit

import (
	"runtime/debug"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Settle puts the final cost and units in place of those that were charged,
// and closes the receipt: later calls do nothing. What is more is charged in
// full, whatever there is. It returns ErrCost and ErrOverflow, for which the
// price stands, and the error of a slot if the difference could not be made
// durable (it is counted all the same) or not be counted. It must not be called
// before the last Advance has returned.
func (r *Receipt) Settle(final access.Credits, units Units) error {
	if r.stands(final, &units) {
		return nil
	}
	return r.settle(0, final, units)
}

// stands closes a receipt of which nothing is to be changed, as most are: the
// price stands and there is no quota. It touches no slot, and so takes no lock.
func (r *Receipt) stands(final access.Credits, units *Units) bool {
	if r == nil || r.tenant.Purse == nil {
		return true
	}
	if final != r.price || !units.valid() {
		return false
	}
	for i := range r.count {
		if r.at(i).quota {
			return false
		}
	}
	r.open = false
	return true
}

// Refund gives all back, as if the request had not been. To give credits back
// but count the units, settle for 0.
func (r *Receipt) Refund() error { return r.settle(0, 0, Units{}) }

// Advance charges a running cost and the units so far, where they are more
// than what was charged. What is more is paid at the unix second now: in the
// period of then, which it opens, and from grants that can be spent then. The
// receipt stays open. It returns ErrExhausted if that was more than there is, as
// an *Exhausted where credits are short, also if a slot failed, and errors as
// Settle does.
func (r *Receipt) Advance(now int64, cost access.Credits, units Units) error {
	return r.settle(inRange(now), cost, units)
}

// settle closes the receipt, or advances it at a time, which is not 0.
func (r *Receipt) settle(now int64, cost access.Credits, units Units) (err error) {
	final := now == 0
	if r == nil || r.tenant.Purse == nil {
		return nil
	}
	defer guard(r.tenant.Purse.slots, debug.SetPanicOnFault(true), &err)
	r.lock()
	defer r.unlock()
	if !r.open {
		return nil
	}
	if r.open = !final; !final {
		r.now = now
	}
	if cost < 0 || cost > access.MaxCredits {
		cost, err = r.price, ErrCost
	}
	for m := range units {
		if units[m] < 0 {
			units[m], err = r.units[m], ErrCost
		} else if !final {
			units[m] = max(units[m], r.units[m])
		}
	}
	full := r.settleQuotas(&units)
	short, failure := r.settleCredits(cost, final)
	switch {
	case short > 0 && !final && err == nil:
		return &Exhausted{short}
	case failure != nil:
		return failure
	case full && !final && err == nil:
		return ErrExhausted
	}
	return err
}

// settleCredits charges the difference to the price so far. It returns how much
// of that is not there.
func (r *Receipt) settleCredits(cost access.Credits, final bool) (short access.Credits, err error) {
	switch {
	case cost > r.price:
		return r.extra(cost-r.price, !final)
	case cost < r.price && final:
		err = r.giveBack(int64(r.price - cost))
		r.price = cost
	}
	return short, err
}

// settleQuotas charges the difference to the units so far. It reports whether
// that was more than there is.
func (r *Receipt) settleQuotas(units *Units) (full bool) {
	for i := range r.count {
		p := r.at(i)
		if !p.quota {
			continue
		}
		delta, current := units[p.meter]-r.units[p.meter], p.slot.Period()
		if current != p.period { // what was charged there lapsed with it
			p.period, p.amount = current, 0
		}
		if delta = max(delta, -p.amount); delta == 0 {
			continue
		}
		if sum, err := p.slot.Add(delta); err == nil {
			p.amount += delta
			full = full || sum > p.upTo
		} else {
			full = true // it holds all that an int64 can; nothing gets past that
		}
	}
	r.units = *units
	return full
}

// extra charges more than the price, in the period that is open or, with turn,
// the one of now. It returns how much of that is not there, of the payer who has
// less. If a lease fails it is counted all the same.
func (r *Receipt) extra(amount access.Credits, turn bool) (short access.Credits, err error) {
	from := r.count
	for _, who := range [...]*Payer{&r.tenant, &r.key} {
		p, t := who.Purse, who.Terms
		if p == nil || t == nil || t.Credits == nil {
			continue
		}
		if err = p.bind(t); err == nil && turn {
			err = p.turnCredits(r.now)
		}
		if err == nil && !p.holds(amount) {
			err = ErrOverflow
		}
		if err != nil {
			r.cut(from)
			return 0, err
		}
		short = max(short, p.spend(r, who == &r.key, amount))
	}
	leased := r.lease(from)
	if err := r.add(from); err != nil {
		r.cut(from)
		return 0, err
	}
	r.merge(from)
	r.price += amount
	return short, leased
}

// holds reports whether the period's account can count an amount more.
func (p *Purse) holds(amount access.Credits) bool {
	_, ok := access.Credits(p.credit.used()).Add(amount)
	return ok
}

// giveBack gives an amount back to each payer, what was taken last first.
func (r *Receipt) giveBack(amount int64) (err error) {
	tenant, key := amount, amount
	for i := r.count - 1; i >= 0; i-- {
		p := r.at(i)
		if p.quota {
			continue
		}
		rest := &tenant
		if p.ofKey {
			rest = &key
		}
		n := min(p.amount, *rest)
		if n == 0 {
			continue
		}
		if failure := p.account.giveBack(n, p.period); failure != nil {
			err = failure
		}
		p.amount -= n
		*rest -= n
	}
	return err
}
