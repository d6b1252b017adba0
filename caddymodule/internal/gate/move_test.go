package gate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// A secret that becomes ours is let in all the while, and what was let in goes
// on: neither is there a moment in which no digest knows it.
func TestRaceAdoption(t *testing.T) {
	for name, before := range map[string]func(k *access.KeyHead, text string){
		"sha256": func(k *access.KeyHead, text string) { k.Digest, k.Alg = sha256.Sum256([]byte(text)), token.AlgSHA256 },
		"imported": func(k *access.KeyHead, text string) {
			k.Alg, k.Imported = token.AlgImported, &access.Imported{Hash: text}
		},
		"previous": func(k *access.KeyHead, text string) {
			k.Previous = &access.Previous{Digest: sha256.Sum256([]byte(text)), Alg: token.AlgSHA256, Since: 1, Until: testNow + 60}
		},
	} {
		t.Run(name, func(t *testing.T) { adoptBeside(t, before) })
	}
}

// adoptBeside has keys adopted, one after another, while requests come with
// their secret.
func adoptBeside(t *testing.T, before func(k *access.KeyHead, text string)) {
	b := newBench(t)
	type secret struct {
		text string
		id   access.KeyID
	}
	var newest atomic.Pointer[secret]
	b.Foreign = func(_ context.Context, text string) (*index.Record, bool) {
		s := newest.Load()
		if rec := b.Index.ByID(s.id); s.text == text && rec.Alg() == token.AlgImported {
			return rec, false
		}
		return nil, false
	}
	adopt := func(i int) {
		text := fmt.Sprint("moved-in-", i)
		k := b.key(fmt.Sprint("nobody's-", i))
		k.ID = access.KeyID([]byte(fmt.Sprintf("%016d", i)))
		old, ours := *k, *k
		before(&old, text)
		b.put(&old)
		newest.Store(&secret{text, k.ID})
		runtime.Gosched()
		if old.Previous == nil {
			ours.Digest = b.Digester.Sum(text)
		} else {
			p := *old.Previous
			p.Digest, p.Alg = b.Digester.Sum(text), token.AlgHMAC
			ours.Previous = &p
		}
		b.put(&ours)
		if i%3 == 0 {
			b.Index.Apply(store.Change{KeyGone: b.key("")})
		}
	}
	adopt(0)
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !done.Load() {
				s := newest.Load()
				c := b.decide(request("/", s.text))
				if c.Reason != access.Allowed {
					t.Errorf("%s: %s", s.text, c.Reason)
					return
				}
				if p := c.Proof(); !p.Good(b.Index, b.Index.ByID(p.ID), testNow) {
					t.Errorf("%s: a request that was let in is ended", s.text)
					return
				}
				runtime.Gosched()
			}
		})
	}
	for i := range 3000 {
		adopt(i + 1)
	}
	done.Store(true)
	wg.Wait()
}
