package counter

import (
	"math/rand/v2"
	"runtime/debug"
	"testing"
)

func BenchmarkAddHot(b *testing.B) {
	s := slot(b, open(b, newPath(b), quiet()), 1)
	for b.Loop() {
		_, _ = s.Add(1)
	}
}

// BenchmarkGuard is two counts under one Guard.
func BenchmarkGuard(b *testing.B) {
	f := open(b, newPath(b), quiet())
	s := slot(b, f, 1)
	fn := func() (err error) {
		defer f.Guard(debug.SetPanicOnFault(true), &err)
		_, _ = s.Add(1)
		_, err = s.Add(1)
		return err
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = fn()
	}
}

func BenchmarkTurn(b *testing.B) {
	s := slot(b, open(b, newPath(b), quiet()), 1)
	n := int64(0)
	for b.Loop() {
		n++
		_ = s.Turn(n, 0, n)
	}
}

func BenchmarkLease(b *testing.B) {
	s := slot(b, open(b, newPath(b), quiet()), 1)
	n := int64(0)
	for b.Loop() {
		n++
		if err := s.Lease(n); err != nil {
			b.Fatal(err)
		}
	}
}

const million = 1_000_000

func bigFile(b *testing.B) (path string) {
	path = newPath(b)
	o := quiet()
	o.Slots = million
	f := open(b, path, o)
	for n := range million {
		slot(b, f, n).SetUsed(1)
	}
	mustClose(b, f)
	return path
}

func BenchmarkOpen1M(b *testing.B) {
	path := bigFile(b)
	for b.Loop() {
		f := open(b, path, quiet())
		b.StopTimer()
		mustClose(b, f)
		b.StartTimer()
	}
}

func Benchmark1M(b *testing.B) {
	f := open(b, bigFile(b), quiet())
	slots := make([]*Slot, million)
	for n := range slots {
		slots[n] = slot(b, f, n)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	b.Run("add", func(b *testing.B) {
		for b.Loop() {
			_, _ = slots[rnd.IntN(million)].Add(1)
		}
	})
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			_, _ = f.Slot(id(rnd.IntN(million)))
		}
	})
	b.Run("flush10k", func(b *testing.B) { flush10k(b, f, slots, rnd) })
}
