package registrar_test

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func networks(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// deskKit has a caller that is bounded in all ways.
func deskKit(t *testing.T) (*kit, *access.Key, *registrar.Desk) {
	t.Helper()
	k := newKit(t)
	var err error
	k.perms, err = access.NewPermissions([]access.Permission{{Name: "read"}, {Name: "write", Implies: []string{"read"}},
		{Name: "admin", Implies: []string{"write"}}, {Name: "rules:get"}, {Name: "rules:put"}})
	if err != nil {
		t.Fatal(err)
	}
	k.byName = map[string]*access.Plan{"pro": {Name: "pro", Permissions: []string{"write", "rules:*"}, MaxKeys: 4}}
	for _, id := range []string{"acme", "other"} {
		if _, err := k.CreateTenant(t.Context(), registrar.CreateTenantRequest{ID: id, Plan: "pro"}); err != nil {
			t.Fatal(err)
		}
	}
	caller := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", Environment: "test", ExpiresIn: time.Hour, Permissions: []string{"write", "rules:get"},
		Addresses: networks("192.0.2.0/24"), Rate: &access.Rate{Requests: 10, Burst: 10, Window: time.Minute}}).Key
	return k, caller, k.Desk(caller.ID, access.Actor{Kind: access.ActorKey, Key: caller.ID.String()})
}

func TestDeskBounds(t *testing.T) {
	k, caller, d := deskKit(t)
	at := func(d time.Duration) *time.Time { t := start.Add(d); return &t }
	rate := func(n, burst uint32, w time.Duration) *access.Rate {
		return &access.Rate{Requests: n, Burst: burst, Window: w}
	}
	for name, c := range map[string]struct {
		req   registrar.CreateKeyRequest
		code  registrar.Code
		field string
	}{
		"permission of the plan alone": {registrar.CreateKeyRequest{Permissions: []string{"rules:put"}}, registrar.Forbidden, "permissions"},
		"all permissions":              {registrar.CreateKeyRequest{Permissions: []string{"*"}}, registrar.Forbidden, "permissions"},
		"a wider wildcard":             {registrar.CreateKeyRequest{Permissions: []string{"rules:*"}}, registrar.Forbidden, "permissions"},
		"what implies its own":         {registrar.CreateKeyRequest{Permissions: []string{"admin"}}, registrar.Forbidden, "permissions"},
		"unknown":                      {registrar.CreateKeyRequest{Permissions: []string{"x"}}, registrar.InvalidRequest, "permissions"},
		"later":                        {registrar.CreateKeyRequest{Expires: at(time.Hour + time.Second)}, registrar.Forbidden, "expires_at"},
		"longer":                       {registrar.CreateKeyRequest{ExpiresIn: 2 * time.Hour}, registrar.Forbidden, "expires_in"},
		"any network":                  {registrar.CreateKeyRequest{Addresses: networks("0.0.0.0/0")}, registrar.Forbidden, "addresses"},
		"one network outside":          {registrar.CreateKeyRequest{Addresses: networks("192.0.2.1/32", "192.0.3.1/32")}, registrar.Forbidden, "addresses"},
		"of the other family":          {registrar.CreateKeyRequest{Addresses: networks("::/0")}, registrar.Forbidden, "addresses"},
		"faster":                       {registrar.CreateKeyRequest{Rate: rate(1, 1, time.Second)}, registrar.Forbidden, "rate"},
		"a larger burst":               {registrar.CreateKeyRequest{Rate: rate(10, 11, time.Minute)}, registrar.Forbidden, "rate"},
	} {
		_, err := d.IssueKey(t.Context(), c.req)
		if e, ok := errors.AsType[*registrar.Error](err); !ok || e.Code != c.code || e.Field != c.field || e.Hint != "" {
			t.Errorf("%s: %#v", name, err)
		}
	}
	out, err := d.IssueKey(t.Context(), registrar.CreateKeyRequest{Tenant: "other", Permissions: []string{"read"}})
	if err != nil {
		t.Fatal(err)
	}
	if n := out.Key; n.Tenant != "acme" || n.Expires != caller.Expires || n.Rate != caller.Rate || n.Environment != "test" ||
		!reflect.DeepEqual(n.Addresses(), caller.Addresses()) {
		t.Errorf("created %+v", n)
	}
	if _, err := d.IssueKey(t.Context(), registrar.CreateKeyRequest{Permissions: []string{"write"}, Rate: rate(1, 5, time.Hour),
		Addresses: networks("192.0.2.7/32"), ExpiresIn: time.Minute}); err != nil {
		t.Error(err)
	}
	page, _, err := k.Audit(t.Context(), registrar.AuditFilter{Actor: caller.ID.String()}, 0, 0)
	if err != nil || len(page) != 2 {
		t.Errorf("the caller's entries: %v, %v", page, err)
	}
}

