package credit

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

var seed = flag.Uint64("credit.seed", 1, "seed of the model test")

// world is a ledger and a naive one, and what they are to do.
type world struct {
	t      *testing.T
	random *rand.Rand
	slots  *memory
	ledger *Ledger
	naive  *naive
	zones  []*time.Location
	people []*person
	held   []*pair
	spare  []*pair // settled, to be used again
	born   int     // tenants and grants so far
	seen   map[string]int
}

// person is a tenant with two keys.
type person struct {
	name   string
	keys   [2]access.KeyID
	terms  *Terms
	own    [2]*Terms // of keys; nil if they have none
	grants []Grant
}

// pair is a receipt of each ledger.
type pair struct {
	real  Receipt
	naive naiveReceipt
}

func TestModel(t *testing.T) {
	steps := 1_000_000
	if testing.Short() {
		steps = 100_000
	}
	w := &world{t: t, random: rand.New(rand.NewPCG(*seed, 7)), slots: newMemory(), seen: make(map[string]int)}
	w.naive = &naive{books: make(map[bookName]*book), now: time.Date(2026, 1, 30, 22, 0, 0, 0, time.UTC).Unix()}
	for _, name := range []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		w.zones = append(w.zones, zone)
	}
	w.reopen()
	for range 4 {
		w.people = append(w.people, w.person())
	}
	for range steps {
		w.step()
	}
	for _, what := range []string{"charged", "quota", "credits", "key's", "settled more", "settled less", "refunded", "exhausted", "bad cost", "overflow", "crash", "back", "far", "plan", "carried", "debt", "many parts", "nothing"} {
		if w.seen[what] < 10 && !testing.Short() {
			t.Errorf("%q happened %d times only", what, w.seen[what])
		}
	}
	t.Logf("%v", w.seen)
}

// reopen is a crash: the slots are all that is left.
func (w *world) reopen() {
	w.ledger = New(Options{Slots: w.slots, Keep: 1, Now: func() time.Time { return time.Unix(w.naive.now, 0) }})
	w.held, w.spare = nil, nil
}

func (w *world) chance(percent float64) bool { return w.random.Float64()*100 < percent }

func (w *world) step() {
	p := w.people[w.random.IntN(len(w.people))]
	switch x := w.random.Float64() * 100; {
	case x < 48:
		w.charge(p)
	case x < 88:
		w.finish()
	case x < 92:
		w.time()
	case x < 93:
		w.change(p)
	case x < 93.1:
		w.people[w.random.IntN(len(w.people))] = w.person()
	case x < 93.15:
		w.seen["crash"]++
		w.reopen()
	case x < 93.16:
		runtime.GC() // purses that nobody has go
	case x < 93.17:
		w.flood(p)
	default:
		w.compare(p)
	}
}

func (w *world) time() {
	by := int64(0)
	switch x := w.random.IntN(100); {
	case x < 70:
		by = w.random.Int64N(3600)
	case x < 85:
		by = w.random.Int64N(2 * 86400)
	case x < 90: // right at a boundary of some period
		_, end := w.period().Bounds(time.Unix(w.naive.now, 0))
		if !end.IsZero() {
			by = end.Unix() - w.naive.now - 1 + w.random.Int64N(3)
		}
	case x < 97:
		w.seen["back"]++
		by = -w.random.Int64N(86400)
	default:
		w.seen["far"]++
		by = w.random.Int64N(80*86400) - 30*86400
	}
	w.naive.now += by
}

func (w *world) period() period.Period {
	p := period.Period{Kind: period.Kind(w.random.IntN(5)), Zone: w.zones[w.random.IntN(len(w.zones))]}
	if p.Kind == period.Month {
		p.Anchor = w.random.IntN(32)
	}
	return p
}

func (w *world) amount(most int) access.Credits {
	if w.chance(5) {
		return 0
	}
	return access.Credits(w.random.IntN(most*1000)) * (access.Credit / 1000)
}

func (w *world) person() *person {
	w.born++
	p := &person{name: fmt.Sprint("tenant", w.born)}
	for i := range p.keys {
		copy(p.keys[i][:], fmt.Sprintf("%015d%d", w.born, i))
	}
	w.change(p)
	return p
}

