package index

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
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

// loadOverrides gives each of n keys of load an override.
func loadOverrides(n int) *Index {
	x := load(n)
	for i := range n {
		changeOverride(x, uint64(i), 1)
	}
	return x
}

// changeOverride gives key i of load another override.
func changeOverride(x *Index, i, amount uint64) {
	k := keyOf(0)
	k.Digest, k.Tenant = digestOf(i), fmt.Sprintf("tenant%d", i%100)
	binary.BigEndian.PutUint64(k.ID[:], i)
	k.Override = &access.Override{Credits: access.Credits(amount)}
	putKey(x, k)
}

// BenchmarkOverride reads the override of a key: of one again and again, and of
// so many that the caches hold neither them nor their records, once with the
// override and once without, as the record is read by every request anyhow.
func BenchmarkOverride(b *testing.B) {
	const n = 1_000_000
	x := loadOverrides(n)
	records := make([]*Record, 0, n)
	for r := range x.Keys {
		records = append(records, r)
	}
	rand.Shuffle(n, func(i, j int) { records[i], records[j] = records[j], records[i] })
	bench := func(name string, records []*Record, read func(*Record) bool) {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				i := rand.IntN(len(records))
				for pb.Next() {
					if !read(records[i]) {
						b.Error("wrong answer")
						return
					}
					if i++; i == len(records) {
						i = 0
					}
				}
			})
		})
	}
	of := func(r *Record) bool { o := x.Override(r); return o != nil && o.Credits == 1 }
	bench("hot", records[:1], of)
	bench("random", records, func(r *Record) bool { return r.Status() == access.StatusActive && of(r) })
	bench("recordOnly", records, func(r *Record) bool { return r.Status() == access.StatusActive })
	few := load(1)
	first := digestOf(0)
	bench("none", []*Record{few.Lookup(&first)}, func(r *Record) bool { return few.Override(r) == nil })
}

// BenchmarkChangeOverride is one change of an override among a million.
func BenchmarkChangeOverride(b *testing.B) {
	const n = 1_000_000
	x := loadOverrides(n)
	i := uint64(0)
	for b.Loop() {
		i++
		changeOverride(x, i*7919%n, i)
	}
}