func TestDeskUpdate(t *testing.T) {
	k, caller, d := deskKit(t)
	strong := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", Permissions: []string{"rules:*"}}).Key
	end := start.Add(2 * time.Hour)
	for name, c := range map[string]struct {
		u     registrar.KeyUpdate
		field string
	}{
		"permissions": {registrar.KeyUpdate{Permissions: &[]string{"write", "rules:*"}}, "permissions"},
		"later":       {registrar.KeyUpdate{ExpiresAt: &end}, "expires_at"},
		"never":       {registrar.KeyUpdate{Never: true}, "expires_at"},
		"anywhere":    {registrar.KeyUpdate{Addresses: &[]netip.Prefix{}}, "addresses"},
		"rate":        {registrar.KeyUpdate{Rate: &access.Rate{Requests: 11, Burst: 11, Window: time.Minute}}, "rate"},
		"plan's rate": {registrar.KeyUpdate{PlanRate: true}, "rate"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.UpdateKey(t.Context(), caller.ID, c.u)
			wantError(t, err, registrar.Forbidden, c.field)
			if now, err := k.Key(t.Context(), caller.ID); err != nil || !reflect.DeepEqual(now, caller) {
				t.Errorf("changed to %+v, %v", now, err)
			}
		})
	}
	if _, err := d.RotateKey(t.Context(), strong.ID, registrar.RotateRequest{}); err == nil {
		t.Error("rotated a key that may do more, and was told its secret")
	}
	if _, err := d.UpdateKey(t.Context(), strong.ID, registrar.KeyUpdate{Name: new("x"), Permissions: &[]string{"read"}}); err != nil {
		t.Error(err)
	}
	// A stronger key can be held back by one that manages, and not let go again.
	stronger := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", Permissions: []string{"rules:*"}, Addresses: networks("192.0.2.1/32")}).Key
	if _, err := d.UpdateKey(t.Context(), stronger.ID, registrar.KeyUpdate{Status: new(access.StatusDisabled)}); err != nil {
		t.Error(err)
	}
	for field, u := range map[string]registrar.KeyUpdate{
		"status": {Status: new(access.StatusActive)}, "expiry": {ExpiresAt: new(start.Add(time.Minute))}, "addresses": {Addresses: new(networks("192.0.2.0/24"))},
	} {
		if _, err := d.UpdateKey(t.Context(), stronger.ID, u); err == nil {
			t.Errorf("a stronger key's %s was changed", field)
		}
	}
	if out, err := d.RotateKey(t.Context(), caller.ID, registrar.RotateRequest{}); err != nil || out.Key.ID != caller.ID {
		t.Error(out, err)
	}
	if _, err := d.RevokeKey(t.Context(), caller.ID); err != nil {
		t.Error(err)
	}
	_, err := d.RevokeKey(t.Context(), caller.ID)
	wantError(t, err, registrar.Forbidden, "")
	_, err = d.Me(t.Context())
	wantError(t, err, registrar.Forbidden, "")
}

func TestDeskIsolation(t *testing.T) {
	k, _, d := deskKit(t)
	foreign := k.issue(t, registrar.CreateKeyRequest{Tenant: "other", Permissions: []string{"read"}}).Key
	before, err := k.Key(t.Context(), foreign.ID)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, ask := range map[string]func(id access.KeyID) error{
		"get":    func(id access.KeyID) error { _, err := d.Key(ctx, id); return err },
		"use":    func(id access.KeyID) error { _, err := d.LastUse(ctx, id); return err },
		"revoke": func(id access.KeyID) error { _, err := d.RevokeKey(ctx, id); return err },
		"rotate": func(id access.KeyID) error { _, err := d.RotateKey(ctx, id, registrar.RotateRequest{}); return err },
		"update": func(id access.KeyID) error {
			_, err := d.UpdateKey(ctx, id, registrar.KeyUpdate{Name: new("x"), Permissions: &[]string{"nope"}})
			return err
		},
	} {
		unknown := foreign.ID
		unknown[0] ^= 1
		e := *wantError(t, ask(foreign.ID), registrar.NotFound, "key")
		u := *wantError(t, ask(unknown), registrar.NotFound, "key")
		e.Message, u.Message = e.Message[:len("there is no key ")], u.Message[:len("there is no key ")] // the id is the asker's own
		if e != u {
			t.Errorf("%s: foreign %+v, unknown %+v", name, e, u)
		}
	}
	if after, err := k.Key(ctx, foreign.ID); err != nil || !reflect.DeepEqual(after, before) {
		t.Errorf("changed to %+v, %v", after, err)
	}
	page, _, err := d.Keys(ctx, registrar.KeyFilter{Tenant: "other"}, access.KeyID{}, 0)
	if err != nil || len(page) != 1 || page[0].Tenant != "acme" {
		t.Errorf("listed %v, %v", page, err)
	}
}

func TestDeskMaxKeysAndMe(t *testing.T) {
	k, caller, d := deskKit(t) // a plan of four keys, one of which is the caller
	var last access.KeyID
	for range 3 {
		out, err := d.IssueKey(t.Context(), registrar.CreateKeyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		last = out.Key.ID
	}
	for range 2 { // one goes, one comes, no second
		_, err := d.IssueKey(t.Context(), registrar.CreateKeyRequest{})
		wantError(t, err, registrar.Conflict, "")
		if _, err := d.RevokeKey(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		out, err := d.IssueKey(t.Context(), registrar.CreateKeyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		last = out.Key.ID
	}
	if err := k.RecordUses(t.Context(), map[access.KeyID]access.Use{caller.ID: {At: 7, Agent: "curl"}, {1}: {At: 1}}); err != nil {
		t.Fatal(err)
	}
	me, err := d.Me(t.Context())
	if err != nil || me.Use.At != 7 || me.Tenant.ID != "acme" || me.Plan.Name != "pro" || me.Key.ID != caller.ID {
		t.Errorf("%+v, %v", me, err)
	}
	if _, err := k.SuspendTenant(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	_, err = d.Me(t.Context())
	wantError(t, err, registrar.Forbidden, "")
}
