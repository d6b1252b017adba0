package boltstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

const (
	benchKeys    = 1_000_000
	benchTenants = 10_000
	benchBulk    = 10_000
)

var million struct {
	once sync.Once
	dir  string
	err  error
}

// benchDB returns the path of a database of a million keys, made once.
func benchDB(b *testing.B) string {
	million.once.Do(func() {
		if million.dir, million.err = os.MkdirTemp("", "boltstore-bench-"); million.err == nil {
			million.err = buildBench(filepath.Join(million.dir, "keytoll.db"))
		}
	})
	if million.err != nil {
		b.Fatal(million.err)
	}
	return filepath.Join(million.dir, "keytoll.db")
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		childMain()
		return
	}
	code := m.Run()
	if million.dir != "" {
		os.RemoveAll(million.dir)
	}
	os.Exit(code)
}

func randomID(rnd *rand.Rand) (id access.KeyID) {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for i := range id {
		id[i] = alphabet[rnd.IntN(len(alphabet))]
	}
	return id
}

func buildBench(path string) error {
	s, err := tryOpen(path)
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	err = s.Update(context.Background(), func(tx store.Tx) error {
		for i := range benchTenants {
			if err := tx.PutTenant(storetest.NewTenant(fmt.Sprintf("tenant-%05d", i))); err != nil {
				return err
			}
		}
		return nil
	})
	for n := 0; n < benchKeys && err == nil; n += benchBulk {
		err = s.Update(context.Background(), func(tx store.Tx) error {
			for i := range benchBulk {
				k := storetest.NewKey(fmt.Sprintf("tenant-%05d", rnd.IntN(benchTenants)), n+i)
				k.ID = randomID(rnd)
				if err := tx.CreateKey(k); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	return s.Close()
}

// BenchmarkOpen1M opens a store of a million keys and follows it. It reports
// the parts apart: open is Open without the check of bbolt, which runs beside
// the loading, and check is that check alone.
func BenchmarkOpen1M(b *testing.B) {
	path := benchDB(b)
	var open, load, check time.Duration
	var bytes, allocs uint64
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		s, err := tryOpen(path)
		if err != nil {
			b.Fatal(err)
		}
		open += time.Since(start)
		n := 0
		if err := s.Follow(context.Background(), func(c store.Change) {
			if c.Key != nil {
				n++
			}
		}); err != nil || n != benchKeys {
			b.Fatal(n, err)
		}
		load += time.Since(start)
		runtime.ReadMemStats(&after)
		bytes += after.TotalAlloc - before.TotalAlloc
		allocs += after.Mallocs - before.Mallocs
		b.StopTimer()
		s.checked = make(chan struct{})
		start = time.Now()
		s.check()
		check += time.Since(start)
		s.Close()
		b.StartTimer()
	}
	n := time.Duration(b.N)
	b.ReportMetric(float64((open / n).Milliseconds()), "open-ms")
	b.ReportMetric(float64(((load - open) / n).Milliseconds()), "follow-ms")
	b.ReportMetric(float64((load / n).Milliseconds()), "total-ms")
	b.ReportMetric(float64((check / n).Milliseconds()), "check-alone-ms")
	b.ReportMetric(float64(bytes)/float64(b.N)/benchKeys, "alloc-B/key")
	b.ReportMetric(float64(allocs)/float64(b.N), "allocs/open")
}

func BenchmarkUpdateKey1M(b *testing.B) {
	s, err := tryOpen(benchDB(b))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var ids []access.KeyID
	_ = s.View(context.Background(), func(r store.Reader) error {
		return r.Keys("", access.KeyID{}, func(k *access.Key) bool { ids = append(ids, k.ID); return len(ids) < 1000 })
	})
	i := 0
	for b.Loop() {
		i++
		if err := s.Update(context.Background(), func(tx store.Tx) error {
			k, err := tx.Key(ids[i%len(ids)])
			if err != nil {
				return err
			}
			k.Status = access.Status(1 + i%3)
			return tx.UpdateKey(k)
		}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTag(b *testing.B) {
	t := newTagger([32]byte{1})
	record, err := encodeKey(storetest.NewKey("tenant-00001", 1))
	if err != nil {
		b.Fatal(err)
	}
	id := []byte("0123456789abcdef")
	value := t.seal(bucketKeys, id, record)
	for b.Loop() {
		if _, ok := t.open(bucketKeys, id, value); !ok {
			b.Fatal("tag")
		}
	}
}

func BenchmarkDecodeHead(b *testing.B) {
	record, err := encodeKey(storetest.NewKey("tenant-00001", 1))
	if err != nil {
		b.Fatal(err)
	}
	n := newNames(map[string]string{"tenant-00001": "tenant-00001"})
	var h access.KeyHead
	id := []byte("0123456789abcdef")
	for b.Loop() {
		if _, err := decodeHead(&h, id, record, &n); err != nil {
			b.Fatal(err)
		}
	}
}
