package credit

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

const c = access.Credit

// desk is a ledger with one tenant, for tests that tell a story.
type desk struct {
	t      *testing.T
	now    time.Time
	slots  *memory
	ledger *Ledger
}

func newDesk(t *testing.T, now string) *desk {
	d := &desk{t: t, slots: newMemory()}
	d.at(now)
	d.reopen()
	return d
}

func (d *desk) at(now string) {
	d.t.Helper()
	at, err := time.Parse("2006-01-02 15:04", now)
	if err != nil {
		d.t.Fatal(err)
	}
	d.now = at
}

func (d *desk) reopen() {
	d.ledger = New(Options{Slots: d.slots, Now: func() time.Time { return d.now }})
}

func (d *desk) payer(t *Terms) Payer { return Payer{d.ledger.Purse("acme"), t} }

func (d *desk) charge(t *Terms, price access.Credits, units Units) (*Receipt, Refusal) {
	r := new(Receipt)
	return r, d.ledger.Charge(r, d.payer(t), Payer{}, price, units)
}

// pay charges and settles.
func (d *desk) pay(t *Terms, price access.Credits) {
	d.t.Helper()
	r, f := d.charge(t, price, Units{})
	if !f.OK() {
		d.t.Fatal(f.Error())
	}
	if err := r.Settle(price, Units{}); err != nil {
		d.t.Fatal(err)
	}
}

// refuses checks that a price is refused, and what is said to be there.
func (d *desk) refuses(t *Terms, price, available access.Credits) Refusal {
	d.t.Helper()
	_, f := d.charge(t, price, Units{})
	if f.Reason != InsufficientCredits || f.Needed != price || f.Available != available {
		d.t.Errorf("%v: %+v, want %v available", price, f, available)
	}
	return f
}

// has checks a balance.
func (d *desk) has(t *Terms, limit, remaining, overage access.Credits) Balance {
	d.t.Helper()
	b, err := d.ledger.Balance(d.payer(t))
	if err != nil || b.Limit != limit || b.Remaining != remaining || b.Used != limit-remaining || b.Overage != overage {
		d.t.Errorf("%+v, %v; want %v, %v, %v", b, err, limit, remaining, overage)
	}
	return b
}

func monthly(amount access.Credits) *Allowance {
	return &Allowance{Amount: amount, Period: period.Period{Kind: period.Month}}
}

func TestOrderOfSpending(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	soon := d.now.Add(time.Hour).Unix()
	terms := &Terms{Credits: monthly(10 * c), Grants: []Grant{{grantID(1), 5 * c, 0}, {grantID(2), 5 * c, soon + 9}, {grantID(3), 5 * c, soon}}}
	terms.Credits.Overage = 2 * c
	d.has(terms, 25*c, 25*c, 0)
	d.pay(terms, 11*c)
	d.has(terms, 25*c, 14*c, 0)
	list, _ := d.ledger.Grants(d.payer(terms))
	if list[0].ID != grantID(3) || list[0].Used != c || list[1].Used != 0 || list[2].ID != grantID(1) {
		t.Errorf("%+v", list)
	}
	// The rest of the first grant goes with its expiry.
	d.now = time.Unix(soon, 0)
	d.has(terms, 20*c, 10*c, 0)
	d.refuses(terms, 12*c+1, 12*c)
	r, f := d.charge(terms, 12*c, Units{})
	if !f.OK() {
		t.Fatal(f.Error())
	}
	d.has(terms, 20*c, 0, 2*c)
	// Given back: 2 of overage, 5 of the one that never expires, 1 of the other.
	if err := r.Settle(4*c, Units{}); err != nil {
		t.Fatal(err)
	}
	d.has(terms, 20*c, 6*c, 0)
	list, _ = d.ledger.Grants(d.payer(terms))
	if list[1].Used != 4*c || list[2].Used != 0 {
		t.Errorf("%+v", list)
	}
	d.at("2026-12-01 00:00") // the grant that never expires stays
	d.has(terms, 15*c, 15*c, 0)
}

