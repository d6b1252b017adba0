package registrar_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

var start = time.Date(2030, 1, 2, 3, 4, 5, 600, time.UTC)

// kit is a registrar on a real store, with what it told the outside.
type kit struct {
	*registrar.Registrar
	store     store.Store
	digester  *token.Digester
	now       time.Time
	uncounted map[string]bool // plans without credits
	plans     []string
	prefixes  []registrar.Prefix
	perms     *access.Permissions
	policy    registrar.Policy
	byName    map[string]*access.Plan
	ring      atomic.Pointer[seal.Keyring]
	mu        sync.Mutex // guards events and data
	events    []string
	data      []map[string]any
}

func newKit(t testing.TB) *kit {
	t.Helper()
	return openKit(t, filepath.Join(t.TempDir(), "keytoll.db"))
}

// openKit opens a registrar on a store that may be there already.
func openKit(t testing.TB, path string) *kit {
	t.Helper()
	b, err := boltstore.New(boltstore.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	k := &kit{store: s, now: start, plans: []string{"pro", "free"}, digester: token.NewDigester(s.(*boltstore.Store).Master()),
		prefixes: []registrar.Prefix{{Text: "ak_live_", Environment: "live"}, {Text: "ak_test_", Environment: "test"}}}
	k.Registrar = registrar.New(registrar.Options{
		Store: s, Digester: k.digester,
		Prefixes: func() []registrar.Prefix { return k.prefixes },
		Plans:    func() []string { return k.plans },
		Plan:     func(name string) *access.Plan { return k.byName[name] },
		Policy:   func() registrar.Policy { return k.policy },

		Permissions:   func() *access.Permissions { return k.perms },
		CountsCredits: func(plan string) bool { return !k.uncounted[plan] },
		Providers:     func() []string { return testProviders },
		Keyring:       k.ring.Load,
		Now:           func() time.Time { return k.now },
		OnEvent: func(name string, data map[string]any) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.events, k.data = append(k.events, name), append(k.data, data)
		},
	})
	return k
}

