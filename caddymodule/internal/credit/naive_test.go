package credit

import (
	"math/big"
	"slices"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// naive is the ledger as it would be if neither time nor space were scarce: a
// book has a sum for each period there ever was, and all else is worked out
// from those whenever it is asked for.
type naive struct {
	books map[bookName]*book
	now   int64
}

type bookName struct {
	owner subject
	what  string
	kind  period.Kind
}

type book struct {
	current int64
	sums    map[int64]int64

	// What was carried into the current period: what the period prev left of
	// most and frozen, or fixed if there is no prev.
	prev, most, frozen, fixed int64
}

func (b *book) used() int64 { return b.sums[b.current] }

func (b *book) carried() int64 {
	if b.prev == 0 {
		return b.fixed
	}
	return min(max(b.most+b.frozen-b.sums[b.prev], 0), b.most)
}

func (n *naive) book(name bookName) *book {
	if n.books[name] == nil {
		n.books[name] = &book{sums: make(map[int64]int64)}
	}
	return n.books[name]
}

func startAt(by period.Period, unix int64) int64 {
	start, _ := by.Bounds(time.Unix(unix, 0))
	return start.Unix()
}

func endAt(by period.Period, unix int64) int64 {
	_, end := by.Bounds(time.Unix(unix, 0))
	return end.Unix()
}

// homeOf returns the start of the period that one opened at current is in now
// that time is cut as by says: the next, if that starts a few hours later.
func homeOf(by period.Period, current int64) int64 {
	hours := map[period.Kind]int64{period.Day: 15, period.Week: 27, period.Month: 27}[by.Kind]
	if next := endAt(by, current); next-current < hours*3600 {
		return next
	}
	return startAt(by, current)
}

// open returns the book of a period's account at this time.
func (n *naive) open(owner subject, what string, by period.Period, most access.Credits) *book {
	b := n.book(bookName{owner, what, by.Kind})
	if by.Endless() {
		return b
	}
	start := startAt(by, n.now)
	if b.current != 0 && start <= homeOf(by, b.current) {
		return b
	}
	next := book{current: start, sums: b.sums}
	switch {
	case b.current == 0 || most == 0:
	case homeOf(by, b.current) < startAt(by, start-1):
		next.fixed = int64(most)
	default:
		next.prev, next.most, next.frozen = b.current, int64(most), b.carried()
	}
	*b = next
	return b
}

// resets returns when the period of a book ends, 0 for never.
func (n *naive) resets(b *book, by period.Period) int64 {
	if by.Endless() {
		return 0
	}
	return endAt(by, homeOf(by, b.current))
}

// coin is an amount that was taken from a book.
type coin struct {
	book   *book
	period int64
	amount int64
	ofKey  bool
	quota  bool
	meter  Meter
	limit  int64
}

type naiveReceipt struct {
	payers [2]naivePayer
	now    int64
	price  access.Credits
	units  Units
	coins  []coin
	open   bool
}

type naivePayer struct {
	owner subject
	terms *Terms
}

func (n *naive) credits(p naivePayer) *book {
	a := p.terms.Credits
	most := access.Credits(0)
	if a.Add {
		most = a.Amount
	}
	return n.open(p.owner, "credits", a.Period, most)
}

// sources returns what a payer can spend at a time, in order: books and how
// much is left in each.
func (n *naive) sources(p naivePayer, b *book, at int64) (books []*book, left []int64) {
	a := p.terms.Credits
	limit := int64(a.Amount) + b.carried()
	books, left = append(books, b), append(left, max(limit-b.used(), 0))
	grants := slices.Clone(p.terms.Grants)
	slices.SortFunc(grants, func(x, y Grant) int {
		if ex, ey := uint64(x.Expires)-1, uint64(y.Expires)-1; ex != ey { // 0 is last
			if ex < ey {
				return -1
			}
			return 1
		}
		return slices.Compare(x.ID[:], y.ID[:])
	})
	for _, g := range grants {
		if g.Expires == 0 || at < g.Expires {
			gb := n.book(bookName{p.owner, "grant " + string(g.ID[:]), 0})
			books, left = append(books, gb), append(left, max(int64(g.Amount)-gb.used(), 0))
		}
	}
	over := max(limit+int64(a.Overage)-b.used(), 0) - left[0]
	return append(books, b), append(left, over)
}

// spend returns coins for an amount, and what is there of it.
func (n *naive) spend(p naivePayer, b *book, at, amount int64, ofKey bool) (coins []coin, there int64) {
	books, left := n.sources(p, b, at)
	for i, from := range books {
		x := min(left[i], amount-there)
		there += x
		if i == len(books)-1 && there < amount {
			x += amount - there
		}
		if x > 0 {
			coins = append(coins, coin{book: from, period: from.current, amount: x, ofKey: ofKey})
		}
	}
	return coins, there
}

func (n *naive) charge(r *naiveReceipt, tenant, key naivePayer, price access.Credits, units Units) (f Refusal) {
	*r = naiveReceipt{payers: [2]naivePayer{tenant, key}, now: n.now, price: price, units: units}
	var coins []coin
	never := uint64(0)
	for i, p := range r.payers {
		if p.terms == nil {
			continue
		}
		for _, q := range p.terms.Quotas {
			b := n.open(p.owner, q.Meter.String(), q.Period, 0)
			u := units[q.Meter]
			coins = append(coins, coin{b, b.current, u, i == 1, true, q.Meter, q.Amount})
			at := n.resets(b, q.Period)
			if b.used()+max(u, 1) > q.Amount && uint64(at)-1 >= never && (f.OK() || uint64(at)-1 > never) {
				f = Refusal{Reason: QuotaExceeded, OfKey: i == 1, Meter: q.Meter, Resets: at}
				never = uint64(at) - 1
			}
		}
	}
	for i, p := range r.payers {
		if !f.OK() || p.terms == nil || p.terms.Credits == nil {
			continue
		}
		b := n.credits(p)
		c, there := n.spend(p, b, n.now, int64(price), i == 1)
		if there < int64(price) {
			f = Refusal{Reason: InsufficientCredits, OfKey: i == 1, Needed: price, Available: access.Credits(there), Resets: n.resets(b, p.terms.Credits.Period)}
		}
		coins = append(coins, c...)
	}
	if !f.OK() {
		return f
	}
	for _, c := range coins {
		c.book.sums[c.period] += c.amount
	}
	r.coins, r.open = coins, true
	return f
}

// settle puts a cost and units in place of those so far.
func (n *naive) settle(r *naiveReceipt, cost access.Credits, units Units, final bool) (err error) {
	if !r.open {
		return nil
	}
	if r.open = !final; !final {
		r.now = n.now
	}
	if cost < 0 || cost > access.MaxCredits {
		cost, err = r.price, ErrCost
	}
	more := false
	for m := range units {
		if units[m] < 0 {
			units[m], err = r.units[m], ErrCost
		}
		if !final {
			units[m] = max(units[m], r.units[m])
		}
		more = n.settleMeter(r, Meter(m), units[m]-r.units[m]) || more
	}
	r.units = units
	if !final {
		cost = max(cost, r.price)
	}
	switch delta := int64(cost - r.price); {
	case delta > 0:
		if !n.fits(r, delta, !final) {
			return ErrOverflow
		}
		more = n.extra(r, delta) || more
	case delta < 0:
		giveBack(r, -delta, func(c *coin) bool { return !c.quota && !c.ofKey })
		giveBack(r, -delta, func(c *coin) bool { return !c.quota && c.ofKey })
	}
	r.price = cost
	if more && !final && err == nil {
		err = ErrExhausted
	}
	return err
}

func (n *naive) settleMeter(r *naiveReceipt, m Meter, delta int64) (more bool) {
	done := make(map[*book]bool)
	for _, c := range slices.Clone(r.coins) {
		if !c.quota || c.meter != m || done[c.book] || delta == 0 {
			continue
		}
		done[c.book] = true
		if delta < 0 {
			giveBack(r, -delta, func(d *coin) bool { return d.quota && d.book == c.book })
		} else {
			b := c.book
			b.sums[b.current] += delta
			r.coins = append(r.coins, coin{b, b.current, delta, c.ofKey, true, m, c.limit})
		}
		more = c.book.used() > c.limit || more
	}
	return more
}

// fits reports whether an amount can be added to the books of all payers, which
// turn opens.
func (n *naive) fits(r *naiveReceipt, amount int64, turn bool) bool {
	for _, p := range r.payers {
		if p.terms != nil && p.terms.Credits != nil {
			b := n.book(bookName{p.owner, "credits", p.terms.Credits.Period.Kind})
			if turn {
				b = n.credits(p)
			}
			if sum := new(big.Int).Add(big.NewInt(b.used()), big.NewInt(amount)); !sum.IsInt64() {
				return false
			}
		}
	}
	return true
}

func (n *naive) extra(r *naiveReceipt, amount int64) (more bool) {
	for i, p := range r.payers {
		if p.terms == nil || p.terms.Credits == nil {
			continue
		}
		b := n.book(bookName{p.owner, "credits", p.terms.Credits.Period.Kind})
		coins, there := n.spend(p, b, r.now, amount, i == 1)
		for _, c := range coins {
			c.book.sums[c.period] += c.amount
		}
		r.coins = append(r.coins, coins...)
		more = there < amount || more
	}
	return more
}

// giveBack takes an amount off the last coins of some kind.
func giveBack(r *naiveReceipt, amount int64, of func(*coin) bool) {
	for i := len(r.coins) - 1; i >= 0; i-- {
		if c := &r.coins[i]; of(c) {
			x := min(c.amount, amount)
			c.amount -= x
			c.book.sums[c.period] -= x
			amount -= x
		}
	}
}

// balance returns the limit and what remains of it, and the overage.
func (n *naive) balance(p naivePayer) (limit, remaining, overage int64) {
	b := n.credits(p)
	books, left := n.sources(p, b, n.now)
	for _, x := range left[:len(books)-1] {
		remaining += x
	}
	limit = int64(p.terms.Credits.Amount) + b.carried()
	overage = max(b.used()-limit, 0)
	for _, g := range p.terms.Grants {
		if g.Expires == 0 || n.now < g.Expires {
			limit += int64(g.Amount)
		}
	}
	return limit, remaining, overage
}
