package credit

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/counter"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

func openCounters(t testing.TB, path string) *counter.File {
	t.Helper()
	f, err := counter.Open(path, counter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// A ledger over a counter file keeps what was charged, and refuses when the
// file is gone.
func TestCounterFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counters")
	now := time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)
	terms := &Terms{Credits: &Allowance{Amount: 10 * c, Period: period.Period{Kind: period.Month}, Add: true, Strict: true}, Grants: []Grant{{grantID(1), c, 0}}}
	remaining := access.Credits(11 * c)
	for month := range 3 {
		f := openCounters(t, path)
		ledger := New(Options{Slots: Counters(f), Now: func() time.Time { return now }})
		who := Payer{ledger.Purse("acme"), terms}
		var first, r Receipt
		if g := ledger.Charge(&first, who, Payer{}, 2*c, Units{}); !g.OK() {
			t.Fatal(g.Error())
		}
		if g := ledger.Charge(&r, who, Payer{}, 2*c, Units{}); !g.OK() {
			t.Fatal(g.Error())
		}
		if err := first.Settle(3*c, Units{}); err != nil {
			t.Fatal(err)
		}
		if month > 0 {
			remaining = min(remaining-c, 10*c) + 11*c // what was carried, and the grant
		}
		remaining -= 5 * c
		if b, err := ledger.Balance(who); err != nil || b.Remaining != remaining {
			t.Fatalf("month %d: %+v, %v, want %v", month, b, err, remaining)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Refund(); !errors.Is(err, counter.ErrClosed) {
			t.Errorf("refund after the end: %v", err)
		}
		if g := ledger.Charge(&first, who, Payer{}, c, Units{}); g.Reason != Failed || !errors.Is(&g, counter.ErrClosed) {
			t.Errorf("charge after the end: %+v", g)
		}
		if _, err := ledger.Balance(who); !errors.Is(err, counter.ErrClosed) {
			t.Errorf("balance after the end: %v", err)
		}
		now = now.AddDate(0, 1, 0)
	}
}

// What others panic with goes on, and the locks are free afterwards.
func TestForeignPanic(t *testing.T) {
	d := newDesk(t, "2026-11-10 12:00")
	terms := &Terms{Credits: monthly(10 * c)}
	d.pay(terms, c)
	d.slots.step = func() { panic(errKilled) }
	func() {
		defer func() {
			if recover() != errKilled {
				t.Error("the panic is gone")
			}
		}()
		d.charge(terms, c, Units{})
	}()
	d.slots.step = nil
	d.has(terms, 10*c, 9*c, 0)
}

func BenchmarkCounterFile(b *testing.B) {
	for name, strict := range map[string]bool{"default": false, "strict": true} {
		b.Run(name, func(b *testing.B) {
			ledger := New(Options{Slots: Counters(openCounters(b, filepath.Join(b.TempDir(), "counters")))})
			terms := &Terms{Credits: monthly(access.MaxCredits), Quotas: []Quota{{Requests, 1 << 60, period.Period{Kind: period.Day}}}}
			terms.Credits.Strict = strict
			who := Payer{ledger.Purse("acme"), terms}
			var r Receipt
			b.ReportAllocs()
			for b.Loop() {
				if f := ledger.Charge(&r, who, Payer{}, 5, Units{Requests: 1}); !f.OK() {
					b.Fatal(f.Error())
				}
				_ = r.Settle(5, Units{Requests: 1})
			}
		})
	}
}

// What a charge needs is in what Near has fetched: with purses 32 bytes apart
// from a line's start at most, that is 96 bytes.
func TestPurseIsNear(t *testing.T) {
	ledger := New(Options{Slots: Counters(openCounters(t, filepath.Join(t.TempDir(), "counters")))})
	who := Payer{ledger.Purse("acme"), &Terms{Credits: monthly(10 * c)}}
	if f := ledger.Charge(new(Receipt), who, Payer{}, c, Units{}); !f.OK() {
		t.Fatal(f.Error())
	}
	p := who.Purse
	if uintptr(unsafe.Pointer(p))%32 != 0 && unsafe.Sizeof(uintptr(0)) == 8 {
		t.Errorf("a purse at %p", p)
	}
	at, ok := p.credit.slot.(*Room)
	if spot := p.spot.Load(); !ok || at != &p.first.room || spot == nil || spot != at.At() {
		t.Errorf("the slot %p is not in the purse, or not at %p", at, spot)
	}
	const slot = 3*unsafe.Sizeof(uintptr(0)) + 4 // of a Room, what is needed
	for what, end := range map[string]uintptr{
		"spot": unsafe.Offsetof(p.spot) + unsafe.Sizeof(p.spot), "simple": unsafe.Offsetof(p.simple) + unsafe.Sizeof(p.simple),
		"slot": unsafe.Offsetof(p.first) + unsafe.Offsetof(p.first.room) + slot,
	} {
		if end > 96 {
			t.Errorf("%s ends at %d", what, end)
		}
	}
}
