package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func (k *kit) pending(t testing.TB, want int) {
	t.Helper()
	if n, err := k.RekeyPending(t.Context()); err != nil || n != want {
		t.Errorf("%d tenants are pending, %v; want %d", n, err, want)
	}
}

func (k *kit) rekey(t testing.TB, limit int, want registrar.Rekeyed) {
	t.Helper()
	if got, err := k.Rekey(t.Context(), limit); err != nil || got != want {
		t.Errorf("rekeyed %+v, %v; want %+v", got, err, want)
	}
}

func TestRekey(t *testing.T) {
	k := sealKit(t, "t1", "t2", "t3", "bare")
	for _, id := range []string{"t1", "t2", "t3"} {
		k.bring(t, id, "p01")
		k.bring(t, id, "p02")
	}
	was, err := k.ProviderKey(t.Context(), "t1", "p01")
	if err != nil {
		t.Fatal(err)
	}
	k.pending(t, 0)
	k.rekey(t, 0, registrar.Rekeyed{Done: true})
	k.ring.Store(seal.NewKeyring(newMaster, oldMaster))
	k.pending(t, 3)
	k.bring(t, "bare", "p01") // its first: under the new one at once
	k.bring(t, "t3", "p03")   // under the data key that is there
	k.pending(t, 3)
	k.rekey(t, 2, registrar.Rekeyed{Tenants: 2, Keys: 4})
	k.pending(t, 1)
	k.rekey(t, 2, registrar.Rekeyed{Tenants: 1, Keys: 3, Done: true})
	k.rekey(t, 2, registrar.Rekeyed{Done: true})
	k.pending(t, 0)
	if now, err := k.ProviderKey(t.Context(), "t1", "p01"); err != nil || fmt.Sprintf("%v", *now) != fmt.Sprintf("%v", *was) || now.LastFour != was.LastFour {
		t.Errorf("%v was %v, %v", now, was, err)
	}
	for name, ring := range map[string]*seal.Keyring{"new": seal.NewKeyring(newMaster), "old": seal.NewKeyring(oldMaster)} {
		k.ring.Store(ring)
		for _, id := range []string{"t1", "t2", "t3", "bare"} {
			if got := k.opens(t, id, "p01"); got != (name == "new") {
				t.Errorf("under the %s master key, the one of %s opens: %v", name, id, got)
			}
		}
	}
	page, _, err := k.Audit(t.Context(), registrar.AuditFilter{Action: "data_key.rekeyed", Object: "t3", Tenant: "t3"}, 0, 0)
	if err != nil || len(page) != 1 || string(page[0].Before) != `{"wrapper":"master:old"}` || string(page[0].After) != `{"wrapper":"master:new","provider_keys":3}` {
		t.Errorf("%+v, %v", page, err)
	}
}

// A rekey that ends early, by its context or for want of the service, goes on
// where it was, also after a new start.
func TestRekeyInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	k := openKit(t, path)
	k.ring.Store(seal.NewKeyring(oldMaster))
	tenants := []string{"t1", "t2", "t3", "t4", "t5"}
	for _, id := range tenants {
		k.tenant(t, id)
		k.bring(t, id, "p01")
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	k.ring.Store(seal.NewKeyring(wrapper{newMaster, func() error {
		if calls++; calls == 3 {
			cancel()
		}
		return nil
	}}, oldMaster))
	out, err := k.Rekey(ctx, 0)
	wantError(t, err, registrar.Unavailable, "")
	if out != (registrar.Rekeyed{Tenants: 2, Keys: 2}) {
		t.Errorf("until the request ended: %+v", out)
	}
	if err := k.store.Close(); err != nil {
		t.Fatal(err)
	}
	k = openKit(t, path)
	down := errors.New("the service is down")
	calls = 0
	k.ring.Store(seal.NewKeyring(wrapper{newMaster, func() error {
		if calls++; calls == 2 {
			return down
		}
		return nil
	}}, oldMaster))
	out, err = k.Rekey(t.Context(), 0)
	wantError(t, err, registrar.Unavailable, "")
	if out != (registrar.Rekeyed{Tenants: 1, Keys: 1}) || !errors.Is(err, down) {
		t.Errorf("until the service failed: %+v, %v", out, err)
	}
	for _, id := range tenants {
		if !k.opens(t, id, "p01") {
			t.Errorf("between the two, that of %s does not open", id)
		}
	}
	k.pending(t, 2)
	k.rekey(t, 0, registrar.Rekeyed{Tenants: 2, Keys: 2, Done: true})
	k.ring.Store(seal.NewKeyring(newMaster))
	for _, id := range tenants {
		if !k.opens(t, id, "p01") {
			t.Errorf("that of %s does not open", id)
		}
	}
}

