package credit

import (
	"errors"
	"testing"

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
		err := r.Advance(tt.total, Units{})
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
