package registrar_test

import (
	"context"
	"flag"
	"fmt"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

var benchKeys = flag.Int("keys", 20_000, "keys that are there when a benchmark starts")

// filled returns a kit with many keys of one tenant.
func filled(b *testing.B) (*kit, []access.KeyID) {
	b.Helper()
	k := newKit(b)
	k.tenant(b, "acme")
	var ids []access.KeyID
	for n := 0; n < *benchKeys; {
		list := make([]registrar.ImportKey, min(registrar.MaxImport, *benchKeys-n))
		for i := range list {
			list[i] = registrar.ImportKey{Tenant: "acme", Name: "bench", Secret: token.Wrap(fmt.Sprintf("sk_bench_%032d", n+i))}
		}
		out, err := k.Import(context.Background(), list, registrar.ImportOptions{})
		if err != nil {
			b.Fatal(err)
		}
		for _, o := range out {
			ids = append(ids, o.ID)
		}
		n += len(list)
	}
	return k, ids
}

func BenchmarkCreate(b *testing.B) {
	k, _ := filled(b)
	for b.Loop() {
		k.issue(b, registrar.CreateKeyRequest{Tenant: "acme"})
	}
}

func BenchmarkRotate(b *testing.B) {
	k, ids := filled(b)
	i := 0
	for b.Loop() {
		k.rotate(b, ids[i%len(ids)], 0)
		i++
	}
}

func BenchmarkRevoke(b *testing.B) {
	k, ids := filled(b)
	i := 0
	for b.Loop() {
		if _, err := k.RevokeKey(b.Context(), ids[i%len(ids)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkListPage(b *testing.B) {
	k, ids := filled(b)
	for b.Loop() {
		if _, _, err := k.Keys(b.Context(), registrar.KeyFilter{Tenant: "acme", Name: "none"}, ids[0], 100); err != nil {
			b.Fatal(err)
		}
	}
}
