package journal

import (
	"fmt"
	"path/filepath"
	"testing"
)

// example is a request of n of many keys.
func example(n int) Record {
	r := Record{Second: 1_790_000_000, Class: 2, Numbers: [4]int64{1e6, 120, 4096, 23_000}, Tenant: "tenant-123", Route: "synthesize"}
	ne.PutUint64(r.Key[:], uint64(n)*0x9e3779b97f4a7c15)
	ne.PutUint64(r.Key[8:], uint64(n))
	return r
}

// BenchmarkAppend is what a request pays. The journal is drained between, by
// turns, and that time is not counted.
func BenchmarkAppend(b *testing.B) {
	for _, tenant := range []string{"tenant-123", "11111111-2222-3333-4444-555555555555"} {
		b.Run(fmt.Sprint(len(tenant)), func(b *testing.B) {
			f, err := Open(filepath.Join(b.TempDir(), "j"), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			r := example(1)
			r.Tenant = tenant
			b.ReportAllocs()
			n, full := 0, 0
			for b.Loop() {
				if !f.Append(&r) {
					full++
				}
				if n++; n%1000 == 0 {
					b.StopTimer()
					f.Drain(func(*Record) {})
					f.Release(f.Position())
					if err := f.Prepare(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(full), "full")
		})
	}
}

// BenchmarkDrain is what each record costs its reader.
func BenchmarkDrain(b *testing.B) {
	f, err := Open(filepath.Join(b.TempDir(), "j"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	r, n := example(1), 0
	for b.Loop() {
		b.StopTimer()
		for range 1000 {
			f.Append(&r)
		}
		b.StartTimer()
		f.Drain(func(*Record) { n++ })
		b.StopTimer()
		f.Release(f.Position())
		if err := f.Prepare(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
}
