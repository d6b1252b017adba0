package index

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// What a million keys take on the heap; the promise is 250 bytes each.
func TestHeapPerKey(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("loads a million keys, and the race detector's heap is another")
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 1_000_000
	before := heap()
	x := load(n)
	perKey := float64(heap()-before) / n
	t.Logf("%.1f bytes per key", perKey)
	if perKey > 200 {
		t.Errorf("%.1f bytes per key", perKey)
	}
	if c := x.Counts(); c.Keys[1] != n {
		t.Errorf("%d keys", c.Keys[1])
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		x := load(n)
		// Enough different digests that the caches do not hold their records.
		hits, misses := make([][32]byte, 1<<16), make([][32]byte, 1<<16)
		for i := range hits {
			hits[i], misses[i] = digestOf(rand.Uint64N(uint64(n))), digestOf(1<<40+uint64(i))
		}
		b.Run(fmt.Sprintf("hit/%d", n), func(b *testing.B) { benchmarkLookup(b, x, hits, true) })
		b.Run(fmt.Sprintf("miss/%d", n), func(b *testing.B) { benchmarkLookup(b, x, misses, false) })
	}
}

func benchmarkLookup(b *testing.B, x *Index, digests [][32]byte, want bool) {
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if (x.Lookup(&digests[i&(len(digests)-1)]) != nil) != want {
			b.Fatal("wrong answer")
		}
		i++
	}
}

// BenchmarkApplyLoad is one key of an initial load of a million.
func BenchmarkApplyLoad(b *testing.B) {
	const n = 1_000_000
	digests := make([][32]byte, n)
	for i := range digests {
		digests[i] = digestOf(uint64(i))
	}
	names := make([]string, 100_000)
	for i := range names {
		names[i] = fmt.Sprintf("tenant%d", i)
	}
	k := keyOf(0)
	var x *Index
	done := n
	for b.Loop() {
		if done == n {
			b.StopTimer()
			x, done = New(), 0
			for _, name := range names {
				putTenant(x, tenantOf(name))
			}
			runtime.GC()
			b.StartTimer()
		}
		k.Digest, k.Tenant = digests[done], names[done%len(names)]
		binary.BigEndian.PutUint64(k.ID[:], uint64(done))
		putKey(x, k)
		done++
	}
}

// BenchmarkApplyChange is one change of a key among a million.
func BenchmarkApplyChange(b *testing.B) {
	const n = 1_000_000
	x := load(n)
	k := keyOf(0)
	i := uint64(0)
	for b.Loop() {
		i++
		at := i * 7919 % n
		k.Digest, k.Status = digestOf(at), 1
		binary.BigEndian.PutUint64(k.ID[:], at)
		putKey(x, k)
	}
}
