package boltstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkKeyLife1M creates a key among a million, rotates and revokes it,
// each with an audit record, and reports the processor time of each.
func BenchmarkKeyLife1M(b *testing.B) {
	s, err := tryOpen(benchDB(b))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	if err := s.awaitCheck(context.Background()); err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var spent [3]time.Duration
	for b.Loop() {
		k := storetest.NewKey("tenant-00001", 1)
		k.ID = randomID(rnd)
		for i, fn := range []func(store.Tx) error{
			func(tx store.Tx) error { return tx.CreateKey(k) },
			func(tx store.Tx) error {
				old := k.Digest
				k.Digest[0]++
				return errors.Join(tx.UpdateKey(k), tx.Bury(old))
			},
			func(tx store.Tx) error {
				k.Status = access.StatusRevoked
				return errors.Join(tx.UpdateKey(k), tx.Bury(k.Digest))
			},
		} {
			start := cpuTime()
			if err := s.Update(context.Background(), func(tx store.Tx) error {
				seq, _, err := tx.LastAudit()
				return errors.Join(err, fn(tx), tx.PutAudit(seq+1, make([]byte, 600)))
			}); err != nil {
				b.Fatal(err)
			}
			spent[i] += cpuTime() - start
		}
	}
	for i, name := range []string{"create", "rotate", "revoke"} {
		b.ReportMetric(float64(spent[i].Microseconds())/float64(b.N), name+"-cpu-us")
	}
}