// What does not open is named and stays, and holds up nobody else.
func TestRekeyPassesOverWhatDoesNotOpen(t *testing.T) {
	k := sealKit(t, "t1", "t2", "t3", "t4")
	k.bring(t, "t1", "p01")
	k.bring(t, "t1", "p02")
	k.bring(t, "t3", "p01")
	k.bring(t, "t4", "p01")
	k.ring.Store(seal.NewKeyring(seal.NewWrapper("kms:gone", [32]byte{3})))
	k.bring(t, "t2", "p01")
	forge := func(mask byte) {
		t.Helper()
		err := k.store.Update(t.Context(), func(tx store.Tx) error {
			p, err := tx.ProviderKey("t1", "p02")
			if err != nil {
				return err
			}
			p.Sealed[5] ^= mask
			return tx.PutProviderKey(p)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	forge(1)
	k.ring.Store(seal.NewKeyring(newMaster, oldMaster))
	k.rekey(t, 1, registrar.Rekeyed{Tenants: 1, Keys: 1})
	for want := 1; want >= 0; want-- { // again: they stay, and are named again
		out, err := k.Rekey(t.Context(), 1)
		if out != (registrar.Rekeyed{Tenants: want, Keys: want, Done: true}) {
			t.Errorf("%+v", out)
		}
		e := wantError(t, err, registrar.Conflict, "")
		for _, part := range []string{"as they are: 2 (", `the key of tenant "t1" for provider "p02"`, `the data key of tenant "t2"`, `"kms:gone"`} {
			if !strings.Contains(e.Message, part) {
				t.Errorf("%q does not say %q", e.Message, part)
			}
		}
		if !errors.Is(err, seal.ErrSealed) || !errors.Is(err, seal.ErrNoWrapper) {
			t.Errorf("it wraps %v", errors.Unwrap(err))
		}
	}
	k.pending(t, 2)
	for at, want := range map[string]bool{"t1/p01": true, "t1/p02": false, "t2/p01": false, "t3/p01": true, "t4/p01": true} {
		if tenant, provider, _ := strings.Cut(at, "/"); k.opens(t, tenant, provider) != want {
			t.Errorf("%s opens: %v", at, !want)
		}
	}
	if err := k.DeleteProviderKey(t.Context(), "t2", "p01"); err != nil { // the way out
		t.Fatal(err)
	}
	k.bring(t, "t2", "p01")
	forge(1)
	k.rekey(t, 0, registrar.Rekeyed{Tenants: 1, Keys: 2, Done: true})
	k.ring.Store(seal.NewKeyring(newMaster))
	if !k.opens(t, "t1", "p02") || !k.opens(t, "t2", "p01") {
		t.Error("what was put right does not open")
	}
}

// Between what a change reads and what it writes another one may come.
func TestDataKeyChangesMeanwhile(t *testing.T) {
	k := sealKit(t, "acme")
	once := func(do func()) func() error {
		var done sync.Once
		return func() error { done.Do(do); return nil }
	}
	plain, both := seal.NewKeyring(oldMaster), seal.NewKeyring(newMaster, oldMaster)
	k.ring.Store(seal.NewKeyring(wrapper{oldMaster, once(func() { // two make the first data key
		k.ring.Store(plain)
		k.bring(t, "acme", "p01")
	})}))
	k.bring(t, "acme", "p02")
	k.ring.Store(seal.NewKeyring(wrapper{oldMaster, once(func() { // rekeyed while a key is stored
		k.ring.Store(both)
		k.rekey(t, 0, registrar.Rekeyed{Tenants: 1, Keys: 2, Done: true})
	})}, newMaster))
	k.bring(t, "acme", "p03")
	k.ring.Store(seal.NewKeyring(wrapper{oldMaster, once(func() { // stored while it rekeys
		k.bring(t, "acme", "p04")
	})}, newMaster))
	k.rekey(t, 0, registrar.Rekeyed{Tenants: 1, Keys: 4, Done: true})
	k.ring.Store(seal.NewKeyring(wrapper{newMaster, once(func() { // all deleted while it rekeys
		for _, p := range []string{"p01", "p02", "p03", "p04"} {
			if !k.opens(t, "acme", p) {
				t.Errorf("the one of %s does not open", p)
			}
			if err := k.DeleteProviderKey(t.Context(), "acme", p); err != nil {
				t.Error(err)
			}
		}
	})}, oldMaster))
	k.rekey(t, 0, registrar.Rekeyed{Done: true})
	if d := k.dataKeys(t); len(d) != 0 {
		t.Errorf("data keys of nothing: %v", d)
	}
	tries := 0
	k.ring.Store(seal.NewKeyring(wrapper{newMaster, func() error { // there is an end to trying
		tries++
		ring := k.ring.Swap(plain)
		defer k.ring.Store(ring)
		k.bring(t, "acme", "p01")
		return nil
	}}, wrapper{oldMaster, func() error {
		tries++
		return k.DeleteProviderKey(t.Context(), "acme", "p01")
	}}))
	_, _, err := k.StoreProviderKey(t.Context(), "acme", "p05", token.Wrap("a-good-key"))
	wantError(t, err, registrar.Conflict, "")
	if tries < 3 {
		t.Errorf("gave up after %d tries", tries)
	}
}

// A tenant's keys are not sealed under a data key that was another's.
func TestDataKeyOfAnother(t *testing.T) {
	k := sealKit(t, "acme", "other")
	k.bring(t, "other", "p01")
	err := k.store.Update(t.Context(), func(tx store.Tx) error {
		d, err := tx.DataKey("other")
		if err != nil {
			return err
		}
		d.Tenant = "acme"
		return tx.PutDataKey(d)
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = k.StoreProviderKey(t.Context(), "acme", "p01", token.Wrap("a-good-key"))
	if wantError(t, err, registrar.Unavailable, ""); !errors.Is(err, seal.ErrSealed) {
		t.Errorf("it wraps %v", errors.Unwrap(err))
	}
	if list, err := k.ProviderKeys(t.Context(), "acme"); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
}

func TestWrapperFails(t *testing.T) {
	k := sealKit(t, "acme")
	down := errors.New("the service is down")
	k.ring.Store(seal.NewKeyring(wrapper{oldMaster, func() error { return down }}))
	_, _, err := k.StoreProviderKey(t.Context(), "acme", "p01", token.Wrap("a-good-key"))
	if e := wantError(t, err, registrar.Unavailable, ""); !errors.Is(err, down) || strings.Contains(e.Message, "service") {
		t.Errorf("%q, %v", e.Message, errors.Unwrap(err))
	}
	k.ring.Store(seal.NewKeyring(oldMaster))
	p := k.bring(t, "acme", "p01")
	ctx, cancel := context.WithCancel(t.Context())
	k.ring.Store(seal.NewKeyring(wrapper{oldMaster, func() error { cancel(); return ctx.Err() }}))
	b, err := k.UnsealProviderKey(ctx, "acme", "p01", p.ID)
	if e := wantError(t, err, registrar.Unavailable, ""); b != nil || e.Hint != "try again" {
		t.Errorf("%q, %q", b, e.Hint)
	}
}

// Many change one tenant's provider keys while it is rekeyed to and fro; each
// key that is there at the end opens.
func TestProviderKeysConcurrently(t *testing.T) {
	// A change is tried ten times, and each rekey spoils no more than one of them.
	const workers, rounds, rekeys = 4, 15, 8
	k := sealKit(t, "acme")
	k.bring(t, "acme", "p00") // stays, and with it a data key
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			name := fmt.Sprintf("p%02d", w+1)
			for range rounds {
				p, _, err := k.StoreProviderKey(t.Context(), "acme", name, token.Wrap(secretOf("acme", name)))
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := k.UnsealProviderKey(t.Context(), "acme", name, p.ID); err != nil || string(b) != secretOf("acme", name) {
					t.Errorf("%q, %v", b, err)
				}
				if err := k.DeleteProviderKey(t.Context(), "acme", name); err != nil {
					t.Error(err)
				}
			}
			k.bring(t, "acme", name)
		})
	}
	wg.Go(func() {
		rings := []*seal.Keyring{seal.NewKeyring(newMaster, oldMaster), seal.NewKeyring(oldMaster, newMaster)}
		for i := range rekeys {
			k.ring.Store(rings[i%2])
			if _, err := k.Rekey(t.Context(), 0); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	list, err := k.ProviderKeys(t.Context(), "acme")
	if err != nil || len(list) != workers+1 {
		t.Fatal(list, err)
	}
	for _, p := range list {
		if !k.opens(t, "acme", p.Provider) {
			t.Errorf("the one of %s does not open", p.Provider)
		}
	}
}
