//go:build linux || darwin

package counter

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// flush10k counts in 10,000 slots of a million, and writes them.
func flush10k(b *testing.B, f *File, slots []*Slot, rnd *rand.Rand) {
	var add, flush time.Duration
	for b.Loop() {
		start := cpuTime()
		for range 10_000 {
			_, _ = slots[rnd.IntN(len(slots))].Add(1)
		}
		mid := cpuTime()
		if err := f.Flush(); err != nil {
			b.Fatal(err)
		}
		add, flush = add+mid-start, flush+cpuTime()-mid
	}
	b.ReportMetric(float64(add.Nanoseconds())/float64(b.N)/10_000, "cpu-ns/add")
	b.ReportMetric(float64(flush.Microseconds())/float64(b.N)/1000, "cpu-ms/flush")
}