func TestExactlyOnce(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(10 * c)}
	r, _ := d.charge(terms, 4*c, Units{})
	if f := d.ledger.Charge(r, d.payer(terms), Payer{}, c, Units{}); !errors.Is(&f, ErrOpen) {
		t.Errorf("a receipt in use was charged: %+v", f)
	}
	for _, settle := range []func() error{func() error { return r.Settle(c, Units{}) }, r.Refund, func() error { return r.Settle(9*c, Units{}) }, func() error { return r.Advance(d.now.Unix(), 9*c, Units{}) }} {
		if err := settle(); err != nil {
			t.Error(err)
		}
		d.has(terms, 10*c, 9*c, 0)
	}
	var none Receipt
	if err := errors.Join(none.Settle(c, Units{}), none.Refund(), none.Advance(1, c, Units{})); err != nil {
		t.Error(err)
	}
}

func TestAmountsOutOfRange(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(10 * c), Quotas: []Quota{{Meter: Seconds, Amount: 100}}}
	for _, price := range []access.Credits{-1, math.MinInt64, access.MaxCredits + 1, math.MaxInt64} {
		if _, f := d.charge(terms, price, Units{}); !errors.Is(&f, ErrAmount) {
			t.Errorf("price %v: %+v", price, f)
		}
	}
	if _, f := d.charge(terms, 0, Units{BytesIn: -1}); !errors.Is(&f, ErrAmount) {
		t.Errorf("%+v", f)
	}
	for _, cost := range []access.Credits{-1, math.MinInt64, access.MaxCredits + 1, math.MaxInt64} {
		r, _ := d.charge(terms, c, Units{})
		if err := r.Settle(cost, Units{Seconds: 1}); !errors.Is(err, ErrCost) {
			t.Errorf("cost %v: %v", cost, err)
		}
	}
	d.has(terms, 10*c, 6*c, 0) // the prices stand, the seconds count
	r, _ := d.charge(terms, 0, Units{Seconds: 5})
	if err := r.Settle(0, Units{Seconds: -1}); !errors.Is(err, ErrCost) {
		t.Error(err)
	}
	if list, _ := d.ledger.Quotas(d.payer(terms)); list[0].Used != 9 {
		t.Errorf("%+v", list)
	}
}

func TestFreeAndDebt(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(3 * c)}
	r, _ := d.charge(terms, 3*c, Units{})
	if err := r.Settle(5*c+1, Units{}); err != nil {
		t.Error(err)
	}
	b := d.has(terms, 3*c, 0, 2*c+1)
	if used, limit, remaining := b.Whole(); used != 3 || limit != 3 || remaining != 0 {
		t.Error(used, limit, remaining)
	}
	d.refuses(terms, 1, 0)
	d.pay(terms, 0)
	d.at("2026-12-01 00:00")
	d.has(terms, 3*c, 3*c, 0)
	d.pay(terms, c/2)
	b = d.has(terms, 3*c, 5*c/2, 0)
	if used, limit, remaining := b.Whole(); used != 1 || limit != 3 || remaining != 2 {
		t.Error(used, limit, remaining)
	}
	r, _ = d.charge(terms, c, Units{})
	_ = r.Settle(0, Units{})
	d.has(terms, 3*c, 5*c/2, 0)
}

