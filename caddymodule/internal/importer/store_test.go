package importer_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/importer"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// newRegistrar returns one on a real store, that finds digests in memory.
func newRegistrar(t testing.TB) *registrar.Registrar {
	b, err := boltstore.New(boltstore.Options{Path: filepath.Join(t.TempDir(), "keytoll.db")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var mu sync.Mutex
	digests := map[[32]byte]access.KeyID{}
	err = s.Follow(t.Context(), func(c store.Change) {
		if c.Key != nil {
			mu.Lock()
			digests[c.Key.Digest] = c.Key.ID
			mu.Unlock()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	master := s.(*boltstore.Store).Master()
	return registrar.New(registrar.Options{
		Store: s, Digester: token.NewDigester(master),
		Prefixes: func() []registrar.Prefix { return []registrar.Prefix{{Text: "kt_"}} },
		Find: func(d [32]byte) (access.KeyID, bool) {
			mu.Lock()
			defer mu.Unlock()
			id, ok := digests[d]
			return id, ok
		},
	})
}

func sinkOf(r *registrar.Registrar, o registrar.ImportOptions) func(context.Context, []registrar.ImportKey) ([]registrar.ImportResult, error) {
	return func(ctx context.Context, keys []registrar.ImportKey) ([]registrar.ImportResult, error) {
		return r.Import(ctx, keys, o)
	}
}

// A dry run changes nothing, and a second run of a file finds all of it there.
func TestImportTwice(t *testing.T) {
	r := newRegistrar(t)
	sum := sha256.Sum256([]byte("sk_one_0123456789"))
	file := "tenant,key,sha256,hash,hint,last_used_at,rate\n" +
		"acme,sk_plain_0123456789,,,,2024-01-01,5/1m\n" +
		"acme,," + hex.EncodeToString(sum[:]) + ",,,,\n" +
		"beta,,,$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW,sk_,,\n" +
		"beta,sk_plain_0123456789,,,,,\n" + // of another tenant
		"acme,sk_plain_0123456789,,,,,\n" + // twice in the file
		"acme,short,,,,,\n"
	steps := []struct {
		o    registrar.ImportOptions
		want importer.Report
	}{
		{registrar.ImportOptions{}, importer.Report{Lines: 7, Refused: 6}},
		{registrar.ImportOptions{DryRun: true, CreateTenants: true}, importer.Report{Lines: 7, Created: 3, Skipped: 1, Refused: 2}},
		{registrar.ImportOptions{}, importer.Report{Lines: 7, Refused: 6}},
		{registrar.ImportOptions{CreateTenants: true}, importer.Report{Lines: 7, Created: 3, Skipped: 1, Refused: 2}},
		{registrar.ImportOptions{CreateTenants: true}, importer.Report{Lines: 7, Skipped: 4, Refused: 2}},
	}
	for i, step := range steps {
		var refused []importer.Refusal
		report, err := importer.Run(t.Context(), strings.NewReader(file), importer.Options{Sink: sinkOf(r, step.o),
			Refused: func(f importer.Refusal) { refused = append(refused, f) }})
		if err != nil || report != step.want {
			t.Errorf("step %d: %+v, %v, want %+v\n%+v", i, report, err, step.want, refused)
		}
		for _, f := range refused {
			if strings.Contains(f.Message, "0123456789") || f.Line < 2 || f.Line > 7 {
				t.Errorf("step %d: %+v", i, f)
			}
		}
	}
}

// What became of a key here outlives its file: a second run brings neither a
// revoked key back nor the secret that a rotation replaced, nor one that was
// adopted.
func TestImportAfterwards(t *testing.T) {
	r := newRegistrar(t)
	texts := []string{"sk_revoked_0123456789", "sk_rotated_0123456789", "sk_adopted_0123456789"}
	sum := sha256.Sum256([]byte(texts[2]))
	file := "tenant,key,sha256\nacme," + texts[0] + ",\nacme," + texts[1] + ",\nacme,," + hex.EncodeToString(sum[:]) + "\n"
	var ids []access.KeyID
	sink := sinkOf(r, registrar.ImportOptions{CreateTenants: true})
	o := importer.Options{Sink: func(ctx context.Context, keys []registrar.ImportKey) ([]registrar.ImportResult, error) {
		results, err := sink(ctx, keys)
		for _, res := range results {
			ids = append(ids, res.ID)
		}
		return results, err
	}}
	if report, err := importer.Run(t.Context(), strings.NewReader(file), o); err != nil || report.Created != 3 {
		t.Fatal(report, err)
	}
	if _, err := r.RevokeKey(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RotateKey(t.Context(), ids[1], registrar.RotateRequest{Grace: new(time.Duration)}); err != nil {
		t.Fatal(err)
	}
	if err := r.Adopt(t.Context(), ids[2], 2, sum, token.Wrap(texts[2])); err != nil {
		t.Fatal(err)
	}
	if report, err := importer.Run(t.Context(), strings.NewReader(file), o); err != nil || report.Created != 0 || report.Skipped+report.Refused != 3 {
		t.Errorf("the second run: %+v, %v", report, err)
	}
}

// BenchmarkImport is a file of hashed keys from its text to the disk.
func BenchmarkImport(b *testing.B) {
	for _, n := range []int{20_000, 200_000} {
		var file strings.Builder
		file.WriteString("tenant,sha256,name,permissions\n")
		for i := range n {
			sum := sha256.Sum256(fmt.Append(nil, "key ", i))
			fmt.Fprintf(&file, "tenant-%d,%x,laptop,read write\n", i%100, sum)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				r := newRegistrar(b)
				b.StartTimer()
				report, err := importer.Run(b.Context(), strings.NewReader(file.String()),
					importer.Options{Sink: sinkOf(r, registrar.ImportOptions{CreateTenants: true})})
				if err != nil || report.Created != n {
					b.Fatal(report, err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
