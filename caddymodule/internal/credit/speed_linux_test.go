package credit

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/counter"
)

// TestSpeedOfCharging reports the processor time of a charge and its settlement
// with one purse in use, and with more and more of them in random order, in
// turns; the quickest tenth of the turns counts. It judges nothing: set
// KEYTOLL_SPEED=1.
func TestSpeedOfCharging(t *testing.T) {
	if os.Getenv("KEYTOLL_SPEED") == "" {
		t.Skip("set KEYTOLL_SPEED=1")
	}
	const all = 1_000_000
	f, err := counter.Open(filepath.Join(t.TempDir(), "counters"), counter.Options{Slots: all})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	ledger := New(Options{Slots: Counters(f)})
	payers := make([]Payer, all)
	for i := range payers { // each has terms of its own, as tenants do
		payers[i] = Payer{ledger.Purse(fmt.Sprint("tenant", i)), &Terms{Credits: monthly(access.MaxCredits)}}
	}
	charge := func(r *Receipt, who Payer) {
		if f := ledger.ChargeAt(1_800_000_000, r, who, Payer{}, c, Units{Requests: 1}); !f.OK() {
			t.Fatal(f.Error())
		}
		if err := r.Settle(c, Units{Requests: 1}); err != nil {
			t.Fatal(err)
		}
	}
	var r Receipt
	for _, who := range payers {
		charge(&r, who)
	}
	runtime.GC()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	used := []int{1, 1_000, 65_536, 131_072, all}
	took := make([][]int64, len(used))
	random := rand.New(rand.NewPCG(1, 2))
	const turn = 256
	var next [turn]Payer
	for round := range 4000 {
		for k := range used {
			k = (k + round) % len(used)
			for i := range next {
				next[i] = payers[random.IntN(used[k])*(all/used[k])]
			}
			start := threadTime(t)
			for i := range next {
				charge(&r, next[i])
			}
			took[k] = append(took[k], threadTime(t)-start)
		}
	}
	for k, n := range used {
		slices.Sort(took[k])
		t.Logf("%7d purses in use: %4.0f ns, median %4.0f ns", n, float64(took[k][len(took[k])/10])/turn, float64(took[k][len(took[k])/2])/turn)
	}
}

// threadTime is the processor time of the thread, in nanoseconds.
func threadTime(t *testing.T) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano()
}
