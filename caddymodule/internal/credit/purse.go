package credit

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// Purse is the accounts of one tenant or key. Get it from a ledger, and let go
// of it when done: there is one for each subject for as long as anybody has
// it. It is safe for concurrent use.
//
// With a million of them each look into another piece of memory costs a charge
// more than all that it reckons. So what most charges need, and the account that
// most purses have, are in the purse, one next to the other.
type Purse struct {
	mu     sync.Mutex
	terms  *Terms               // what the rest is bound to
	credit *account             // nil: the terms have no credits
	spot   atomic.Pointer[byte] // where the slot of first is; nil if that is not known
	simple simple
	first  account // of kept

	by     Allowance  // that of the terms
	quotas []*account // in the order of terms.Quotas
	grants []boundGrant

	kept  []keptAccount // all accounts with a period that were used so far
	slots Slots
	owner subject
	fresh atomic.Bool // asked for since the cache last looked
}

// simple is what is charged of a purse whose terms have an allowance, not strict,
// and no quotas, as long as no grant is needed. Its zero value is that of any
// other.
type simple struct {
	until int64 // the second in which the period ends
	most  int64 // that may be used, besides what was carried over
}

// simplify notes what there is to note of the bound terms, once the period of
// the credits is the present one.
func (p *Purse) simplify() {
	if len(p.quotas) == 0 && !p.by.Strict && p.credit.slot.Carried() <= int64(access.MaxCredits) {
		p.simple = simple{p.credit.until, int64(p.by.Amount)}
	}
}

// keptAccount is an account and what tells it from others.
type keptAccount struct {
	what byte
	kind period.Kind
	*account
}

// boundGrant is a grant with its account.
type boundGrant struct {
	Grant
	*account
}

// left returns what there is to spend of g.
func (g *boundGrant) left(now int64) access.Credits {
	if !g.spendable(now) {
		return 0
	}
	return max(g.Amount-access.Credits(g.used()), 0)
}

// bind looks up the accounts of terms.
func (p *Purse) bind(t *Terms) error {
	if p.terms == t {
		return nil
	}
	if err := t.Check(); err != nil {
		return err
	}
	var credit *account
	var err error
	if t.Credits != nil {
		if credit, err = p.account(forCredits, t.Credits.Period.Kind); err != nil {
			return err
		}
	}
	quotas := make([]*account, len(t.Quotas))
	for i, q := range t.Quotas {
		if quotas[i], err = p.account(meterCode(q.Meter), q.Period.Kind); err != nil {
			return err
		}
	}
	grants, err := p.bindGrants(t.Grants)
	if err != nil {
		return err
	}
	p.terms, p.credit, p.quotas, p.grants, p.simple = t, credit, quotas, grants, simple{}
	if p.by = (Allowance{}); t.Credits != nil {
		p.by = *t.Credits
	}
	return nil
}

// account finds or makes an account.
func (p *Purse) account(what byte, kind period.Kind) (*account, error) {
	for _, k := range p.kept {
		if k.what == what && k.kind == kind {
			return k.account, nil
		}
	}
	a := &p.first
	if len(p.kept) > 0 {
		a = new(account)
	}
	if err := p.find(a, what, kindCode(kind)); err != nil {
		return nil, err
	}
	if a == &p.first {
		p.spot.Store(a.room.At())
	}
	p.kept = append(p.kept, keptAccount{what, kind, a})
	return a, nil
}

// find gives an account its slot.
func (p *Purse) find(a *account, what byte, which []byte) (err error) {
	a.slot, err = p.slots.Slot(p.owner.accountID(what, which), &a.room)
	return err
}

// bindGrants returns grants in the order in which they are spent.
func (p *Purse) bindGrants(list []Grant) ([]boundGrant, error) {
	grants := make([]boundGrant, 0, len(list))
	for _, g := range list {
		bound := boundGrant{Grant: g}
		if i := slices.IndexFunc(p.grants, func(b boundGrant) bool { return b.ID == g.ID }); i >= 0 {
			bound.account = p.grants[i].account
		} else {
			bound.account = new(account)
			if err := p.find(bound.account, forGrant, g.ID[:]); err != nil {
				return nil, err
			}
		}
		grants = append(grants, bound)
	}
	slices.SortStableFunc(grants, func(a, b boundGrant) int { return compareGrants(&a.Grant, &b.Grant) })
	return grants, nil
}

// compareGrants orders by expiry, never last, then by id.
func compareGrants(a, b *Grant) int {
	switch {
	case a.Expires == b.Expires:
		return slices.Compare(a.ID[:], b.ID[:])
	case b.Expires == 0 || a.Expires != 0 && a.Expires < b.Expires:
		return -1
	}
	return 1
}
