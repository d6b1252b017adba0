package credit

import (
	"errors"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// A running cost that is more than there is says by how much, for the payer who
// has less, and is charged.
func TestRunningCostSaysWhatIsShort(t *testing.T) {
	d := newDesk(t, "2027-01-10 12:00")
	month := period.Period{Kind: period.Month, Anchor: 1}
	tenant := d.payer(&Terms{Credits: &Allowance{Amount: 10 * c, Period: month, Overage: 2 * c}})
	key := Payer{d.ledger.KeyPurse([16]byte{1}), &Terms{Credits: &Allowance{Amount: 5 * c, Period: month}}}
	for _, tt := range []struct {
		key   Payer
		total access.Credits
		short access.Credits
	}{
		{Payer{}, 12 * c, 0}, {Payer{}, 12*c + 1, 1}, {Payer{}, 20 * c, 8 * c}, {key, 5 * c, 0}, {key, 8 * c, 3 * c}, {key, 15 * c, 10 * c},
	} {
		var r Receipt
		if f := d.ledger.Charge(&r, tenant, tt.key, c, Units{}); !f.OK() {
			t.Fatal(f.Error())
		}
		err := r.Advance(d.now.Unix(), tt.total, Units{})
		short := access.Credits(0)
		if e, ok := errors.AsType[*Exhausted](err); ok && errors.Is(err, ErrExhausted) {
			short = e.Short
		} else if err != nil {
			t.Fatal(err)
		}
		if b, _ := d.ledger.Balance(tenant); short != tt.short || b.Used+b.Overage != tt.total {
			t.Errorf("%s: short of %s, want %s; charged %s", tt.total, short, tt.short, b.Used+b.Overage)
		}
		if err := r.Refund(); err != nil {
			t.Fatal(err)
		}
	}
}

// A running cost is charged in the period that it is reported in, also where
// nothing else has opened that.
func TestRunningCostOpensThePeriod(t *testing.T) {
	d := newDesk(t, "2027-01-10 12:30")
	hour := &Allowance{Amount: 10 * c, Period: period.Period{Kind: period.Hour}}
	expiring := Grant{grantID(1), 5 * c, d.now.Add(time.Hour).Unix()}
	terms := &Terms{Credits: hour, Grants: []Grant{expiring}}
	r, _ := d.charge(terms, c, Units{})
	advance := func(total access.Credits) error { return r.Advance(d.now.Unix(), total, Units{}) }
	if err := advance(9 * c); err != nil {
		t.Fatal(err)
	}
	d.at("2027-01-10 13:10")
	if err := advance(17 * c); err != nil {
		t.Errorf("8 of the 10 credits of an hour: %v", err)
	}
	d.has(terms, 15*c, 7*c, 0)
	d.at("2027-01-10 14:10") // the grant is gone
	if err := advance(27 * c); err != nil {
		t.Errorf("10 of the 10 credits of an hour: %v", err)
	}
	if err := advance(28 * c); !errors.Is(err, ErrExhausted) {
		t.Errorf("more than there is: %v", err)
	}
	if b := d.has(terms, 10*c, 0, c); b.Used != 10*c {
		t.Errorf("%+v", b)
	}
}

// A disk that fails does not hide that there is not enough: the request that is
// reported about must end.
func TestRunningCostBeyondTheCreditsOnAFailingDisk(t *testing.T) {
	d := newDesk(t, "2027-01-10 12:00")
	terms := &Terms{Credits: monthly(10 * c)}
	terms.Credits.Strict = true
	r, _ := d.charge(terms, c, Units{})
	d.slots.broke = errors.New("disk full")
	e, ok := errors.AsType[*Exhausted](r.Advance(d.now.Unix(), 12*c, Units{}))
	if !ok || e.Short != 2*c {
		t.Errorf("%+v", e)
	}
	d.has(terms, 10*c, 0, 2*c)
}