func TestKeyAndTenantAtOnce(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms, own := &Terms{Credits: monthly(10 * c)}, &Terms{Credits: monthly(3 * c), Quotas: []Quota{{Requests, 2, period.Period{Kind: period.Day}}}}
	key := Payer{d.ledger.KeyPurse(access.KeyID{1}), own}
	var r [4]Receipt
	one := Units{Requests: 1}
	if f := d.ledger.Charge(&r[0], d.payer(terms), key, 2*c, one); !f.OK() {
		t.Fatal(f.Error())
	}
	if f := d.ledger.Charge(&r[1], d.payer(terms), key, 2*c, one); f.Reason != InsufficientCredits || !f.OfKey || f.Available != c {
		t.Errorf("%+v", f)
	}
	if list, _ := d.ledger.Quotas(key); list[0].Used != 1 {
		t.Errorf("%+v", list)
	}
	d.has(terms, 10*c, 8*c, 0)
	if f := d.ledger.Charge(&r[2], d.payer(terms), key, c, one); !f.OK() {
		t.Fatal(f.Error())
	}
	f := d.ledger.Charge(&r[3], d.payer(terms), key, 0, one)
	if f.Reason != QuotaExceeded || !f.OfKey || f.Meter != Requests || f.Retry != 12*time.Hour {
		t.Errorf("%+v", f)
	}
	_ = r[0].Refund()
	d.has(terms, 10*c, 9*c, 0)
	if b, _ := d.ledger.Balance(key); b.Remaining != 2*c {
		t.Errorf("%+v", b)
	}
	if f := d.ledger.Charge(&r[3], d.payer(terms), d.payer(own), 0, one); !errors.Is(&f, ErrOpen) {
		t.Errorf("a tenant's purse was its key's too: %+v", f)
	}
}

func TestQuotas(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Quotas: []Quota{
		{BytesOut, 100, period.Period{Kind: period.Hour}}, {Seconds, 10, period.Period{}}, {Requests, 5, period.Period{Kind: period.Day}},
	}}
	r, f := d.charge(terms, 7*c, Units{Requests: 1})
	if !f.OK() {
		t.Fatal(f.Error())
	}
	// What nobody knew before is counted, and refuses the next.
	if err := r.Settle(0, Units{Requests: 1, BytesOut: 250}); err != nil {
		t.Error(err)
	}
	if _, f = d.charge(terms, 0, Units{}); f.Reason != QuotaExceeded || f.Meter != BytesOut || f.Retry != time.Hour {
		t.Errorf("%+v", f)
	}
	if _, f = d.charge(terms, 0, Units{Requests: 5}); f.Meter != Requests || f.Resets != time.Date(2026, 11, 11, 0, 0, 0, 0, time.UTC).Unix() {
		t.Errorf("not the one that resets last: %+v", f)
	}
	if _, f = d.charge(terms, 0, Units{Requests: 5, Seconds: 11}); f.Meter != Seconds || f.Resets != 0 || f.Retry != 0 {
		t.Errorf("not the one that never resets: %+v", f)
	}
	d.at("2026-11-10 13:00")
	if _, f = d.charge(terms, 0, Units{Requests: 4, BytesOut: 100, Seconds: 10}); !f.OK() {
		t.Error(f.Error())
	}
	none := &Terms{Quotas: []Quota{{BytesIn, 0, period.Period{}}}}
	if _, f = d.charge(none, 0, Units{}); f.Reason != QuotaExceeded {
		t.Errorf("a quota of 0: %+v", f)
	}
}

func TestUnlimited(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	for _, terms := range []*Terms{nil, {}, {Grants: []Grant{{grantID(1), c, 0}}}} {
		d.pay(terms, 5*c)
		if b, err := d.ledger.Balance(d.payer(terms)); b != (Balance{}) || err != nil {
			t.Errorf("%+v, %v", b, err)
		}
	}
	prepaid := &Terms{Credits: &Allowance{}, Grants: []Grant{{grantID(1), c, 0}}}
	d.has(prepaid, c, c, 0)
	d.pay(prepaid, c)
	if f := d.refuses(prepaid, 1, 0); f.Resets != 0 || f.Retry != 0 {
		t.Errorf("%+v", f)
	}
}

