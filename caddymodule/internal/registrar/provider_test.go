package registrar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// testProviders are configured in each kit: more than a tenant may have keys for.
var testProviders = func() (names []string) {
	for i := range access.MaxProviders + 2 {
		names = append(names, fmt.Sprintf("p%02d", i))
	}
	return names
}()

// wrapper wraps data keys like a service far away: before may do something, or
// fail, ahead of each call.
type wrapper struct {
	seal.Wrapper
	before func() error
}

func (w wrapper) Wrap(ctx context.Context, plain, aad []byte) ([]byte, error) {
	if err := w.before(); err != nil {
		return nil, err
	}
	return w.Wrapper.Wrap(ctx, plain, aad)
}

func (w wrapper) Unwrap(ctx context.Context, wrapped, aad []byte) ([]byte, error) {
	if err := w.before(); err != nil {
		return nil, err
	}
	return w.Wrapper.Unwrap(ctx, wrapped, aad)
}

var (
	oldMaster = seal.NewWrapper("master:old", [32]byte{1})
	newMaster = seal.NewWrapper("master:new", [32]byte{2})
)

// sealKit has tenants and wraps data keys by the old master key.
func sealKit(t testing.TB, tenants ...string) *kit {
	t.Helper()
	k := newKit(t)
	k.ring.Store(seal.NewKeyring(oldMaster))
	for _, id := range tenants {
		k.tenant(t, id)
	}
	return k
}

// secretOf is the provider key that the tests store.
func secretOf(tenant, provider string) string { return "xi-" + tenant + "-" + provider + "-0123456789" }