// change gives a person another plan, and perhaps a grant.
func (w *world) change(p *person) {
	w.seen["plan"]++
	if w.chance(60) {
		w.born++
		g := Grant{ID: grantID(w.born), Amount: w.amount(40)}
		if w.chance(80) {
			g.Expires = max(w.naive.now+w.random.Int64N(10*86400)-86400, 1)
		}
		p.grants = append(p.grants, g)
	}
	if len(p.grants) > 14 || w.chance(3) {
		p.grants = p.grants[len(p.grants)/2:]
	}
	p.terms = w.terms(200)
	p.terms.Grants = append(p.terms.Grants, p.grants...)
	w.random.Shuffle(len(p.terms.Grants), func(i, j int) {
		p.terms.Grants[i], p.terms.Grants[j] = p.terms.Grants[j], p.terms.Grants[i]
	})
	for i := range p.own {
		p.own[i] = nil
		if w.chance(40) {
			p.own[i] = w.terms(100)
		}
	}
}

func (w *world) terms(most int) *Terms {
	t := new(Terms)
	if w.chance(90) {
		t.Credits = &Allowance{Amount: w.amount(most), Period: w.period(), Add: w.chance(40), Strict: w.chance(20)}
		if w.chance(40) {
			t.Credits.Overage = w.amount(30)
		}
	}
	for m := range Meter(NumMeters) {
		for k := range period.Kind(5) {
			if w.chance(6) {
				by := w.period()
				if by.Kind = k; k != period.Month {
					by.Anchor = 0
				}
				t.Quotas = append(t.Quotas, Quota{m, w.random.Int64N(400), by})
			}
		}
	}
	return t
}

func (w *world) units() (u Units) {
	u[Requests] = 1
	for m := BytesIn; m < NumMeters; m++ {
		if w.chance(50) {
			u[m] = w.random.Int64N(8)
		}
	}
	return u
}

func (w *world) payers(p *person, key int) (tenant, own Payer, naiveTenant, naiveOwn naivePayer) {
	tenant = Payer{w.ledger.Purse(p.name), p.terms}
	naiveTenant = naivePayer{tenantSubject(p.name), p.terms}
	if p.own[key] != nil || w.chance(10) {
		own = Payer{w.ledger.KeyPurse(p.keys[key]), p.own[key]}
		naiveOwn = naivePayer{keySubject(p.keys[key]), p.own[key]}
	}
	return tenant, own, naiveTenant, naiveOwn
}

func (w *world) charge(p *person) {
	one := new(pair)
	if n := len(w.spare); n > 0 && w.chance(80) {
		one, w.spare = w.spare[n-1], w.spare[:n-1]
	}
	tenant, own, naiveTenant, naiveOwn := w.payers(p, w.random.IntN(2))
	price, units := w.amount(12), w.units()
	if w.chance(1) {
		price = w.amount(150)
	}
	got := w.ledger.Charge(&one.real, tenant, own, price, units)
	want := w.naive.charge(&one.naive, naiveTenant, naiveOwn, price, units)
	if want.Reason != Charged && want.Resets != 0 {
		want.Retry = time.Duration(max(want.Resets-w.naive.now, 1)) * time.Second
	}
	if got.end = 0; got != want {
		w.t.Fatalf("charge of %v and %v at %d: %+v, want %+v", price, units, w.naive.now, got, want)
	}
	w.seen[[]string{"charged", "quota", "credits", "failed"}[got.Reason]]++
	if got.OfKey {
		w.seen["key's"]++
	}
	if one.real.count > inline {
		w.seen["many parts"]++
	}
	if got.OK() || w.chance(10) {
		w.held = append(w.held, one)
	}
	if len(w.held) > 100 {
		w.finish()
	}
}

// flood runs up costs that no account can hold.
func (w *world) flood(p *person) {
	for range 12 {
		var one pair
		tenant, own, naiveTenant, naiveOwn := w.payers(p, 0)
		got := w.ledger.Charge(&one.real, tenant, own, 0, Units{})
		if want := w.naive.charge(&one.naive, naiveTenant, naiveOwn, 0, Units{}); got.Reason != want.Reason {
			w.t.Fatalf("charge of nothing: %+v, want %+v", got, want)
		}
		w.same("settle", one.real.Settle(access.MaxCredits, Units{}), w.naive.settle(&one.naive, access.MaxCredits, Units{}, true))
	}
}

