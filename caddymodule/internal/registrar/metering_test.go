package registrar_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/audit"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store"
)

func (k *kit) grant(t testing.TB, tenant string, req registrar.GrantRequest) access.Grant {
	t.Helper()
	g, err := k.GrantCredits(t.Context(), tenant, req)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (k *kit) grants(t testing.TB, tenant string) []access.Grant {
	t.Helper()
	v, err := k.Tenant(t.Context(), tenant)
	if err != nil {
		t.Fatal(err)
	}
	return v.Grants
}

// last returns the newest audit entry, and verifies the trail.
func (k *kit) last(t testing.TB) access.AuditEntry {
	t.Helper()
	n, err := k.VerifyAudit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	page, _, err := k.Audit(t.Context(), registrar.AuditFilter{}, n-1, 0)
	if err != nil || len(page) != 1 {
		t.Fatal(page, err)
	}
	return page[0]
}

func TestGrants(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	end := start.Add(day + 300*time.Millisecond)
	first := k.grant(t, "acme", registrar.GrantRequest{Amount: access.Credit / 4, Expires: &end, Note: "welcome ✓"})
	if len(first.ID) != 19 || !strings.HasPrefix(first.ID, "gr_") || first.Amount != access.Credit/4 || first.Expires != end.Unix() || !first.CreatedAt.Equal(start.Truncate(time.Second)) {
		t.Errorf("grant %+v", first)
	}
	want := fmt.Sprintf(`{"id":%q,"amount":0.25,"expires_at":"2030-01-03T03:04:05Z","note":"welcome ✓","created_at":"2030-01-02T03:04:05Z"}`, first.ID)
	if e := k.last(t); e.Action != "grant.created" || e.Tenant != "acme" || e.Object != first.ID || e.Before != nil || string(e.After) != want {
		t.Errorf("entry %+v, after %s", e, e.After)
	}
	second := k.grant(t, "acme", registrar.GrantRequest{Amount: access.Credit})
	if got := k.grants(t, "acme"); !reflect.DeepEqual(got, []access.Grant{first, second}) {
		t.Errorf("stored %+v", got)
	}
	if err := k.RevokeGrant(t.Context(), "acme", first.ID); err != nil {
		t.Fatal(err)
	}
	if e := k.last(t); e.Action != "grant.revoked" || e.Tenant != "acme" || e.Object != first.ID || e.After != nil || string(e.Before) != want {
		t.Errorf("entry %+v, before %s", e, e.Before)
	}
	wantError(t, k.RevokeGrant(t.Context(), "acme", first.ID), registrar.NotFound, "grant")
	wantError(t, k.RevokeGrant(t.Context(), "other", first.ID), registrar.NotFound, "tenant")
	wantError(t, k.RevokeGrant(t.Context(), "", first.ID), registrar.InvalidRequest, "tenant")
	if got := k.grants(t, "acme"); !reflect.DeepEqual(got, []access.Grant{second}) {
		t.Errorf("stored %+v", got)
	}
	if err := k.DeleteTenant(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if e := k.last(t); e.Action != "tenant.deleted" || !strings.Contains(string(e.Before), second.ID) {
		t.Errorf("entry %+v, before %s", e, e.Before)
	}
}

func TestGrantsRefused(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	past, never := start, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		tenant string
		req    registrar.GrantRequest
		code   registrar.Code
		field  string
	}{
		"no tenant":   {"other", registrar.GrantRequest{Amount: 1}, registrar.NotFound, "tenant"},
		"empty":       {"", registrar.GrantRequest{Amount: 1}, registrar.InvalidRequest, "tenant"},
		"nothing":     {"acme", registrar.GrantRequest{}, registrar.InvalidRequest, "amount"},
		"negative":    {"acme", registrar.GrantRequest{Amount: -1}, registrar.InvalidRequest, "amount"},
		"too much":    {"acme", registrar.GrantRequest{Amount: access.MaxCredits + 1}, registrar.InvalidRequest, "amount"},
		"past":        {"acme", registrar.GrantRequest{Amount: 1, Expires: &past}, registrar.InvalidRequest, "expires_at"},
		"far":         {"acme", registrar.GrantRequest{Amount: 1, Expires: &never}, registrar.InvalidRequest, "expires_at"},
		"long note":   {"acme", registrar.GrantRequest{Amount: 1, Note: strings.Repeat("x", access.MaxNote+1)}, registrar.InvalidRequest, "note"},
		"line break":  {"acme", registrar.GrantRequest{Amount: 1, Note: "a\nb"}, registrar.InvalidRequest, "note"},
		"idempotency": {"acme", registrar.GrantRequest{Amount: 1, Idempotency: &registrar.Idempotency{Key: "a b"}}, registrar.InvalidRequest, "idempotency_key"},
	} {
		_, err := k.GrantCredits(t.Context(), c.tenant, c.req)
		if e, ok := errors.AsType[*registrar.Error](err); !ok || e.Code != c.code || e.Field != c.field {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, err := k.VerifyAudit(t.Context()); n != 1 || err != nil || len(k.grants(t, "acme")) > 0 {
		t.Errorf("%d entries, %v", n, err)
	}
	k.grant(t, "acme", registrar.GrantRequest{Amount: access.MaxCredits})
	_, err := k.GrantCredits(t.Context(), "acme", registrar.GrantRequest{Amount: 1})
	wantError(t, err, registrar.Conflict, "amount")
}

func TestMaxGrants(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	var expiring access.Grant
	for i := range access.MaxGrants {
		end := start.Add(time.Duration(200-i) * time.Hour)
		expiring = k.grant(t, "acme", registrar.GrantRequest{Amount: 1, Expires: &end})
	}
	_, err := k.GrantCredits(t.Context(), "acme", registrar.GrantRequest{Amount: 1})
	wantError(t, err, registrar.Conflict, "grant")
	k.now = start.Add(102 * time.Hour) // two have expired, the last made first
	for range 2 {
		k.grant(t, "acme", registrar.GrantRequest{Amount: 1})
	}
	_, err = k.GrantCredits(t.Context(), "acme", registrar.GrantRequest{Amount: 1})
	wantError(t, err, registrar.Conflict, "grant")
	got := k.grants(t, "acme")
	for _, g := range got {
		if g.ID == expiring.ID || g.Expires != 0 && g.Expires <= k.now.Unix() {
			t.Errorf("kept %+v", g)
		}
	}
	if len(got) != access.MaxGrants {
		t.Errorf("%d grants", len(got))
	}
}

func TestGrantOnce(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	k.tenant(t, "other")
	end := start.Add(time.Minute)
	req := registrar.GrantRequest{Amount: 5, Expires: &end, Idempotency: &registrar.Idempotency{Key: "invoice-7", Scope: "operator", Body: [32]byte{1}}}
	first := k.grant(t, "acme", req)
	k.now = start.Add(2 * time.Minute) // the end is past by now: the answer is the same
	if again := k.grant(t, "acme", req); again != first {
		t.Errorf("%+v, then %+v", first, again)
	}
	changed := req
	changed.Idempotency = &registrar.Idempotency{Key: "invoice-7", Scope: "operator", Body: [32]byte{2}}
	_, err := k.GrantCredits(t.Context(), "acme", changed)
	wantError(t, err, registrar.Mismatch, "idempotency_key")
	end = end.Add(day)
	if k.grant(t, "other", req).ID == first.ID {
		t.Error("another tenant's grant")
	}
	k.now = start.Add(20 * time.Minute) // the answer is kept no longer
	if k.grant(t, "acme", req).ID == first.ID || len(k.grants(t, "acme")) != 2 || k.actions(t, first.ID) != "grant.created" {
		t.Errorf("stored %+v", k.grants(t, "acme"))
	}
	// A key's answer under the same idempotency key is another's.
	id := k.key(t, "acme").ID
	if _, err := k.RotateKey(t.Context(), id, registrar.RotateRequest{Idempotency: req.Idempotency}); err != nil {
		t.Error(err)
	}
}

func TestOverrides(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	id := k.key(t, "acme").ID
	o := &access.Override{Rate: access.Rate{Requests: 10, Burst: 20, Window: time.Minute}, Credits: 5 * access.Credit, Concurrent: 3, Until: start.Add(day).Unix()}
	const form = `"override":{"rate":"10/1m burst 20","credits":5,"concurrent":3,"until":"2030-01-03T03:04:05Z"}`
	set := map[string]func(o *access.Override) (*access.Override, error){
		"acme": func(o *access.Override) (*access.Override, error) {
			v, err := k.SetTenantOverride(t.Context(), "acme", o)
			if err != nil {
				return nil, err
			}
			stored, err := k.Tenant(t.Context(), "acme")
			if !reflect.DeepEqual(stored, v) {
				t.Errorf("stored %+v, returned %+v", stored, v)
			}
			return v.Override, err
		},
		id.String(): func(o *access.Override) (*access.Override, error) {
			v, err := k.SetKeyOverride(t.Context(), id, o)
			if err != nil {
				return nil, err
			}
			stored, err := k.Key(t.Context(), id)
			if !reflect.DeepEqual(stored, v) {
				t.Errorf("stored %+v, returned %+v", stored, v)
			}
			return v.Override, err
		},
	}
	for object, fn := range set {
		action := map[bool]string{true: "tenant.updated", false: "key.updated"}[object == "acme"]
		if got, err := fn(o); err != nil || !reflect.DeepEqual(got, o) || got == o {
			t.Errorf("%s: %+v, %v", object, got, err)
		}
		entry := k.last(t)
		if entry.Action != action || entry.Object != object || strings.Contains(string(entry.Before), "override") || !strings.Contains(string(entry.After), form) {
			t.Errorf("%s: entry %+v: %s to %s", object, entry, entry.Before, entry.After)
		}
		if got, err := fn(o); err != nil || !reflect.DeepEqual(got, o) || k.last(t).Seq != entry.Seq {
			t.Errorf("%s, again: %+v, %v", object, got, err)
		}
		for field, bad := range map[string]access.Override{
			"rate": {Rate: access.Rate{Requests: 1}}, "credits": {Credits: -1}, "override": {Until: start.Add(day).Unix()}, "until": {Credits: 1, Until: start.Unix()},
		} {
			_, err := fn(&bad)
			wantError(t, err, registrar.InvalidRequest, field)
		}
		_, err := fn(&access.Override{Credits: access.MaxCredits + 1})
		wantError(t, err, registrar.InvalidRequest, "credits")
		_, err = fn(&access.Override{Credits: 1, Until: 1 << 60})
		wantError(t, err, registrar.InvalidRequest, "until")
		if got, err := fn(nil); err != nil || got != nil {
			t.Errorf("%s: %+v, %v", object, got, err)
		}
		if e := k.last(t); e.Seq != entry.Seq+1 || !strings.Contains(string(e.Before), form) || strings.Contains(string(e.After), "override") {
			t.Errorf("%s: entry %+v: %s to %s", object, e, e.Before, e.After)
		}
	}
	_, err := k.SetTenantOverride(t.Context(), "other", o)
	wantError(t, err, registrar.NotFound, "tenant")
	_, err = k.SetKeyOverride(t.Context(), access.KeyID([]byte("0123456789abcdef")), o)
	wantError(t, err, registrar.NotFound, "key")
	_, err = k.SetKeyOverride(t.Context(), id, &access.Override{MaxKeys: 1})
	wantError(t, err, registrar.InvalidRequest, "max_keys")
	if _, err := k.RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	_, err = k.SetKeyOverride(t.Context(), id, o)
	wantError(t, err, registrar.Conflict, "override")
}

// Credits of a tenant's or a key's own are refused where the plan counts none;
// other parts are not, and credits that were set before stay.
func TestOverrideOfCreditsThatAreNotCounted(t *testing.T) {
	k := newKit(t)
	k.byName = map[string]*access.Plan{"free": {Name: "free"}}
	k.tenant(t, "acme")
	id := k.key(t, "acme").ID
	set := map[string]func(o *access.Override) error{
		"tenant": func(o *access.Override) error { _, err := k.SetTenantOverride(t.Context(), "acme", o); return err },
		"key":    func(o *access.Override) error { _, err := k.SetKeyOverride(t.Context(), id, o); return err },
	}
	for who, fn := range set {
		k.uncounted = nil
		if err := fn(&access.Override{Credits: 5}); err != nil {
			t.Fatal(who, err)
		}
		k.uncounted = map[string]bool{"": true, "free": true}
		seq := k.last(t).Seq
		err := fn(&access.Override{Credits: 6})
		wantError(t, err, registrar.InvalidRequest, "credits")
		if !strings.Contains(err.Error(), "acme has no plan") || k.last(t).Seq != seq {
			t.Errorf("%s: %v, entry %d after %d", who, err, k.last(t).Seq, seq)
		}
		for _, o := range []*access.Override{{Credits: 5, Concurrent: 2}, {Concurrent: 3}, nil} {
			if err := fn(o); err != nil {
				t.Errorf("%s: %+v: %v", who, o, err)
			}
		}
		wantError(t, fn(&access.Override{Credits: 5}), registrar.InvalidRequest, "credits")
	}
	if _, err := k.UpdateTenant(t.Context(), "acme", registrar.TenantUpdate{Plan: new("free")}); err != nil {
		t.Fatal(err)
	}
	if err := set["key"](&access.Override{Credits: 6}); err == nil || !strings.Contains(err.Error(), "on plan free, which counts no credits") {
		t.Error(err)
	}
}

func TestOverrideOfMaxKeys(t *testing.T) {
	k := newKit(t)
	k.byName = map[string]*access.Plan{"": {MaxKeys: 1}}
	k.tenant(t, "acme")
	room := func(want bool) {
		t.Helper()
		_, err := k.IssueKey(t.Context(), registrar.CreateKeyRequest{Tenant: "acme"})
		if want != (err == nil) {
			t.Errorf("room for a key: %v, want %v", err, want)
		}
	}
	room(true)
	room(false)
	if _, err := k.SetTenantOverride(t.Context(), "acme", &access.Override{MaxKeys: 2, Until: start.Add(time.Hour).Unix()}); err != nil {
		t.Fatal(err)
	}
	room(true)
	room(false)
	k.byName = nil // no plan at all: the override holds
	room(false)
	k.now = start.Add(time.Hour)
	room(true)
}

// A key cannot shed the limits of its override by making or renewing others.
func TestDeskOverride(t *testing.T) {
	k, caller, d := deskKit(t)
	old, err := d.IssueKey(t.Context(), registrar.CreateKeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	own := &access.Override{Rate: access.Rate{Requests: 1, Burst: 1, Window: time.Minute}, Credits: 100, Concurrent: 2, Until: start.Add(time.Minute).Unix()}
	if _, err := k.SetKeyOverride(t.Context(), caller.ID, own); err != nil {
		t.Fatal(err)
	}
	out, err := d.IssueKey(t.Context(), registrar.CreateKeyRequest{})
	if err != nil || !reflect.DeepEqual(out.Key.Override, own) {
		t.Fatalf("%+v, %v", out, err)
	}
	for what, c := range map[string]struct {
		o    *access.Override
		good bool
	}{
		"none":        {nil, false},
		"the same":    {own, true},
		"tighter":     {&access.Override{Rate: own.Rate, Credits: 99, Concurrent: 1}, true},
		"one alone":   {&access.Override{Rate: own.Rate, Credits: 99}, false},
		"no rate":     {&access.Override{Credits: 99, Concurrent: 1}, false},
		"faster":      {&access.Override{Rate: access.Rate{Requests: 2, Burst: 1, Window: time.Minute}, Credits: 99, Concurrent: 1}, false},
		"wider":       {&access.Override{Rate: own.Rate, Credits: 101, Concurrent: 1}, false},
		"ends sooner": {&access.Override{Rate: own.Rate, Credits: 1, Concurrent: 1, Until: own.Until - 1}, false},
	} {
		if _, err := k.SetKeyOverride(t.Context(), old.Key.ID, c.o); err != nil {
			t.Fatal(err)
		}
		_, err := d.RotateKey(t.Context(), old.Key.ID, registrar.RotateRequest{})
		if c.good && err != nil {
			t.Errorf("%s: %v", what, err)
		} else if !c.good {
			wantError(t, err, registrar.Forbidden, "override")
		}
	}
	k.now = start.Add(time.Minute)
	if out, err := d.IssueKey(t.Context(), registrar.CreateKeyRequest{}); err == nil && out.Key.Override != nil {
		t.Errorf("an override that is over went on to %+v", out.Key)
	}
}

func TestSweepMetering(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	soon, late, ever := k.key(t, "acme").ID, k.key(t, "acme").ID, k.key(t, "acme").ID
	for id, until := range map[access.KeyID]int64{soon: start.Add(day).Unix(), late: start.Add(3 * day).Unix(), ever: 0} {
		if _, err := k.SetKeyOverride(t.Context(), id, &access.Override{Credits: 1, Until: until}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.SetTenantOverride(t.Context(), "acme", &access.Override{Credits: 1, Until: start.Add(day).Unix()}); err != nil {
		t.Fatal(err)
	}
	end := start.Add(day)
	gone, stays := k.grant(t, "acme", registrar.GrantRequest{Amount: 1, Expires: &end}), k.grant(t, "acme", registrar.GrantRequest{Amount: 2})
	k.rotate(t, late, day) // its grace ends in the sweep that its override outlasts
	check := func(at time.Duration, keys string, tenant bool, grants int) {
		t.Helper()
		k.sweep(t, at)
		v, err := k.Tenant(t.Context(), "acme")
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, id := range []access.KeyID{soon, late, ever} {
			key, err := k.Key(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			got += map[bool]string{true: "x", false: "-"}[key.Override != nil]
		}
		if got != keys || (v.Override != nil) != tenant || len(v.Grants) != grants {
			t.Errorf("at %s: keys %s, want %s; tenant %+v", at, got, keys, v)
		}
	}
	check(day-time.Second, "xxx", true, 2)
	check(day, "-xx", false, 2)
	entry := k.last(t)
	if entry.Actor.Kind != access.ActorSystem || entry.Action != "tenant.updated" || !strings.Contains(string(entry.Before), "override") || strings.Contains(string(entry.After), "override") {
		t.Errorf("entry %+v: %s to %s", entry, entry.Before, entry.After)
	}
	check(3*day-time.Second, "-xx", false, 2)
	if k.last(t).Seq != entry.Seq {
		t.Errorf("a sweep with nothing to do wrote %+v", k.last(t))
	}
	check(3*day, "--x", false, 2)
	if got := k.actions(t, soon.String()); got != "key.created key.updated key.updated" {
		t.Error(got)
	}
	check(91*day, "--x", false, 2)
	check(91*day+time.Second, "--x", false, 1)
	if e := k.last(t); !strings.Contains(string(e.Before), gone.ID) || strings.Contains(string(e.After), gone.ID) || !strings.Contains(string(e.After), stays.ID) {
		t.Errorf("entry %+v: %s to %s", e, e.Before, e.After)
	}
	// An override that is set later is found, too.
	if _, err := k.SetKeyOverride(t.Context(), soon, &access.Override{Credits: 1, Until: start.Add(100 * day).Unix()}); err != nil {
		t.Fatal(err)
	}
	check(99*day, "x-x", false, 1)
	check(100*day, "--x", false, 1)
}

// The end of a grace or an override does not swallow a notice.
func TestNoticeWithOtherEnds(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	k.policy.Notice = []time.Duration{day}
	id := k.issue(t, registrar.CreateKeyRequest{Tenant: "acme", ExpiresIn: 2 * day}).Key.ID
	k.rotate(t, id, time.Hour)
	if k.sweep(t, day); len(k.events) != 1 || k.events[0] != "api_key_expiring" {
		t.Errorf("events %v", k.events)
	}
	if key, err := k.Key(t.Context(), id); err != nil || key.Previous != nil {
		t.Errorf("%+v, %v", key, err)
	}
}

// A broken trail is told of by the number of the record at fault.
func TestBrokenTrailIsConflict(t *testing.T) {
	k := newKit(t)
	k.tenant(t, "acme")
	err := k.store.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(tx.PutAudit(2, []byte("no record")))
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := k.VerifyAudit(t.Context())
	e := wantError(t, err, registrar.Conflict, "")
	if n != 1 || !errors.Is(err, audit.ErrBroken) || !strings.Contains(e.Message, "record 2 is unreadable") || strings.Contains(e.Message, "\n") {
		t.Errorf("%d, %q", n, e.Message)
	}
	_, _, err = k.Audit(t.Context(), registrar.AuditFilter{}, 0, 0)
	if e := wantError(t, err, registrar.Conflict, ""); !strings.Contains(e.Message, "record 2") {
		t.Errorf("%q", e.Message)
	}
}
