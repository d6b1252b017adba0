package credit

import (
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/near"
)

// Payer is a purse and the terms that hold for it. One without terms pays
// nothing.
type Payer struct {
	Purse *Purse
	Terms *Terms
}

// Near has the processor fetch the purse, ahead of a charge.
func (p *Payer) Near() {
	if p.Purse != nil {
		near.Fetch(unsafe.Pointer(p.Purse)) // up to the slot of first
	}
}

// NearSlot has it fetch the counter, once the purse is there.
func (p *Payer) NearSlot() {
	if p.Purse != nil {
		if spot := p.Purse.spot.Load(); spot != nil {
			near.Fetch(unsafe.Pointer(spot))
		}
	}
}

// Receipt is what was charged for a request. Its zero value, and nil, is a
// receipt for nothing, of which every method does nothing. It must not be copied; its
// methods may be called by many goroutines once Charge has returned. It may be
// used again once it is settled.
type Receipt struct {
	_           noCopy
	tenant, key Payer
	now         int64 // of the charge
	open        bool
	price       access.Credits
	units       Units

	count int
	few   [inline]part
	more  []part
}

// inline is the number of parts without an allocation: credits of tenant and
// key, and a quota or grant. Those beyond are made room for at once.
const (
	inline = 3
	beyond = 8
)

// part is what was taken from one account.
type part struct {
	*account
	period int64
	amount int64
	upTo   int64 // the lease that it needs, 0 if none; of a quota, its amount
	ofKey  bool
	quota  bool
	meter  Meter // if quota
}

// noCopy makes go vet find copies.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

func (r *Receipt) at(i int) *part {
	if i < inline {
		return &r.few[i]
	}
	return &r.more[i-inline]
}

// note appends a part that is yet to be taken.
func (r *Receipt) note(p part) {
	if r.count < inline {
		r.few[r.count] = p
	} else {
		r.noteMore(p)
	}
	r.count++
}

func (r *Receipt) noteMore(p part) {
	if at := r.count - inline; at < len(r.more) {
		r.more[at] = p
		return
	}
	if r.more == nil {
		r.more = make([]part, 0, beyond)
	}
	r.more = append(r.more, p)
}

// cut drops all parts from the first n on.
func (r *Receipt) cut(n int) { r.count = n }

// lock takes the locks of both purses, the tenant's first.
func (r *Receipt) lock() {
	r.tenant.Purse.mu.Lock()
	if r.key.Purse != nil {
		r.key.Purse.mu.Lock()
	}
}

func (r *Receipt) unlock() {
	if r.key.Purse != nil {
		r.key.Purse.mu.Unlock()
	}
	r.tenant.Purse.mu.Unlock()
}

// take takes the parts from the first n on: all of them, or none and the error.
func (r *Receipt) take(n int) error {
	if err := r.lease(n); err != nil {
		return err
	}
	return r.add(n)
}

// lease makes the leases that the parts from the first n on need.
func (r *Receipt) lease(n int) error {
	for i := n; i < r.count; i++ {
		if p := r.at(i); !p.quota && p.upTo > p.slot.Leased() {
			if err := p.slot.Lease(p.upTo); err != nil {
				return err
			}
		}
	}
	return nil
}

// add counts the parts from the first n on: all of them, or none and the error.
func (r *Receipt) add(n int) error {
	for i := n; i < r.count; i++ {
		p := r.at(i)
		if p.amount == 0 {
			continue
		}
		if _, err := p.slot.Add(p.amount); err != nil {
			for i--; i >= n; i-- {
				_, _ = r.at(i).slot.Add(-r.at(i).amount) // where it was before
			}
			return err
		}
	}
	return nil
}

// merge joins the parts from the first n on to those that they continue, so
// that a running cost does not make the receipt longer and longer.
func (r *Receipt) merge(n int) {
	end := r.count
	r.cut(n)
	for i := n; i < end; i++ {
		p := *r.at(i)
		if last := r.last(p.ofKey); last != nil && last.account == p.account && last.period == p.period {
			last.amount += p.amount
			continue
		}
		r.note(p)
	}
}

// last returns the latest part of a payer's credits, or nil.
func (r *Receipt) last(ofKey bool) *part {
	for i := r.count - 1; i >= 0; i-- {
		if p := r.at(i); !p.quota && p.ofKey == ofKey {
			return p
		}
	}
	return nil
}