func TestClockJumps(t *testing.T) {
	d := newDesk(t, "2026-11-30 23:59")
	terms := &Terms{Credits: monthly(10 * c)}
	d.pay(terms, 10*c)
	d.at("2026-12-01 00:01")
	d.pay(terms, 4*c)
	for _, now := range []string{"2026-11-30 23:58", "2026-12-31 23:59", "2026-11-01 00:00", "1960-01-01 00:00"} {
		d.at(now)
		b := d.has(terms, 10*c, 6*c, 0)
		if want := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC); !b.Resets.Equal(want) {
			t.Errorf("%s: resets %s", now, b.Resets)
		}
		d.reopen()
		d.has(terms, 10*c, 6*c, 0)
	}
	d.at("2031-06-01 00:00") // far ahead, and back
	d.pay(terms, 9*c)
	d.at("2027-01-02 00:00")
	d.has(terms, 10*c, c, 0)
	d.refuses(terms, 2*c, c)
	d.at("2031-07-01 00:00")
	d.has(terms, 10*c, 10*c, 0)
}

// A machine without a clock starts in 1970, or before.
func TestNoClock(t *testing.T) {
	for _, kind := range []period.Kind{period.Hour, period.Day, period.Week, period.Month} {
		d := newDesk(t, "1969-12-31 23:00")
		terms := &Terms{Credits: &Allowance{Amount: 10 * c, Period: period.Period{Kind: kind}}}
		d.pay(terms, 4*c)
		for _, now := range []string{"1970-01-01 00:00", "1950-01-01 00:00", "1970-01-01 00:59"} {
			d.at(now)
			d.has(terms, 10*c, 6*c, 0)
			d.reopen()
		}
		d.at("2026-11-10 00:00")
		d.has(terms, 10*c, 10*c, 0)
		d.pay(terms, c)
		d.now = time.Unix(math.MaxInt64/2, 0)
		d.pay(terms, c)
		d.pay(terms, c)
		d.has(terms, 10*c, 8*c, 0)
	}
}

func TestAdd(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(10 * c)}
	terms.Credits.Add = true
	d.has(terms, 10*c, 10*c, 0) // nothing is carried into the first
	d.pay(terms, 4*c)
	late, _ := d.charge(terms, 3*c, Units{})
	d.at("2026-12-05 00:00")
	if b := d.has(terms, 13*c, 13*c, 0); b.Carried != 3*c {
		t.Errorf("%+v", b)
	}
	_ = late.Refund() // as if it had never been
	d.has(terms, 16*c, 16*c, 0)
	d.at("2027-01-05 00:00") // 16 are unused, but no more than 10 go on
	d.has(terms, 20*c, 20*c, 0)
	d.pay(terms, 19*c)
	late, _ = d.charge(terms, c, Units{})
	d.at("2027-02-05 00:00")
	d.has(terms, 10*c, 10*c, 0)
	_ = late.Settle(3*c, Units{}) // what is more is paid now
	d.has(terms, 10*c, 8*c, 0)
	d.at("2027-04-05 00:00") // March went unused: all of it
	d.has(terms, 20*c, 20*c, 0)
}

func TestReplace(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(10 * c)}
	back, _ := d.charge(terms, 3*c, Units{})
	more, _ := d.charge(terms, 3*c, Units{})
	d.at("2026-12-05 00:00")
	d.has(terms, 10*c, 10*c, 0)
	_ = back.Refund()
	d.has(terms, 10*c, 10*c, 0)
	_ = more.Settle(4*c, Units{})
	d.has(terms, 10*c, 9*c, 0)
}

func TestPlanChanges(t *testing.T) {
	d := newDesk(t, "2026-11-20 12:00")
	month, day := &Terms{Credits: monthly(10 * c)}, &Terms{Credits: &Allowance{Amount: 2 * c, Period: period.Period{Kind: period.Day}}}
	d.pay(month, 10*c)
	d.pay(day, 2*c)
	d.refuses(month, 1, 0)
	d.refuses(day, 1, 0)
	more := &Terms{Credits: monthly(15 * c)}
	d.pay(more, 5*c)
	d.has(month, 10*c, 0, 5*c)
	// Months from the 15th open one period, but none a second time.
	middle := &Terms{Credits: monthly(10 * c)}
	middle.Credits.Period.Anchor = 15
	d.pay(middle, 10*c)
	d.refuses(month, 1, 0)
	d.refuses(middle, 1, 0)
	d.at("2026-12-01 00:00")
	d.pay(month, 10*c)
	d.refuses(middle, 1, 0)
	d.at("2026-12-15 00:00")
	d.refuses(month, 1, 0)
	d.has(middle, 10*c, 10*c, 0)
}