// finish goes on with one of the receipts that are held.
func (w *world) finish() {
	if len(w.held) == 0 {
		return
	}
	i := w.random.IntN(len(w.held))
	one := w.held[i]
	cost, units := w.amount(20), w.units()
	if w.chance(50) {
		cost = one.real.price
	}
	switch x := w.random.Float64() * 100; {
	case x < 2:
		cost = -cost - 1
	case x < 3:
		units[w.random.IntN(NumMeters)] = -1
	case x < 3.1:
		cost = access.MaxCredits
	}
	switch w.random.IntN(6) {
	case 0:
		w.seen["refunded"]++
		w.same("refund", one.real.Refund(), w.naive.settle(&one.naive, 0, Units{}, true))
	case 1, 2:
		for range 1 + w.random.IntN(3)*w.random.IntN(8) {
			w.same("advance", one.real.Advance(w.naive.now, cost, units), w.naive.settle(&one.naive, cost, units, false))
			if cost < access.MaxCredits || w.chance(50) {
				cost += w.amount(5)
			}
		}
		return
	default:
		if cost > one.real.price {
			w.seen["settled more"]++
		} else if cost < one.real.price {
			w.seen["settled less"]++
		}
		w.same("settle", one.real.Settle(cost, units), w.naive.settle(&one.naive, cost, units, true))
	}
	if w.chance(10) {
		return // it is done with, and will be again
	}
	w.held[i] = w.held[len(w.held)-1]
	w.held = w.held[:len(w.held)-1]
	if !one.real.open {
		w.spare = append(w.spare, one)
	}
}

func (w *world) same(what string, got, want error) {
	if !errors.Is(got, want) || got != nil && want == nil {
		w.t.Fatalf("%s: %v, want %v", what, got, want)
	}
	switch {
	case errors.Is(got, ErrExhausted):
		w.seen["exhausted"]++
	case errors.Is(got, ErrCost):
		w.seen["bad cost"]++
	case errors.Is(got, ErrOverflow):
		w.seen["overflow"]++
	}
}

// compare looks at the balances of a person and of a key.
func (w *world) compare(p *person) {
	tenant, own, naiveTenant, naiveOwn := w.payers(p, w.random.IntN(2))
	for i, who := range []Payer{tenant, own} {
		n := []naivePayer{naiveTenant, naiveOwn}[i]
		b, err := w.ledger.Balance(who)
		if err != nil {
			w.t.Fatal(err)
		}
		if n.terms == nil || n.terms.Credits == nil {
			w.seen["nothing"]++
			continue
		}
		limit, remaining, overage := w.naive.balance(n)
		if int64(b.Limit) != limit || int64(b.Remaining) != remaining || int64(b.Overage) != overage || b.Limit-b.Used != b.Remaining {
			w.t.Fatalf("%s at %d: %+v, want %d, %d, %d", p.name, w.naive.now, b, limit, remaining, overage)
		}
		if b.Carried > 0 {
			w.seen["carried"]++
		}
		if b.Overage > n.terms.Credits.Overage {
			w.seen["debt"]++
		}
		w.compareQuotas(who, n)
		w.compareGrants(who, n)
	}
}

func (w *world) compareQuotas(who Payer, n naivePayer) {
	list, err := w.ledger.Quotas(who)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, q := range n.terms.Quotas {
		b := w.naive.open(n.owner, q.Meter.String(), q.Period, 0)
		resets := int64(0)
		if !list[i].Resets.IsZero() {
			resets = list[i].Resets.Unix()
		}
		if list[i].Used != b.used() || resets != w.naive.resets(b, q.Period) {
			w.t.Fatalf("%v: %+v, want %d", n.owner, list[i], b.used())
		}
	}
}

func (w *world) compareGrants(who Payer, n naivePayer) {
	list, err := w.ledger.Grants(who)
	if err != nil || len(list) != len(n.terms.Grants) {
		w.t.Fatal(list, err)
	}
	for _, g := range list {
		if used := w.naive.book(bookName{n.owner, "grant " + string(g.ID[:]), 0}).used(); int64(g.Used) != used || g.Used > g.Amount {
			w.t.Fatalf("%v: %+v, want %d", n.owner, g, used)
		}
	}
}
