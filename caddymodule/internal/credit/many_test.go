package credit

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// Many goroutines on one purse: exactly what there is is sold, and what is
// counted is what was settled. The cache is made to forget all it can.
func TestHotPurse(t *testing.T) {
	const workers, tries = 8, 3000
	slots := newMemory()
	ledger := New(Options{Slots: slots, Keep: 1})
	plans := [2]*Terms{}
	for i := range plans {
		plans[i] = &Terms{
			Credits: &Allowance{Amount: 3000, Overage: 500}, Grants: []Grant{{grantID(1), 700, 0}, {grantID(2), 800, 0}},
			Quotas: []Quota{{Requests, workers * tries, period.Period{}}},
		}
	}
	own := &Terms{Credits: &Allowance{Amount: 4000}}
	var sold, requests atomic.Int64
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(5, uint64(i)))
			for range tries {
				var r Receipt
				tenant := Payer{ledger.Purse("hot"), plans[random.IntN(2)]}
				price := access.Credits(1 + random.IntN(3))
				f := ledger.Charge(&r, tenant, Payer{ledger.KeyPurse(access.KeyID{byte(i % 2)}), own}, price, Units{Requests: 1})
				if f.Reason == Failed {
					t.Error(f.Err)
				}
				if !f.OK() {
					continue
				}
				if random.IntN(100) == 0 {
					runtime.GC()
				}
				if random.IntN(2) == 0 {
					var both sync.WaitGroup // one of them counts
					both.Go(func() { _ = r.Refund() })
					_ = r.Refund()
					both.Wait()
					continue
				}
				requests.Add(1)
				sold.Add(int64(price))
				_ = r.Settle(price, Units{Requests: 1})
			}
		})
	}
	wg.Wait()
	if sold.Load() != 5000 {
		t.Errorf("%d sold of 5000", sold.Load())
	}
	who := Payer{ledger.Purse("hot"), plans[0]}
	if b, err := ledger.Balance(who); err != nil || b.Remaining != 0 || b.Overage != 500 {
		t.Errorf("%+v, %v", b, err)
	}
	if list, _ := ledger.Quotas(who); list[0].Used != requests.Load() {
		t.Errorf("%+v, want %d", list, requests.Load())
	}
}

// Periods that open under load start at nothing, once.
func TestPeriodsUnderLoad(t *testing.T) {
	slots := newMemory()
	var now atomic.Int64
	ledger := New(Options{Slots: slots, Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	terms := &Terms{Credits: &Allowance{Amount: 100, Period: period.Period{Kind: period.Hour}}}
	for hour := range int64(20) {
		now.Store(1_800_000_000 + hour*3600)
		var sold atomic.Int64
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for n := range 100 {
					var r Receipt
					if i == 0 && n == 50 {
						now.Add(-3000) // the clock is put back, maybe over the boundary
					}
					if f := ledger.Charge(&r, Payer{ledger.Purse("hot"), terms}, Payer{}, 1, Units{}); f.OK() {
						sold.Add(1)
						_ = r.Settle(1, Units{})
					}
				}
			})
		}
		wg.Wait()
		if sold.Load() != 100 {
			t.Fatalf("hour %d: %d sold", hour, sold.Load())
		}
	}
}

// A subject has one purse for as long as anybody has it, and the cache lets go
// of the others.
func TestOnePurse(t *testing.T) {
	ledger := New(Options{Slots: newMemory(), Keep: 1})
	first := ledger.Purse("first")
	for i := range 10_000 {
		ledger.Purse(fmt.Sprint("tenant", i))
	}
	for range 5 { // cleanups follow a collection in their own time
		runtime.GC()
	}
	if ledger.Purse("first") != first {
		t.Error("a second purse")
	}
	for known(ledger) > 1000 {
		runtime.GC()
		runtime.Gosched()
	}
	runtime.KeepAlive(first)
}

// Whoever asks first, and at once, gets the same purse.
func TestOnePurseAtOnce(t *testing.T) {
	ledger := New(Options{Slots: newMemory()})
	for i := range 2000 {
		var got [4]*Purse
		var ready atomic.Int32
		var wg sync.WaitGroup
		name := fmt.Sprint("tenant", i)
		for n := range got {
			wg.Go(func() {
				for ready.Add(1); ready.Load() < int32(len(got)); {
					runtime.Gosched()
				}
				got[n] = ledger.Purse(name)
			})
		}
		wg.Wait()
		if got[0] != got[1] || got[1] != got[2] || got[2] != got[3] {
			t.Fatal("two purses of one tenant")
		}
	}
	// One that comes late finds the other's.
	if late := ledger.tenants.put("tenant1", new(Purse)); late != ledger.Purse("tenant1") {
		t.Error("the first purse was replaced")
	}
}