func (k *kit) tenant(t testing.TB, id string) {
	t.Helper()
	if _, err := k.CreateTenant(t.Context(), registrar.CreateTenantRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
}

func (k *kit) key(t testing.TB, tenant string) *access.Key {
	t.Helper()
	key, _, err := k.CreateKey(t.Context(), registrar.CreateKeyRequest{Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func wantError(t testing.TB, err error, code registrar.Code, field string) *registrar.Error {
	t.Helper()
	e, ok := errors.AsType[*registrar.Error](err)
	if !ok || e.Code != code || e.Field != field {
		t.Fatalf("error %#v (%v), want code %s and field %q", err, err, code, field)
	}
	if strings.HasSuffix(e.Message, ".") || e.Message == "" {
		t.Errorf("message %q", e.Message)
	}
	return e
}

func TestCreateKey(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	expires := start.Add(time.Hour + 300*time.Millisecond)
	rate := access.Rate{Requests: 10, Burst: 20, Window: time.Minute}
	key, secret, err := k.CreateKey(t.Context(), registrar.CreateKeyRequest{
		Tenant: "acme", Name: "laptop", Expires: &expires, Rate: &rate, Environment: "test",
		Permissions: []string{"read", "write", "read"}, Metadata: map[string]string{"a": "b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	text := secret.Reveal()
	set, _ := token.NewSet("ak_test_")
	if set.Classify(text) != token.Minted || key.Digest != k.digester.Sum(text) || key.Prefix != text[:14] {
		t.Errorf("secret %s, prefix %s: not a key of ak_test_ under the digester", text, key.Prefix)
	}
	if key.Expires != expires.Unix() || key.Environment != "test" || key.Rate != rate || !slices.Equal(key.Permissions(), []string{"read", "write"}) {
		t.Errorf("created %+v", key)
	}
	read, err := k.Key(t.Context(), key.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(read, key) {
		t.Errorf("read back\n%+v, created\n%+v", read, key)
	}
	if !slices.Equal(k.events, []string{"api_key_created"}) || strings.Contains(fmt.Sprint(k.data), text) {
		t.Errorf("events %v %v", k.events, k.data)
	}
}

func TestCreateKeyRefuses(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	at := func(t time.Time) *time.Time { return &t }
	many := make([]string, registrar.MaxPermissions+1)
	for name, c := range map[string]struct {
		req   registrar.CreateKeyRequest
		field string
	}{
		"no tenant":         {registrar.CreateKeyRequest{}, "tenant"},
		"tenant id":         {registrar.CreateKeyRequest{Tenant: "../x"}, "tenant"},
		"control character": {registrar.CreateKeyRequest{Tenant: "acme", Name: "a\nb"}, "name"},
		"long name":         {registrar.CreateKeyRequest{Tenant: "acme", Name: strings.Repeat("x", 201)}, "name"},
		"past":              {registrar.CreateKeyRequest{Tenant: "acme", Expires: at(start.Add(-time.Second))}, "expires_at"},
		"this second":       {registrar.CreateKeyRequest{Tenant: "acme", Expires: at(start.Add(1))}, "expires_at"},
		"zero time":         {registrar.CreateKeyRequest{Tenant: "acme", Expires: at(time.Time{})}, "expires_at"},
		"year 10000":        {registrar.CreateKeyRequest{Tenant: "acme", Expires: at(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))}, "expires_at"},
		"rate of nothing":   {registrar.CreateKeyRequest{Tenant: "acme", Rate: &access.Rate{}}, "rate"},
		"no such prefix":    {registrar.CreateKeyRequest{Tenant: "acme", Prefix: "psk_"}, "prefix"},
		"no environment":    {registrar.CreateKeyRequest{Tenant: "acme", Environment: "prod"}, "environment"},
		"they differ":       {registrar.CreateKeyRequest{Tenant: "acme", Prefix: "ak_live_", Environment: "test"}, "prefix"},
		"permission":        {registrar.CreateKeyRequest{Tenant: "acme", Permissions: []string{"a,b"}}, "permissions"},
		"permissions":       {registrar.CreateKeyRequest{Tenant: "acme", Permissions: many}, "permissions"},
		"metadata":          {registrar.CreateKeyRequest{Tenant: "acme", Metadata: map[string]string{"": "x"}}, "metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			_, secret, err := k.CreateKey(t.Context(), c.req)
			wantError(t, err, registrar.InvalidRequest, c.field)
			if !secret.IsZero() {
				t.Error("a secret came with the refusal")
			}
		})
	}
	_, _, err := k.CreateKey(t.Context(), registrar.CreateKeyRequest{Tenant: "nobody"})
	if e := wantError(t, err, registrar.NotFound, "tenant"); e.Hint != "caddy keytoll tenants create nobody" {
		t.Errorf("hint %q", e.Hint)
	}
	if page, _, _ := k.Keys(t.Context(), registrar.KeyFilter{}, access.KeyID{}, 0); len(page) != 0 || len(k.events) != 0 {
		t.Errorf("refusals left %d keys and the events %v", len(page), k.events)
	}
}

func TestKeyStates(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	id := k.key(t, "acme").ID
	ctx := t.Context()
	if key, err := k.DisableKey(ctx, id); err != nil || key.Status != access.StatusDisabled {
		t.Fatal(key, err)
	}
	if key, err := k.EnableKey(ctx, id); err != nil || key.Status != access.StatusActive {
		t.Fatal(key, err)
	}
	first, err := k.RevokeKey(ctx, id)
	if err != nil || first.Status != access.StatusRevoked || !first.RevokedAt.Equal(start.Truncate(time.Second)) {
		t.Fatal(first, err)
	}
	k.now = k.now.Add(time.Hour)
	again, err := k.RevokeKey(ctx, id)
	if err != nil || !again.RevokedAt.Equal(first.RevokedAt) || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", first) {
		t.Errorf("revoking twice: %+v, %v; want %+v", again, err, first)
	}
	_, err = k.EnableKey(ctx, id)
	wantError(t, err, registrar.Conflict, "status")
	_, err = k.DisableKey(ctx, id)
	wantError(t, err, registrar.Conflict, "status")
	if want := []string{"api_key_created", "api_key_revoked"}; !slices.Equal(k.events, want) {
		t.Errorf("events %v, want %v", k.events, want)
	}
	_, err = k.RevokeKey(ctx, access.KeyID([]byte("0000000000000000")))
	wantError(t, err, registrar.NotFound, "key")
}

func TestTenantLife(t *testing.T) {
	k := newKit(t)
	ctx := t.Context()
	if _, err := k.CreateTenant(ctx, registrar.CreateTenantRequest{ID: "acme", Name: "Acme", Plan: "pro"}); err != nil {
		t.Fatal(err)
	}
	_, err := k.CreateTenant(ctx, registrar.CreateTenantRequest{ID: "acme"})
	wantError(t, err, registrar.Exists, "id")
	_, err = k.SetTenantPlan(ctx, "acme", "gold")
	if e := wantError(t, err, registrar.InvalidRequest, "plan"); e.Hint != "plans: free, pro" {
		t.Errorf("hint %q", e.Hint)
	}
	for range 2 { // twice is the same as once, and one event
		if got, err := k.SuspendTenant(ctx, "acme"); err != nil || got.Status != access.StatusSuspended || got.Name != "Acme" || got.Plan != "pro" {
			t.Fatal(got, err)
		}
	}
	_, _, err = k.CreateKey(ctx, registrar.CreateKeyRequest{Tenant: "acme"})
	wantError(t, err, registrar.Conflict, "tenant")
	if got, err := k.ResumeTenant(ctx, "acme"); err != nil || got.Status != access.StatusActive {
		t.Fatal(got, err)
	}
	key := k.key(t, "acme")
	if err := k.DeleteTenant(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	wantError(t, k.DeleteTenant(ctx, "acme"), registrar.NotFound, "tenant")
	_, err = k.Key(ctx, key.ID)
	wantError(t, err, registrar.NotFound, "key")
	if want := []string{"tenant_suspended", "api_key_created"}; !slices.Equal(k.events, want) {
		t.Errorf("events %v, want %v", k.events, want)
	}
}

func TestEnsureTenantNeverOverwrites(t *testing.T) {
	k := newKit(t)
	seed := registrar.CreateTenantRequest{ID: "acme", Name: "Acme", Plan: "pro"}
	if err := k.EnsureTenant(t.Context(), seed); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SuspendTenant(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	seed.Name = "Other"
	if err := k.EnsureTenant(t.Context(), seed); err != nil {
		t.Fatal(err)
	}
	if got, err := k.Tenant(t.Context(), "acme"); err != nil || got.Name != "Acme" || got.Status != access.StatusSuspended {
		t.Errorf("stored %+v, %v", got, err)
	}
	wantError(t, k.EnsureTenant(t.Context(), registrar.CreateTenantRequest{ID: "b", Plan: "gold"}), registrar.InvalidRequest, "plan")
}

func TestListsPage(t *testing.T) {
	k := newKit(t)
	ctx := t.Context()
	for i := range 5 {
		k.tenant(t, fmt.Sprintf("t%d", i))
	}
	for i := range 9 {
		key := k.key(t, fmt.Sprintf("t%d", i%2))
		if i%3 == 0 {
			if _, err := k.RevokeKey(ctx, key.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	var tenants []string
	for after := ""; ; {
		page, next, err := k.Tenants(ctx, after, 2)
		if err != nil || len(page) > 2 {
			t.Fatal(page, err)
		}
		for _, p := range page {
			tenants = append(tenants, p.ID)
		}
		if after = next; after == "" {
			break
		}
	}
	if want := []string{"t0", "t1", "t2", "t3", "t4"}; !slices.Equal(tenants, want) {
		t.Errorf("tenants %v, want %v", tenants, want)
	}
	for f, want := range map[registrar.KeyFilter]int{{}: 9, {Tenant: "t0"}: 5, {Status: access.StatusRevoked}: 3,
		{Tenant: "t1", Status: access.StatusRevoked}: 1, {Tenant: "t4"}: 0} {
		if n := countKeys(t, k, f); n != want {
			t.Errorf("%+v: %d keys, want %d", f, n, want)
		}
	}
	_, _, err := k.Keys(ctx, registrar.KeyFilter{Tenant: "t9"}, access.KeyID{}, 0)
	wantError(t, err, registrar.NotFound, "tenant")
	_, _, err = k.Keys(ctx, registrar.KeyFilter{Status: access.StatusSuspended}, access.KeyID{}, 0)
	wantError(t, err, registrar.InvalidRequest, "status")
	_, _, err = k.Tenants(ctx, "", registrar.MaxLimit+1)
	wantError(t, err, registrar.InvalidRequest, "limit")
}

// countKeys walks a list two keys at a time and sees that none comes twice.
func countKeys(t *testing.T, k *kit, f registrar.KeyFilter) int {
	t.Helper()
	seen := map[access.KeyID]bool{}
	for after := (access.KeyID{}); ; {
		page, next, err := k.Keys(t.Context(), f, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range page {
			if seen[key.ID] {
				t.Errorf("%+v: %s comes twice", f, key.ID)
			}
			seen[key.ID] = true
		}
		if after = next; after == (access.KeyID{}) {
			return len(seen)
		}
	}
}

func TestClosedStore(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	if err := k.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := k.Tenant(t.Context(), "acme")
	wantError(t, err, registrar.Unavailable, "")
	_, _, err = k.CreateKey(t.Context(), registrar.CreateKeyRequest{Tenant: "acme"})
	wantError(t, err, registrar.Unavailable, "")
}

func TestGoneClient(t *testing.T) {
	k := newKit(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := k.CreateTenant(ctx, registrar.CreateTenantRequest{ID: "acme"})
	wantError(t, err, registrar.Unavailable, "")
}
