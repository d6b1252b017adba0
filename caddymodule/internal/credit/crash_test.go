package credit

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

var errKilled = errors.New("killed")

// A script is run again and again, and killed before each change of a slot in
// turn. What is then left is what was left before the step it was killed in,
// or after, or in between, and the rest of the script goes on from there.
func TestKilledAnywhere(t *testing.T) {
	whole := runKilled(t, -1, nil)
	kills := 0
	for ; ; kills++ {
		if got := runKilled(t, kills, whole); len(got) == len(whole) {
			break
		}
	}
	if kills < 20 {
		t.Errorf("killed %d times only", kills)
	}
}

// runKilled returns what was left after each step up to the kill. It compares
// what is left after the kill with a run that was not killed.
func runKilled(t *testing.T, changes int, whole []access.Credits) (left []access.Credits) {
	d := newDesk(t, "2026-11-10 12:00")
	d.slots.step = func() {
		if changes--; changes == -1 {
			panic(errKilled)
		}
	}
	terms := &Terms{Credits: monthly(10 * c), Grants: []Grant{{grantID(1), 4 * c, 0}, {grantID(2), 4 * c, d.now.AddDate(0, 3, 0).Unix()}}}
	terms.Credits.Add, terms.Credits.Strict, terms.Credits.Overage = true, true, 3*c
	var r [8]Receipt
	pay := func(i int, price access.Credits) { d.ledger.Charge(&r[i], d.payer(terms), Payer{}, price, Units{}) }
	steps := []func(){
		func() { pay(0, 7*c) }, func() { pay(1, 9*c) }, func() { _ = r[0].Settle(2*c, Units{}) }, func() { _ = r[1].Settle(16*c, Units{}) },
		func() { pay(2, c) }, func() { d.at("2026-12-10 12:00") }, func() { _ = r[2].Refund() }, func() { pay(3, 3*c) }, func() { pay(4, 12*c) },
		func() { d.at("2027-01-10 12:00") }, func() { _ = r[4].Settle(c, Units{}) }, func() { _ = r[3].Advance(d.now.Unix(), 12*c, Units{}) },
		func() { _ = r[3].Refund() }, func() { d.at("2027-04-10 12:00") }, func() { pay(5, 25*c) }, func() { _ = r[5].Settle(30*c, Units{}) },
	}
	for i, step := range steps {
		killed := func() (killed bool) {
			defer func() { killed = recover() != nil }()
			step()
			_, _ = d.ledger.Balance(d.payer(terms))
			return false
		}()
		if killed {
			d.reopen()
		}
		b, err := d.ledger.Balance(d.payer(terms))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, b.Remaining-b.Overage)
		if !killed {
			continue
		}
		after, before := whole[i], access.Credits(0)
		if before = after; i > 0 && whole[i-1] != whole[i] && !turned(i) {
			before = whole[i-1]
		} else if i == 0 {
			before = 18 * c
		}
		if left[i] < min(before, after) || left[i] > max(before, after) {
			t.Fatalf("killed in step %d: %v are left, not between %v and %v", i, left[i], before, after)
		}
		return left
	}
	return append(left, 0)
}

// turned reports whether a step of the script is time that goes by.
func turned(i int) bool { return i == 5 || i == 9 || i == 13 }

