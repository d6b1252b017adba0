//go:build linux

package caddymodule_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// speedEnv turns TestSpeed1M on; it takes minutes and 1 GiB of disk.
const speedEnv = "KEYTOLL_SPEED"

const speedKeys = 1_000_000

// speedKit is a registrar on a store with its index, as in a running server.
type speedKit struct {
	*registrar.Registrar
	index *index.Index
	ids   []access.KeyID
}

// TestSpeed1M imports a million keys that are known by their SHA-256 alone,
// and reports the processor time of a key's life and of lists among them.
func TestSpeed1M(t *testing.T) {
	if os.Getenv(speedEnv) == "" {
		t.Skip("set " + speedEnv + "=1")
	}
	k := newSpeedKit(t)
	before := liveHeap()
	start, cpu := time.Now(), processorTime()
	for n := 0; n < speedKeys; n += registrar.MaxImport {
		k.importBatch(t, n)
	}
	spent, cpu := time.Since(start), processorTime()-cpu
	rate := speedKeys / spent.Seconds()
	grew := liveHeap() - before
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("import: %.0f keys a second (%s, %s of processor time), %d bytes a key stay in memory, with garbage %d MiB were taken from the system",
		rate, spent.Round(time.Millisecond), cpu.Round(time.Millisecond), grew/speedKeys, m.HeapSys>>20)
	if grew > 200*speedKeys { // the index, and here the ids
		t.Errorf("%d MiB stay in memory after the import", grew>>20)
	}
	if rate < 20_000 {
		t.Errorf("import: %.0f keys a second, want 20,000", rate)
	}
	k.life(t)
	k.lists(t)
}

func newSpeedKit(t *testing.T) *speedKit {
	b, err := boltstore.New(boltstore.Options{Path: filepath.Join(t.TempDir(), "keytoll.db")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	k := &speedKit{index: index.New()}
	if err := s.Follow(t.Context(), k.index.Apply); err != nil {
		t.Fatal(err)
	}
	k.Registrar = registrar.New(registrar.Options{
		Store: s, Digester: token.NewDigester(s.(*boltstore.Store).Master()), Find: k.index.Find,
		Prefixes: func() []registrar.Prefix { return []registrar.Prefix{{Text: "ak_live_", Environment: "live"}} },
	})
	return k
}

// importBatch imports the keys from number n on; one in a hundred is of a small
// tenant, the others of one large tenant.
func (k *speedKit) importBatch(t *testing.T, n int) {
	t.Helper()
	list := make([]registrar.ImportKey, registrar.MaxImport)
	for i := range list {
		tenant := "large"
		if (n+i)%100 == 0 {
			tenant = fmt.Sprintf("small-%d", (n+i)/100%100)
		}
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n+i)))
		list[i] = registrar.ImportKey{Line: i + 1, Tenant: tenant, Name: fmt.Sprintf("key %d", n+i), SHA256: sum[:], Hint: "sk_",
			Permissions: []string{"read", "write"}, Metadata: map[string]string{"source": "old"}}
	}
	out, err := k.Import(t.Context(), list, registrar.ImportOptions{CreateTenants: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range out {
		if o.Err != nil || o.Skipped {
			t.Fatalf("line %d: %+v", o.Line, o)
		}
		k.ids = append(k.ids, o.ID)
	}
}

// life creates, rotates and revokes keys.
func (k *speedKit) life(t *testing.T) {
	const most = 2 * time.Millisecond
	k.measure(t, "create", 300, most, func(int) error {
		_, err := k.IssueKey(t.Context(), registrar.CreateKeyRequest{Tenant: "large", Name: "new"})
		return err
	})
	k.measure(t, "create, idempotent", 300, most, func(i int) error {
		_, err := k.IssueKey(t.Context(), registrar.CreateKeyRequest{Tenant: "large", Name: "new",
			Idempotency: &registrar.Idempotency{Key: fmt.Sprint("request-", i), Scope: "operator"}})
		return err
	})
	k.measure(t, "rotate", 300, most, func(i int) error {
		_, err := k.RotateKey(t.Context(), k.ids[i*3001%speedKeys], registrar.RotateRequest{})
		return err
	})
	k.measure(t, "rotate with a grace", 300, most, func(i int) error {
		_, err := k.RotateKey(t.Context(), k.ids[(i*3001+1)%speedKeys], registrar.RotateRequest{Grace: new(time.Hour)})
		return err
	})
	k.measure(t, "revoke", 300, most, func(i int) error {
		_, err := k.RevokeKey(t.Context(), k.ids[(i*3001+2)%speedKeys])
		return err
	})
}

// lists reads pages of a hundred keys, from all over the ids.
func (k *speedKit) lists(t *testing.T) {
	for name, f := range map[string]registrar.KeyFilter{
		"all": {}, "a large tenant": {Tenant: "large"}, "a small tenant": {Tenant: "small-7"},
		"a status that few have": {Status: access.StatusRevoked}, "a name that none has": {Name: "nobody"},
		"a tenant, a name that none has": {Tenant: "large", Name: "nobody"}, "a tenant, a status that few have": {Tenant: "large", Status: access.StatusRevoked},
	} {
		k.measure(t, "list "+name, 200, 5*time.Millisecond, func(i int) error {
			_, _, err := k.Keys(t.Context(), f, k.ids[i*4999%speedKeys], 100)
			return err
		})
	}
}

// measure runs fn n times and checks the mean processor time of a run, that of
// the collector included.
func (k *speedKit) measure(t *testing.T, what string, n int, most time.Duration, fn func(i int) error) {
	t.Helper()
	runtime.GC()
	wall := make([]time.Duration, n)
	cpu := processorTime()
	for i := range n {
		start := time.Now()
		if err := fn(i); err != nil {
			t.Fatal(what, err)
		}
		wall[i] = time.Since(start)
	}
	mean := (processorTime() - cpu) / time.Duration(n)
	slices.Sort(wall)
	t.Logf("%s: %s of processor time, wall %s at the median", what, mean.Round(time.Microsecond), wall[n/2].Round(time.Microsecond))
	if mean > most {
		t.Errorf("%s: %s of processor time, at most %s", what, mean, most)
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// liveHeap returns the bytes in use without garbage.
func liveHeap() uint64 {
	for range 3 { // pools let go of what they hold at the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