// Another time zone puts off the start of a period that is open. That gives
// nobody what the period gave already, nor carries it over.
func TestZoneChanges(t *testing.T) {
	york, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Fatal(err)
	}
	for kind, days := range map[period.Kind]int{period.Day: 1, period.Week: 7, period.Month: 30} {
		d := newDesk(t, "2026-11-01 00:00")
		d.now = d.now.AddDate(0, 0, map[period.Kind]int{period.Week: 1}[kind]) // Monday
		terms := func(zone *time.Location) *Terms {
			return &Terms{Credits: &Allowance{Amount: 10 * c, Add: true, Period: period.Period{Kind: kind, Zone: zone}}}
		}
		start := d.now
		utc, there := terms(nil), terms(york)
		d.now = start.Add(12 * time.Hour)
		d.pay(utc, 10*c)
		d.refuses(there, 1, 0)
		if b := d.has(there, 10*c, 0, 0); !b.Resets.Equal(start.AddDate(0, 0, days).Add(5 * time.Hour)) {
			t.Errorf("%s: resets at %s", kind, b.Resets)
		}
		d.reopen()
		d.refuses(there, 1, 0)
		d.now = start.AddDate(0, 0, days).Add(4 * time.Hour)
		d.refuses(there, 1, 0)
		d.now = d.now.Add(2 * time.Hour)
		d.has(there, 10*c, 10*c, 0)
		d.pay(there, 4*c)
		d.now = d.has(utc, 10*c, 6*c, 0).Resets // and back again
		d.has(utc, 16*c, 16*c, 0)
	}
}

func TestBadTerms(t *testing.T) {
	day := period.Period{Kind: period.Day}
	for name, terms := range map[string]*Terms{
		"amount":   {Credits: &Allowance{Amount: -1}},
		"huge":     {Credits: &Allowance{Amount: access.MaxCredits + 1}},
		"overage":  {Credits: &Allowance{Overage: -1}},
		"block":    {Credits: &Allowance{Block: -1}},
		"period":   {Credits: &Allowance{Period: period.Period{Kind: 99}}},
		"anchor":   {Credits: &Allowance{Period: period.Period{Kind: period.Month, Anchor: 32}}},
		"meter":    {Quotas: []Quota{{NumMeters, 1, day}}},
		"quota":    {Quotas: []Quota{{Requests, -1, day}}},
		"twice":    {Quotas: []Quota{{Requests, 1, day}, {Requests, 2, day}}},
		"grant":    {Grants: []Grant{{grantID(1), -1, 0}}},
		"expiry":   {Grants: []Grant{{grantID(1), 1, -1}}},
		"two ids":  {Grants: []Grant{{grantID(1), 1, 0}, {grantID(1), 2, 0}}},
		"big gift": {Grants: []Grant{{grantID(1), access.MaxCredits + 1, 0}}},
	} {
		d := newDesk(t, "2026-11-20 12:00")
		if _, f := d.charge(terms, 0, Units{}); f.Reason != Failed || f.Err == nil {
			t.Errorf("%s: %+v", name, f)
		}
		if _, err := d.ledger.Balance(d.payer(terms)); terms.Credits != nil && err == nil {
			t.Errorf("%s has a balance", name)
		}
	}
}

func TestMeters(t *testing.T) {
	for m := range Meter(NumMeters) {
		if got, err := ParseMeter(m.String()); err != nil || got != m {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
	if m, err := ParseMeter("credits"); err == nil {
		t.Errorf("credits is %v", m)
	}
}