// A stream that reports its cost for ever needs no more room for it.
func TestLongStream(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(1000 * c), Grants: []Grant{{grantID(1), 1000 * c, 0}}, Quotas: []Quota{{Seconds, 10_000, period.Period{}}}}
	r, _ := d.charge(terms, c, Units{})
	for i := range 3000 {
		err := r.Advance(d.now.Unix(), access.Credits(i+1)*c, Units{Seconds: int64(i)})
		if (err != nil) != (i >= 2000) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if r.count > 4 {
		t.Errorf("%d parts", r.count)
	}
	d.has(terms, 2000*c, 0, 1000*c)
	_ = r.Refund()
	d.has(terms, 2000*c, 2000*c, 0)
}

func known(l *Ledger) (n int) {
	for i := range l.tenants.shard {
		s := &l.tenants.shard[i]
		s.mu.Lock()
		n += len(s.live)
		s.mu.Unlock()
	}
	return n
}

func TestNoAllocation(t *testing.T) {
	charge := benchmarked(t, 3)
	if n := testing.AllocsPerRun(1000, charge); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// benchmarked returns a charge and its settlement, from a tenant with some
// quotas and a key, and looks the purses up too.
func benchmarked(t testing.TB, quotas int) func() {
	ledger := New(Options{Slots: newMemory()})
	by := period.Period{Kind: period.Month}
	tenant := &Terms{Credits: &Allowance{Amount: access.MaxCredits, Period: by}}
	for m := range quotas {
		tenant.Quotas = append(tenant.Quotas, Quota{Meter(m), 1 << 60, by})
	}
	a, b := Payer{ledger.Purse("acme"), tenant}, Payer{}
	if quotas > 1 {
		b = Payer{ledger.KeyPurse(access.KeyID{1}), &Terms{Credits: &Allowance{Amount: access.MaxCredits, Period: by}}}
	}
	r := new(Receipt)
	return func() {
		if f := ledger.Charge(r, a, b, 5*c, Units{Requests: 1}); !f.OK() {
			t.Fatal(f.Error())
		}
		if err := r.Settle(4*c, Units{Requests: 1}); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkChargeSettle(b *testing.B) {
	for _, quotas := range []int{0, 1, 3} {
		b.Run(fmt.Sprint("quotas=", quotas), func(b *testing.B) {
			charge := benchmarked(b, quotas)
			b.ReportAllocs()
			for b.Loop() {
				charge()
			}
		})
	}
}

func BenchmarkHotPurse(b *testing.B) {
	ledger := New(Options{Slots: newMemory()})
	who := Payer{ledger.Purse("acme"), &Terms{Credits: monthly(access.MaxCredits)}}
	b.RunParallel(func(pb *testing.PB) {
		var r Receipt
		for pb.Next() {
			ledger.Charge(&r, who, Payer{}, 1, Units{})
			_ = r.Settle(1, Units{})
		}
	})
}

func BenchmarkPurse(b *testing.B) {
	ledger := New(Options{Slots: newMemory()})
	for b.Loop() {
		ledger.Purse("acme")
	}
}

func BenchmarkColdPurse(b *testing.B) {
	ledger := New(Options{Slots: newMemory(), Keep: 1 << 10})
	terms := &Terms{Credits: monthly(access.MaxCredits)}
	names := make([]string, 1<<17)
	for i := range names {
		names[i] = fmt.Sprint("tenant", i)
	}
	var r Receipt
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		ledger.Charge(&r, Payer{ledger.Purse(names[n%len(names)]), terms}, Payer{}, 1, Units{})
		_ = r.Settle(1, Units{})
	}
}

func BenchmarkBalance(b *testing.B) {
	ledger := New(Options{Slots: newMemory()})
	who := Payer{ledger.Purse("acme"), &Terms{Credits: monthly(access.MaxCredits)}}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = ledger.Balance(who)
	}
}
