package mgmt

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
)

// Account is what was counted for a tenant.
type Account struct {
	Credits credit.Balance            // Limited is false if the plan has no credits
	Left    map[string]access.Credits // of the grants that can be spent, by their ids
	Quotas  []Quota
}

// Quota is a quota of a tenant and what was used of it.
type Quota struct {
	Meter    string     `json:"meter"` // requests, bytes_in, bytes_out or seconds
	Per      string     `json:"per"`   // hour, day, week or month
	Limit    int64      `json:"limit"`
	Used     int64      `json:"used"`
	Observe  bool       `json:"observe"`   // nothing is refused
	ResetsAt *time.Time `json:"resets_at"` // null: never
}

// Balance is the answer to GET tenants/{tenant}/credits. Amounts are in credits,
// with up to six decimals; limit − used is remaining. They are sums, which may
// be above what one amount can be.
type Balance struct {
	Tenant    string       `json:"tenant"`
	Limit     *json.Number `json:"limit"` // of the period and unexpired grants; null: the plan has no credits
	Used      *json.Number `json:"used"`
	Remaining *json.Number `json:"remaining"`
	Overage   json.Number  `json:"overage"`   // used beyond the limit
	ResetsAt  *time.Time   `json:"resets_at"` // null: never
	Grants    []Grant      `json:"grants"`    // in the order in which they are spent; then those that expired
	Quotas    []Quota      `json:"quotas"`
}

// KeyCredits is what a key used of the credits that its override sets, which are
// charged beside its tenant's. Amounts are as in Balance.
type KeyCredits struct {
	Limit     json.Number `json:"limit"` // of the period
	Used      json.Number `json:"used"`
	Remaining json.Number `json:"remaining"`
	ResetsAt  *time.Time  `json:"resets_at"` // null: never
}

// Grant is credits that a tenant has beside its plan's.
type Grant struct {
	ID        string         `json:"id"`
	Amount    access.Credits `json:"amount"`
	Remaining access.Credits `json:"remaining"`
	ExpiresAt *time.Time     `json:"expires_at"` // null: never
	Note      string         `json:"note"`
	CreatedAt time.Time      `json:"created_at"`
}

// CreateGrant is the body of POST tenants/{tenant}/credits/grants.
type CreateGrant struct {
	Amount    access.Credits `json:"amount"` // above 0
	ExpiresAt *time.Time     `json:"expires_at,omitempty"`
	ExpiresIn *int64         `json:"expires_in,omitempty"` // seconds from now; not together with ExpiresAt
	Note      string         `json:"note,omitempty"`       // for people
}

// Override replaces parts of the plan of a tenant or a key. What is nil is the
// plan's. It is the body of PUT tenants/{tenant}/override and
// keys/{key}/override, which replaces all of the override before.
type Override struct {
	Rate       *Rate           `json:"rate,omitempty"`
	Credits    *access.Credits `json:"credits,omitempty"`    // of each period
	Concurrent *uint32         `json:"concurrent,omitempty"` // requests at one time
	MaxKeys    *uint32         `json:"max_keys,omitempty"`   // of a tenant alone
	Until      *time.Time      `json:"until,omitempty"`      // nil: for ever
	// For is how long it holds from now, such as 12h or 7d; in requests alone and
	// not together with Until.
	For *string `json:"for,omitempty"`
}

func (*Override) refusesNull() {}

// ShowOverride returns the API's form of an override, nil for none.
func ShowOverride(o *access.Override) *Override {
	if o == nil {
		return nil
	}
	out := &Override{Until: unix(o.Until), Credits: positive(o.Credits), Concurrent: positive(o.Concurrent), MaxKeys: positive(o.MaxKeys)}
	if !o.Rate.IsZero() {
		out.Rate = ShowRate(o.Rate)
	}
	return out
}

func positive[T cmp.Ordered](n T) *T {
	var none T
	if n == none {
		return nil
	}
	return &n
}

// parse returns the override, as it is at a time.
func (o *Override) parse(now time.Time) (*access.Override, error) {
	// 0 of a stored override is the plan's: it must not look like nothing at all.
	for field, zero := range map[string]bool{"credits": o.Credits != nil && *o.Credits == 0,
		"concurrent": o.Concurrent != nil && *o.Concurrent == 0, "max_keys": o.MaxKeys != nil && *o.MaxKeys == 0} {
		if zero {
			return nil, badRequest(field, "%s: want more than 0; leave it out for what the plan has", field)
		}
	}
	rate, err := o.Rate.parse()
	if err != nil {
		return nil, badRequest("rate.window", "%s", err)
	}
	out := &access.Override{Rate: value(rate), Credits: value(o.Credits), Concurrent: value(o.Concurrent), MaxKeys: value(o.MaxKeys)}
	if rate != nil && out.Rate.IsZero() {
		return nil, badRequest("rate.requests", "rate.requests: want more than 0")
	}
	switch {
	case o.Until != nil && o.For != nil:
		return nil, badRequest("for", "give until or for, not both")
	case o.Until != nil:
		out.Until = o.Until.Unix()
		if out.Until <= 0 {
			return nil, badRequest("until", "the end %s is in the past", o.Until.UTC().Format(time.RFC3339))
		}
	case o.For != nil:
		d, err := parseSpan("for", *o.For)
		if err != nil {
			return nil, err
		}
		out.Until = now.Add(d + time.Second - 1).Unix() // at least as long as asked
	}
	return out, nil
}

// showGrant returns the API's form of a grant with what is left of it.
func showGrant(g access.Grant, left access.Credits) Grant {
	return Grant{ID: g.ID, Amount: g.Amount, Remaining: left, ExpiresAt: unix(g.Expires), Note: g.Note, CreatedAt: g.CreatedAt.UTC()}
}

// showBalance returns the API's form of what a tenant has at a time.
func showBalance(t *access.Tenant, a Account, now int64) Balance {
	b := Balance{Tenant: t.ID, Overage: sum(a.Credits.Overage), ResetsAt: present(a.Credits.Resets), Grants: []Grant{}, Quotas: append([]Quota{}, a.Quotas...)}
	if c := a.Credits; c.Limited {
		b.Limit, b.Used, b.Remaining = new(sum(c.Limit)), new(sum(c.Used)), new(sum(c.Remaining))
	}
	grants := slices.Clone(t.Grants)
	slices.SortStableFunc(grants, func(x, y access.Grant) int {
		return cmp.Or(cmp.Compare(turn(x, now), turn(y, now)), cmp.Compare(x.Expires, y.Expires))
	})
	for _, g := range grants {
		left, ok := a.Left[g.ID]
		switch {
		case turn(g, now) == gone:
			left = 0
		case !ok:
			left = g.Amount // nothing spends it
		}
		b.Grants = append(b.Grants, showGrant(g, left))
	}
	return b
}

// showKeyCredits returns the API's form of what a key has of its own, nil if it
// has none.
func showKeyCredits(b credit.Balance) *KeyCredits {
	if !b.Limited {
		return nil
	}
	return &KeyCredits{sum(b.Limit), sum(b.Used), sum(b.Remaining), present(b.Resets)}
}

func sum(c access.Credits) json.Number { return json.Number(c.String()) }

// The turns in which grants are listed.
const (
	expires = iota
	lasts
	gone
)

func turn(g access.Grant, now int64) int {
	switch {
	case g.Expires == 0:
		return lasts
	case g.Expires <= now:
		return gone
	}
	return expires
}
