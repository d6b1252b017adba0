package registrar_test

import (
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

const day = 24 * time.Hour

func (k *kit) sweep(t testing.TB, at time.Duration) {
	t.Helper()
	k.now, k.events, k.data = start.Add(at), nil, nil
	if err := k.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestExpiryPolicy(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	in := func(d time.Duration) registrar.CreateKeyRequest {
		return registrar.CreateKeyRequest{Tenant: "acme", ExpiresIn: d}
	}
	for name, c := range map[string]struct {
		policy registrar.Policy
		req    registrar.CreateKeyRequest
		want   time.Duration // -1: refused
		field  string
	}{
		"none":           {registrar.Policy{}, in(0), 0, ""},
		"default":        {registrar.Policy{DefaultExpiry: day}, in(0), day, ""},
		"given":          {registrar.Policy{DefaultExpiry: day}, in(2 * day), 2 * day, ""},
		"none, bounded":  {registrar.Policy{MaxExpiry: day}, in(0), -1, "expires_at"},
		"at the bound":   {registrar.Policy{MaxExpiry: day}, in(day), day, ""},
		"over the bound": {registrar.Policy{MaxExpiry: day}, in(day + time.Second), -1, "expires_in"},
		"default over":   {registrar.Policy{MaxExpiry: day, DefaultExpiry: 2 * day}, in(0), day, ""},
		"too short":      {registrar.Policy{}, in(time.Millisecond), -1, "expires_in"},
		"negative":       {registrar.Policy{}, in(-time.Hour), -1, "expires_in"},
		"both": {registrar.Policy{}, registrar.CreateKeyRequest{Tenant: "acme", ExpiresIn: day, Expires: new(start.Add(day))},
			-1, "expires_in"},
	} {
		k.policy = c.policy
		out, err := k.IssueKey(t.Context(), c.req)
		if c.want < 0 {
			wantError(t, err, registrar.InvalidRequest, c.field)
			continue
		}
		want := int64(0)
		if c.want > 0 {
			want = start.Unix() + int64(c.want/time.Second)
		}
		if err != nil || out.Key.Expires != want {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
	}
	k.policy = registrar.Policy{}
	id := k.key(t, "acme").ID
	k.policy = registrar.Policy{MaxExpiry: day}
	_, err := k.UpdateKey(t.Context(), id, registrar.KeyUpdate{ExpiresAt: new(start.Add(2 * day))})
	wantError(t, err, registrar.InvalidRequest, "expires_at")
	_, err = k.UpdateKey(t.Context(), id, registrar.KeyUpdate{Never: true})
	wantError(t, err, registrar.InvalidRequest, "expires_at")
}

func TestIdleKeysExpire(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	idle, used, disabled := k.key(t, "acme").ID, k.key(t, "acme").ID, k.key(t, "acme").ID
	if _, err := k.DisableKey(t.Context(), disabled); err != nil {
		t.Fatal(err)
	}
	k.policy.IdleExpiry = 10 * day
	k.sweep(t, 50*day) // the first: nobody knows what was used before
	if len(k.events) != 0 {
		t.Fatalf("events %v", k.events)
	}
	if err := k.RecordUses(t.Context(), map[access.KeyID]access.Use{used: {At: start.Add(55 * day).Unix()}}); err != nil {
		t.Fatal(err)
	}
	k.sweep(t, 60*day-time.Second)
	if len(k.events) != 0 {
		t.Fatalf("events %v", k.events)
	}
	k.sweep(t, 60*day)
	if !slices.Equal(k.events, []string{"api_key_expired", "api_key_expired"}) || !strings.HasSuffix(k.actions(t, idle.String()), "key.expired") {
		t.Errorf("events %v", k.events)
	}
	for id, want := range map[access.KeyID]int64{idle: start.Add(60 * day).Unix(), disabled: start.Add(60 * day).Unix(), used: 0} {
		if key, err := k.Key(t.Context(), id); err != nil || key.Expires != want {
			t.Errorf("%+v, %v", key, err)
		}
	}
	k.sweep(t, 61*day)
	if len(k.events) != 0 {
		t.Errorf("again: events %v", k.events)
	}
}

func TestNotices(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	k.policy.Notice = []time.Duration{30 * day, 7 * day, day}
	k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", ExpiresIn: 40 * day})
	k.issue(t, registrar.CreateKeyRequest{Tenant: "acme"})
	for _, step := range []struct{ at, notice time.Duration }{
		{0, 0}, {9 * day, 0}, {10 * day, 30 * day}, {10*day + time.Hour, 0}, {34 * day, 7 * day}, {38 * day, 0}, {39*day + time.Hour, day}, {39*day + 2*time.Hour, 0}, {50 * day, 0},
	} {
		k.sweep(t, step.at)
		switch {
		case step.notice == 0 && len(k.events) == 0:
		case len(k.events) == 1 && k.events[0] == "api_key_expiring" && k.data[0]["notice_seconds"] == int64(step.notice/time.Second):
		default:
			t.Errorf("%s: events %v %v", step.at, k.events, k.data)
		}
	}
}

func TestEndedSecretsGo(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	id := k.key(t, "acme").ID
	k.rotate(t, id, time.Hour)
	for at, kept := range map[time.Duration]bool{time.Minute: true, time.Hour - time.Second: true} {
		k.sweep(t, at)
		if key, err := k.Key(t.Context(), id); err != nil || (key.Previous != nil) != kept {
			t.Errorf("%s: %+v, %v", at, key, err)
		}
	}
	k.sweep(t, time.Hour)
	if key, err := k.Key(t.Context(), id); err != nil || key.Previous != nil || key.Status != access.StatusActive {
		t.Errorf("%+v, %v", key, err)
	}
}

func TestAuditRetention(t *testing.T) {
	k := newKit(t)
	k.policy.AuditRetain = 10 * day
	k.tenant(t, "a")
	k.now = start.Add(5 * day)
	k.tenant(t, "b")
	k.sweep(t, 10*day)
	if got := k.actions(t, "a"); got != "tenant.created" {
		t.Errorf("trimmed too early: %q", got)
	}
	for range 2 {
		k.sweep(t, 10*day+time.Second)
		if got := k.actions(t, "a") + k.actions(t, "b") + " " + k.actions(t, "audit"); got != "tenant.created audit.trimmed" {
			t.Errorf("left %q", got)
		}
	}
	k.sweep(t, 40*day)
	if got := k.actions(t, "b") + k.actions(t, "audit"); got != "audit.trimmed" {
		t.Errorf("left %q", got)
	}
	k.tenant(t, "c")
	if n, err := k.VerifyAudit(t.Context()); n != 2 || err != nil {
		t.Error(n, err)
	}
}

func TestImport(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "other")
	plain, hashed := "sk_live_0123456789abcdefghijklmn", sha256.Sum256([]byte("pk-0123456789abcdefghijk"))
	minted := k.issue(t, registrar.CreateKeyRequest{Tenant: "other"}).Secret.Reveal()
	list := []registrar.ImportKey{
		{Line: 1, Tenant: "acme", Secret: token.Wrap(plain), Expires: start.Add(-day), LastUsed: start.Add(-2 * day)},
		{Line: 2, Tenant: "acme", SHA256: hashed[:], Disabled: true},
		{Line: 3, Tenant: "acme", Hint: "x_", Hash: "$2b$10$abc"},
		{Line: 4, Tenant: "acme", Secret: token.Wrap(plain)},
		{Line: 5, Tenant: "acme", Secret: token.Wrap(minted)},
		{Line: 6, Tenant: "acme", Secret: token.Wrap(minted[:len(minted)-1] + "!")},
		{Line: 7, Tenant: "acme"},
		{Line: 8, Tenant: "a/b", SHA256: hashed[:]},
		{Line: 9, Tenant: "acme", Secret: token.Wrap("short")},
		{Line: 10, Tenant: "acme", Secret: token.Wrap("pk-0123456789abcdefghijk")},
	}
	want := []string{"new", "new", "new", "skipped", "key", "new", "key", "tenant", "key", "skipped"}
	for run := range 3 { // the first changes nothing, the last finds all there
		out, err := k.Import(t.Context(), list, registrar.ImportOptions{DryRun: run == 0, CreateTenants: true})
		if err != nil {
			t.Fatal(err)
		}
		for i, o := range out {
			got := "new"
			switch {
			case o.Err != nil:
				got = o.Err.Field
				if text := list[i].Secret.Reveal(); text != "" && strings.Contains(o.Err.Message+o.Err.Hint, text) {
					t.Errorf("line %d: the error holds the key: %v", o.Line, o.Err)
				}
			case o.Skipped:
				got = "skipped"
			}
			if expected := want[i]; got != expected && (run < 2 || expected != "new" || got != "skipped") || o.Line != i+1 {
				t.Errorf("run %d, line %d: %s, want %s (%v)", run, o.Line, got, expected, o.Err)
			}
		}
		if run == 0 {
			_, err := k.Tenant(t.Context(), "acme")
			wantError(t, err, registrar.NotFound, "tenant")
			continue
		}
		key, err := k.Key(t.Context(), out[0].ID)
		use, err2 := k.LastUse(t.Context(), out[0].ID)
		if errors.Join(err, err2) != nil || key.Prefix != "sk_live_012345" || key.Digest != k.digester.Sum(plain) || use.At != start.Add(-2*day).Unix() {
			t.Errorf("%+v, %v", key, err)
		}
	}
	if got := k.actions(t, "keys") + " " + k.actions(t, "acme"); got != "keys.imported tenant.created" {
		t.Errorf("audit %s", got)
	}
}