func (k *kit) bring(t testing.TB, tenant, provider string) *access.ProviderKey {
	t.Helper()
	p, _, err := k.StoreProviderKey(t.Context(), tenant, provider, token.Wrap(secretOf(tenant, provider)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// opens reports whether the stored key is the one that bring stored. It fails
// the test if it is another, or cannot be opened for another reason than its seal.
func (k *kit) opens(t testing.TB, tenant, provider string) bool {
	t.Helper()
	p, err := k.ProviderKey(t.Context(), tenant, provider)
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.UnsealProviderKey(t.Context(), tenant, provider, p.ID)
	if err != nil {
		wantError(t, err, registrar.Unavailable, "")
		if !errors.Is(err, seal.ErrSealed) && !errors.Is(err, seal.ErrNoWrapper) || b != nil {
			t.Errorf("%s %s: %q, %v", tenant, provider, b, errors.Unwrap(err))
		}
		return false
	}
	if string(b) != secretOf(tenant, provider) {
		t.Errorf("%s %s opens as %q", tenant, provider, b)
	}
	return true
}

// dataKeys returns the name of what wrapped each tenant's data key.
func (k *kit) dataKeys(t testing.TB) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := k.store.View(t.Context(), func(rd store.Reader) error {
		return rd.DataKeys("", func(d *access.DataKey) bool {
			all[d.Tenant] = d.Wrapper
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestProviderKeys(t *testing.T) {
	k := sealKit(t, "acme", "other")
	ctx := t.Context()
	first, replaced, err := k.StoreProviderKey(ctx, "acme", "p02", token.Wrap("sixteen-is-long!"))
	if err != nil || replaced || first.LastFour != "ong!" || first.Sealed != nil || !first.CreatedAt.Equal(start.Truncate(time.Second)) ||
		!regexp.MustCompile(`^pk_[0-9A-Za-z]{16}$`).MatchString(first.ID) || first.Valid || first.LastUsed != 0 || first.LastVerified != 0 {
		t.Fatalf("%#v %+v, %v, %v", first, *first, replaced, err)
	}
	short, _, err := k.StoreProviderKey(ctx, "acme", "p01", token.Wrap("fifteen-is-not!"))
	if err != nil || short.LastFour != "" {
		t.Fatal(short, err)
	}
	second, replaced, err := k.StoreProviderKey(ctx, "acme", "p02", token.Wrap(secretOf("acme", "p02")))
	if err != nil || !replaced || second.ID == first.ID {
		t.Fatal(second, replaced, err)
	}
	list, err := k.ProviderKeys(ctx, "acme")
	if err != nil || len(list) != 2 || list[0].ID != short.ID || list[1].ID != second.ID || list[0].Sealed != nil || list[1].Sealed != nil {
		t.Fatal(list, err)
	}
	if one, err := k.ProviderKey(ctx, "acme", "p02"); err != nil || one.ID != second.ID || one.Sealed != nil || one.LastFour != "6789" {
		t.Error(one, err)
	}
	if !k.opens(t, "acme", "p02") {
		t.Error("a stored key does not open")
	}
	_, err = k.UnsealProviderKey(ctx, "acme", "p02", first.ID)
	wantError(t, err, registrar.NotFound, "provider")
	for name, get := range map[string]func() error{
		"another tenant's": func() error { _, err := k.ProviderKey(ctx, "other", "p02"); return err },
		"none stored":      func() error { _, err := k.ProviderKey(ctx, "acme", "p03"); return err },
		"no such provider": func() error { return k.DeleteProviderKey(ctx, "acme", "nope") },
		"no name at all":   func() error { return k.DeleteProviderKey(ctx, "acme", "../P") },
		"unsealing none":   func() error { _, err := k.UnsealProviderKey(ctx, "acme", "p03", second.ID); return err },
	} {
		if e := wantError(t, get(), registrar.NotFound, "provider"); e.Message != "there is no key for this provider" {
			t.Errorf("%s: %q", name, e.Message)
		}
	}
	if d := k.dataKeys(t); len(d) != 1 || d["acme"] != "master:old" {
		t.Errorf("data keys %v", d)
	}
	if err := errors.Join(k.DeleteProviderKey(ctx, "acme", "p01"), k.DeleteProviderKey(ctx, "acme", "p02")); err != nil {
		t.Fatal(err)
	}
	wantError(t, k.DeleteProviderKey(ctx, "acme", "p02"), registrar.NotFound, "provider")
	if d := k.dataKeys(t); len(d) != 0 {
		t.Errorf("a data key without provider keys is left: %v", d)
	}
	if want := []string{"provider_key_stored", "provider_key_stored", "provider_key_stored", "provider_key_deleted", "provider_key_deleted"}; !slices.Equal(k.events, want) ||
		fmt.Sprint(k.data[0]) != "map[provider:p02 tenant:acme]" || fmt.Sprint(k.data[3]) != "map[provider:p01 tenant:acme]" {
		t.Errorf("events %v %v", k.events, k.data)
	}
}

func TestStoreProviderKeyRefuses(t *testing.T) {
	k := sealKit(t, "acme")
	const good = "a-good-key-0123456789"
	for name, c := range map[string]struct {
		tenant, provider, key string
		code                  registrar.Code
		field                 string
	}{
		"tenant id":    {"../x", "p01", good, registrar.InvalidRequest, "tenant"},
		"no tenant":    {"nobody", "p01", good, registrar.NotFound, "tenant"},
		"no provider":  {"acme", "", good, registrar.InvalidRequest, "provider"},
		"not a name":   {"acme", "P1", good, registrar.InvalidRequest, "provider"},
		"unknown":      {"acme", "openai", good, registrar.InvalidRequest, "provider"},
		"empty":        {"acme", "p01", "", registrar.InvalidRequest, "api_key"},
		"space":        {"acme", "p01", good + " x", registrar.InvalidRequest, "api_key"},
		"line break":   {"acme", "p01", good + "\r\nX-A: b", registrar.InvalidRequest, "api_key"},
		"not ascii":    {"acme", "p01", good + "é", registrar.InvalidRequest, "api_key"},
		"one too long": {"acme", "p01", strings.Repeat("x", access.MaxProviderKey+1), registrar.InvalidRequest, "api_key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := k.StoreProviderKey(t.Context(), c.tenant, c.provider, token.Wrap(c.key))
			e := wantError(t, err, c.code, c.field)
			if strings.Contains(e.Message, good) || name == "unknown" && !strings.HasPrefix(e.Hint, "providers: p00, p01, ") {
				t.Errorf("%q, hint %q", e.Message, e.Hint)
			}
		})
	}
	if _, _, err := k.StoreProviderKey(t.Context(), "acme", "p01", token.Wrap(strings.Repeat("x", access.MaxProviderKey))); err != nil {
		t.Error(err)
	}
	for _, id := range testProviders[2 : access.MaxProviders+1] {
		k.bring(t, "acme", id)
	}
	_, _, err := k.StoreProviderKey(t.Context(), "acme", "p00", token.Wrap(good))
	wantError(t, err, registrar.Conflict, "provider")
	k.bring(t, "acme", "p05") // in the place of the one that is there
	_, err = k.ProviderKeys(t.Context(), "nobody")
	wantError(t, err, registrar.NotFound, "tenant")
	k.ring.Store(nil)
	_, _, err = k.StoreProviderKey(t.Context(), "acme", "p01", token.Wrap(good))
	wantError(t, err, registrar.Unavailable, "")
	if list, err := k.ProviderKeys(t.Context(), "acme"); err != nil || len(list) != access.MaxProviders {
		t.Errorf("without anything that wraps: %d keys, %v", len(list), err)
	}
}

// What is sealed opens in its own place alone, though the records be genuine.
func TestSealedInItsPlace(t *testing.T) {
	type records struct {
		keys map[string]*access.ProviderKey // by tenant, a slash and provider
		data map[string]*access.DataKey
	}
	for name, c := range map[string]struct {
		change func(was, now records)
		opens  string // tenant and provider of the only one that opens then
	}{
		"swapped in a tenant": {func(_, now records) {
			a, b := now.keys["acme/p01"], now.keys["acme/p02"]
			a.Sealed, b.Sealed = b.Sealed, a.Sealed
		}, "other/p01"},
		"swapped with all but the provider": {func(_, now records) {
			a, b := now.keys["acme/p01"], now.keys["acme/p02"]
			a.Sealed, b.Sealed, a.ID, b.ID = b.Sealed, a.Sealed, b.ID, a.ID
		}, "other/p01"},
		"swapped between tenants": {func(_, now records) {
			a, b := now.keys["acme/p01"], now.keys["other/p01"]
			a.Sealed, b.Sealed, a.ID, b.ID = b.Sealed, a.Sealed, b.ID, a.ID
		}, "acme/p02"},
		"data keys swapped": {func(_, now records) {
			a, b := now.data["acme"], now.data["other"]
			a.Wrapped, b.Wrapped = b.Wrapped, a.Wrapped
		}, ""},
		"a tenant's all given to another": {func(_, now records) {
			now.data["acme"].Wrapped = now.data["other"].Wrapped
			now.keys["acme/p01"].Sealed, now.keys["acme/p01"].ID = now.keys["other/p01"].Sealed, now.keys["other/p01"].ID
		}, "other/p01"},
		"the key of before": {func(was, now records) { now.keys["acme/p01"].Sealed = was.keys["acme/p01"].Sealed }, "acme/p02 other/p01"},
		"a byte changed":    {func(_, now records) { now.keys["acme/p02"].Sealed[7] ^= 1 }, "acme/p01 other/p01"},
		"no data key":       {func(_, now records) { delete(now.data, "other") }, "acme/p01 acme/p02"},
	} {
		t.Run(name, func(t *testing.T) {
			k := sealKit(t, "acme", "other")
			read := func() (r records) {
				r = records{map[string]*access.ProviderKey{}, map[string]*access.DataKey{}}
				err := k.store.View(t.Context(), func(rd store.Reader) error {
					return errors.Join(rd.DataKeys("", func(d *access.DataKey) bool { r.data[d.Tenant] = d; return true }),
						rd.ProviderKeys("", func(p *access.ProviderKey) bool { r.keys[p.Tenant+"/"+p.Provider] = p; return true }))
				})
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			k.bring(t, "acme", "p01")
			was := read()
			all := []string{"acme/p01", "acme/p02", "other/p01"}
			for _, a := range all {
				k.bring(t, strings.Split(a, "/")[0], strings.Split(a, "/")[1])
			}
			now := read()
			c.change(was, now)
			err := k.store.Update(t.Context(), func(tx store.Tx) (err error) {
				for _, id := range []string{"acme", "other"} {
					if d := now.data[id]; d != nil {
						err = errors.Join(err, tx.PutDataKey(d))
					} else {
						err = errors.Join(err, tx.DeleteDataKey(id))
					}
				}
				for _, p := range now.keys {
					err = errors.Join(err, tx.PutProviderKey(p))
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range all {
				if got, want := k.opens(t, strings.Split(a, "/")[0], strings.Split(a, "/")[1]), strings.Contains(c.opens, a); got != want {
					t.Errorf("%s opens: %v", a, got)
				}
			}
		})
	}
}

func TestProviderKeyIsUsedAndVerified(t *testing.T) {
	k := sealKit(t, "acme")
	ctx := t.Context()
	old := k.bring(t, "acme", "p01")
	p := k.bring(t, "acme", "p01")
	use := func(id string, at int64) {
		t.Helper()
		if err := k.RecordProviderUses(ctx, []registrar.ProviderUse{{"nobody", "p01", id, at}, {"acme", "p02", id, at}, {"acme", "p01", id, at}}); err != nil {
			t.Fatal(err)
		}
	}
	use(p.ID, 900)
	use(p.ID, 800)    // late
	use(old.ID, 1000) // of the one that was replaced
	if err := errors.Join(k.RecordProviderVerified(ctx, "acme", "p01", old.ID, false), k.RecordProviderVerified(ctx, "acme", "p02", p.ID, true)); err != nil {
		t.Fatal(err)
	}
	now, err := k.ProviderKey(ctx, "acme", "p01")
	if err != nil || now.LastUsed != 900 || now.LastVerified != 0 {
		t.Fatalf("used %d, verified %d, %v", now.LastUsed, now.LastVerified, err)
	}
	for _, valid := range []bool{true, false} {
		k.now = k.now.Add(time.Minute)
		if err := k.RecordProviderVerified(ctx, "acme", "p01", p.ID, valid); err != nil {
			t.Fatal(err)
		}
		now, err = k.ProviderKey(ctx, "acme", "p01")
		if err != nil || now.LastVerified != k.now.Unix() || now.Valid != valid || now.LastUsed != 900 || !k.opens(t, "acme", "p01") {
			t.Errorf("verified %v: %d %v, %v", valid, now.LastVerified, now.Valid, err)
		}
	}
	page, _, err := k.Audit(ctx, registrar.AuditFilter{Action: "provider_key.verified", Tenant: "acme", Object: "p01"}, 0, 0)
	if err != nil || len(page) != 2 || string(page[1].After) != `{"provider":"p01","id":"`+p.ID+`","valid":false}` {
		t.Errorf("%+v, %v", page, err)
	}
	before := now.LastVerified
	if now = k.bring(t, "acme", "p01"); now.LastVerified != 0 || now.LastUsed != 0 || before == 0 {
		t.Error("a new key has the verification of the one before")
	}
}

// Nothing that keytoll writes or tells holds a provider key.
func TestProviderKeyStaysSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	k := openKit(t, path)
	k.ring.Store(seal.NewKeyring(oldMaster))
	k.tenant(t, "acme")
	ctx := t.Context()
	p := k.bring(t, "acme", "p01")
	k.bring(t, "acme", "p02")
	k.bring(t, "acme", "p02")
	k.ring.Store(seal.NewKeyring(newMaster, oldMaster))
	_, rekeyed := k.Rekey(ctx, 0)
	if err := errors.Join(rekeyed, k.RecordProviderVerified(ctx, "acme", "p01", p.ID, true), k.DeleteProviderKey(ctx, "acme", "p02")); err != nil {
		t.Fatal(err)
	}
	page, _, err := k.Audit(ctx, registrar.AuditFilter{}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	trail, err := json.Marshal(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"provider_key.stored", "provider_key.replaced", "provider_key.deleted", "provider_key.verified", "data_key.rekeyed"} {
		if !bytes.Contains(trail, []byte(action)) {
			t.Errorf("no entry of %s: %s", action, trail)
		}
	}
	file, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(file, []byte(p.ID)) {
		t.Fatalf("the database does not show what it holds: %v", err)
	}
	list, err := k.ProviderKeys(ctx, "acme")
	told := fmt.Sprintf("%s %v %v %+v %#v", trail, k.data, err, list, list[0])
	for _, text := range []string{secretOf("acme", "p01"), secretOf("acme", "p02"), "-0123456789"} {
		if strings.Contains(told, text) || bytes.Contains(file, []byte(text)) {
			t.Errorf("%q is written somewhere", text)
		}
	}
	if strings.Contains(string(trail), "6789") {
		t.Error("the trail holds the last four")
	}
	if n, err := k.VerifyAudit(ctx); err != nil || n == 0 {
		t.Error(n, err)
	}
}

func TestDeskProviderKeys(t *testing.T) {
	k, caller, d := deskKit(t)
	k.ring.Store(seal.NewKeyring(oldMaster))
	ctx := t.Context()
	k.bring(t, "other", "p01")
	p, replaced, err := d.StoreProviderKey(ctx, "p02", token.Wrap(secretOf("acme", "p02")))
	if err != nil || replaced || p.Tenant != "acme" || p.Sealed != nil || !k.opens(t, "acme", "p02") {
		t.Fatal(p, replaced, err)
	}
	if list, err := d.ProviderKeys(ctx); err != nil || len(list) != 1 || list[0].ID != p.ID {
		t.Error(list, err)
	}
	_, err = d.ProviderKey(ctx, "p01")
	if e := wantError(t, err, registrar.NotFound, "provider"); e.Hint != "" {
		t.Errorf("hint %q", e.Hint)
	}
	wantError(t, d.DeleteProviderKey(ctx, "p01"), registrar.NotFound, "provider")
	_, _, err = d.StoreProviderKey(ctx, "openai", token.Wrap("x"))
	if e := wantError(t, err, registrar.InvalidRequest, "provider"); e.Hint != "" {
		t.Errorf("hint %q", e.Hint)
	}
	if one, err := d.ProviderKey(ctx, "p02"); err != nil || one.ID != p.ID {
		t.Error(one, err)
	}
	if err := d.DeleteProviderKey(ctx, "p02"); err != nil {
		t.Error(err)
	}
	page, _, err := k.Audit(ctx, registrar.AuditFilter{Actor: caller.ID.String()}, 0, 0)
	if err != nil || len(page) != 2 || page[0].Action != "provider_key.stored" || page[1].Action != "provider_key.deleted" || page[1].Tenant != "acme" {
		t.Errorf("the caller's entries: %v, %v", page, err)
	}
	asked := false
	k.ring.Store(seal.NewKeyring(wrapper{oldMaster, func() error { asked = true; return nil }}))
	if _, err := k.RevokeKey(ctx, caller.ID); err != nil {
		t.Fatal(err)
	}
	_, _, err = d.StoreProviderKey(ctx, "p02", token.Wrap("x"))
	wantError(t, err, registrar.Forbidden, "")
	_, err = d.ProviderKeys(ctx)
	wantError(t, err, registrar.Forbidden, "")
	_, err = d.ProviderKey(ctx, "p02")
	wantError(t, err, registrar.Forbidden, "")
	wantError(t, d.DeleteProviderKey(ctx, "p02"), registrar.Forbidden, "")
	if asked {
		t.Error("a data key was opened for a caller that is good no longer")
	}
	if !k.opens(t, "other", "p01") {
		t.Error("the other tenant's key does not open")
	}
}