// Whatever the disk has not been told is lost: nothing of it was spent.
func TestStrict(t *testing.T) {
	for _, block := range []access.Credits{0, 1, 5 * c, 1000 * c} {
		d := newDesk(t, "2026-11-10 12:00")
		random := rand.New(rand.NewPCG(1, uint64(block)))
		terms := &Terms{Credits: &Allowance{Amount: 300 * c, Period: period.Period{Kind: period.Day}, Overage: 20 * c, Strict: true, Block: block}}
		terms.Grants = []Grant{{grantID(1), 50 * c, 0}, {grantID(2), 50 * c, 0}}
		var held []*Receipt
		for range 20_000 {
			switch x := random.IntN(100); {
			case x < 60:
				r, f := d.charge(terms, access.Credits(random.IntN(5))*c/4+access.Credits(random.IntN(2)), Units{})
				if f.OK() {
					held = append(held, r)
				}
			case len(held) > 0 && x < 98:
				i := random.IntN(len(held))
				_ = held[i].Settle(access.Credits(random.IntN(7))*c/4, Units{})
				held = append(held[:i], held[i+1:]...)
			case x == 98:
				d.now = d.now.Add(time.Duration(random.IntN(60)) * time.Minute)
			default:
				d.slots.powerCut()
				d.reopen()
				held = nil
			}
			for id, s := range d.slots.slots {
				if s.Used() > s.Leased() {
					t.Fatalf("block %v: %x: %d used, %d leased", block, id, s.Used(), s.Leased())
				}
			}
		}
	}
}

func TestLeases(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(1000 * c)}
	terms.Credits.Strict = true
	for range 1000 {
		d.pay(terms, c/2)
	}
	if d.slots.flush < 3 || d.slots.flush > 5 {
		t.Errorf("%d leases for 1000 charges", d.slots.flush)
	}
	d.slots.powerCut()
	d.reopen()
	if b, _ := d.ledger.Balance(d.payer(terms)); b.Used < 500*c || b.Used > 500*c+128*c {
		t.Errorf("%+v", b)
	}
	// Never beyond what there is.
	d.refuses(terms, 1001*c, 1000*c-d.used(terms))
	d.pay(terms, 1000*c-d.used(terms))
	d.slots.powerCut()
	d.has(terms, 1000*c, 0, 0)
}

func (d *desk) used(t *Terms) access.Credits {
	b, _ := d.ledger.Balance(d.payer(t))
	return b.Used
}

func TestBrokenSlots(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	broke := errors.New("disk full")
	terms := &Terms{Credits: monthly(1000 * c)}
	terms.Credits.Strict = true
	d.slots.broke = broke
	if _, f := d.charge(terms, c, Units{}); f.Reason != Failed || !errors.Is(&f, broke) {
		t.Errorf("%+v", f)
	}
	d.slots.broke = nil
	r, _ := d.charge(terms, c, Units{})
	d.slots.broke = broke
	if _, f := d.charge(terms, 900*c, Units{}); f.Reason != Failed || !errors.Is(&f, broke) {
		t.Errorf("charged without a lease: %+v", f)
	}
	// The work is done: it counts, durable or not.
	if err := r.Settle(900*c, Units{}); !errors.Is(err, broke) {
		t.Error(err)
	}
	d.slots.broke = nil
	d.has(terms, 1000*c, 100*c, 0)
	d.at("2026-12-10 12:00")
	d.slots.broke = broke
	if _, f := d.charge(terms, c, Units{}); f.Reason != Failed {
		t.Errorf("charged to a period that could not be opened: %+v", f)
	}
	d.slots.broke = nil
	d.has(terms, 1000*c, 1000*c, 0)
}

// A slot that says what cannot be gives nothing away.
func TestDamagedSlots(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(10 * c)}
	d.pay(terms, c)
	for _, s := range d.slots.slots {
		s.used.Store(-1 << 62)
		s.carried.Store(-1 << 62)
	}
	d.refuses(terms, 1, 0)
	whole := Payer{d.ledger.Purse("whole"), &Terms{Credits: monthly(10 * c)}}
	if f := d.ledger.Charge(new(Receipt), whole, Payer{}, c, Units{}); !f.OK() {
		t.Error(f.Error())
	}
	if f := d.ledger.Charge(new(Receipt), whole, d.payer(terms), c, Units{}); f.Reason != InsufficientCredits || !f.OfKey {
		t.Errorf("a key whose slot is damaged: %+v", f)
	}
	r, _ := d.charge(terms, 0, Units{})
	if err := r.Settle(c, Units{}); !errors.Is(err, ErrOverflow) {
		t.Error(err)
	}
	d.at("2026-12-10 12:00")
	d.has(terms, 10*c, 10*c, 0)
}
