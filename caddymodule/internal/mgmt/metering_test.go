package mgmt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// shelf is a usage.Storage in memory.
type shelf struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *shelf) Update(_ context.Context, fn func(usage.Writer) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fn(s)
}

func (s *shelf) Put(k, v []byte) error { s.m[string(k)] = bytes.Clone(v); return nil }
func (s *shelf) Delete(k []byte) error { delete(s.m, string(k)); return nil }

func (s *shelf) Range(_ context.Context, from, to []byte, yield func(k, v []byte) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(s.m)) {
		if k >= string(from) && (to == nil || k < string(to)) && !yield([]byte(k), s.m[k]) {
			break
		}
	}
	return nil
}

// counted gives the door a recorder with one request of each series.
func (d *door) counted(series ...usage.Series) *usage.Recorder {
	d.t.Helper()
	rec, err := usage.Open(d.t.Context(), usage.Options{Storage: &shelf{m: map[string][]byte{}}})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, s := range series {
		rec.Record(&usage.Request{
			Second: usage.SecondOf(time.Now().Unix()), Class: uint8(s.Class), Flags: uint8(s.Flags), Key: s.Key, Tenant: s.Tenant, Route: s.Route,
			Numbers: [...]int64{usage.Credits: 1_500_000, usage.BytesIn: 10, usage.BytesOut: 20, usage.Micros: 1000},
		})
	}
	d.handler.Usage = func() (*usage.Recorder, error) { return rec, nil }
	return rec
}

func keyID(t *testing.T, s string) access.KeyID {
	t.Helper()
	id, err := access.ParseKeyID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func credits(n int64) access.Credits { return access.Credits(n) * access.Credit }

func TestOperatorCredits(t *testing.T) {
	d := newDoor(t)
	d.tenant("acme")
	c := d.client
	b, err := c.Credits("acme")
	if err != nil || b.Limit != nil || len(b.Grants) != 0 || b.Quotas == nil {
		t.Errorf("no metering: %+v, %v", b, err)
	}
	last, err := c.GrantCredits("acme", mgmt.CreateGrant{Amount: credits(5), Note: "gift"})
	if err != nil || last.Amount != credits(5) || last.Remaining != credits(5) || last.ExpiresAt != nil || last.Note != "gift" {
		t.Fatalf("granted %+v, %v", last, err)
	}
	req := mgmt.CreateGrant{Amount: 250_000, ExpiresIn: new(int64(3600))}
	first, err := c.GrantCreditsOnce("acme", req, "one")
	again, bad := c.GrantCreditsOnce("acme", req, "one")
	if err != nil || bad != nil || first.ID != again.ID || !first.ExpiresAt.Equal(*again.ExpiresAt) || time.Until(*first.ExpiresAt) < 59*time.Minute {
		t.Fatalf("granted %+v and %+v, %v, %v", first, again, err, bad)
	}
	req.Amount = 1
	if _, err := c.GrantCreditsOnce("acme", req, "one"); refusedWith(err) != 422 {
		t.Errorf("another grant of the same name: %v", err)
	}
	d.handler.Account = func(tenant string) (mgmt.Account, error) {
		return mgmt.Account{Credits: credit.Balance{Limited: true, Limit: credits(10), Used: 2_500_000, Remaining: 7_500_000},
			Left: map[string]access.Credits{first.ID: 100_000}, Quotas: []mgmt.Quota{{Meter: "requests", Per: "day", Limit: 5, Used: 3}}}, nil
	}
	w := d.send("GET", "/keytoll/v1/tenants/acme/credits", "")
	if !strings.HasPrefix(w.Body.String(), `{"tenant":"acme","limit":10,"used":2.5,"remaining":7.5,"overage":0,"resets_at":null,"grants":[{"id":"`+first.ID+`","amount":0.25,"remaining":0.1,`) ||
		!strings.Contains(w.Body.String(), `"quotas":[{"meter":"requests","per":"day","limit":5,"used":3,"observe":false,"resets_at":null}]`) {
		t.Errorf("balance %s", w.Body)
	}
	if b, err = c.Credits("acme"); err != nil || len(b.Grants) != 2 || b.Grants[1].ID != last.ID || *b.Used != "2.5" {
		t.Errorf("balance %+v, %v", b, err)
	}
	if err := c.RevokeGrant("acme", first.ID); err != nil {
		t.Error(err)
	}
	if err := c.RevokeGrant("acme", first.ID); refusedWith(err) != 404 {
		t.Errorf("revoked twice: %v", err)
	}
	if _, err := c.Credits("nobody"); refusedWith(err) != 404 {
		t.Errorf("nobody's credits: %v", err)
	}
}

// Own credits are shown with the one key that is asked for, and their limit may
// be anything that a sum can be. That they cannot be read hides no key from the
// operator, and is no answer to a caller.
func TestKeyCredits(t *testing.T) {
	d := newDoor(t)
	k := d.tenant("acme")
	own, bad := credit.Balance{}, error(nil)
	counted := func(id access.KeyID) (credit.Balance, error) {
		if id.String() != k.ID {
			t.Errorf("asked for %s", id)
		}
		return own, bad
	}
	desk := d.desk(k.ID, &dialect.Dialect{}, func(o *mgmt.DeskOptions) {
		o.Kind, o.Base, o.KeyCredits = mgmt.DeskUsage, "/v1/usage", counted
	})
	answers := func(operator, caller string) {
		t.Helper()
		w, v := d.send("GET", "/keytoll/v1/keys/"+k.ID, ""), desk.send("GET", "/v1/usage/credits", "")
		if w.Code != 200 || v.Code != 200 || !strings.HasSuffix(w.Body.String(), operator+"}\n") || !strings.HasSuffix(v.Body.String(), caller+"}\n") {
			t.Errorf("%d %s\n%d %s", w.Code, w.Body, v.Code, v.Body)
		}
	}
	none := func() { t.Helper(); answers(`"last_used_agent":""`, `"quotas":[]`) }
	none()
	d.handler.KeyCredits = counted
	none()
	own = credit.Balance{Limited: true, Limit: credits(3), Used: 2_500_000, Remaining: 500_000, Overage: credits(1),
		Resets: time.Date(2030, 2, 1, 0, 0, 0, 0, time.FixedZone("", 3600))}
	const shown = `{"limit":3,"used":2.5,"remaining":0.5,"resets_at":"2030-01-31T23:00:00Z"}`
	answers(`,"credits":`+shown, `,"key":`+shown)
	own = credit.Balance{Limited: true, Limit: credits(2_000_000_000_000), Used: credits(2_000_000_000_000)}
	const huge = `{"limit":2000000000000,"used":2000000000000,"remaining":0,"resets_at":null}`
	answers(`,"credits":`+huge, `,"key":`+huge)
	if got, err := d.client.Key(k.ID); err != nil || got.Credits == nil || got.Credits.Limit != "2000000000000" {
		t.Errorf("%+v, %v", got, err)
	}
	if list, err := d.client.Keys("acme", "", mgmt.Page{}); err != nil || len(list.Keys) != 1 || list.Keys[0].Credits != nil {
		t.Errorf("list %+v, %v", list, err)
	}
	bad = &registrar.Error{Code: registrar.Unavailable, Message: "the counts cannot be read"}
	if got, err := d.client.Key(k.ID); err != nil || got.ID != k.ID || got.Credits != nil {
		t.Errorf("unreadable: %+v, %v", got, err)
	}
	if w := desk.send("GET", "/v1/usage/credits", ""); w.Code != 503 {
		t.Errorf("unreadable: %d %s", w.Code, w.Body)
	}
}

// refusedWith returns the status of a refusal, 0 for none.
func refusedWith(err error) int {
	if e, ok := errors.AsType[*mgmt.Error](err); ok {
		return e.Status
	}
	return 0
}

func TestOperatorOverrides(t *testing.T) {
	d := newDoor(t)
	k := d.tenant("acme")
	until := time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
	o := mgmt.Override{Rate: &mgmt.Rate{Requests: 5, Window: "1m", Burst: 5}, Credits: new(credits(7)), Concurrent: new(uint32(2)), MaxKeys: new(uint32(9)), Until: &until}
	text := func(o *mgmt.Override) string { b, _ := json.Marshal(o); return string(b) }
	got, err := d.client.SetTenantOverride("acme", o)
	if err != nil || text(got.Override) != text(&o) {
		t.Errorf("tenant %s, %v, want %s", text(got.Override), err, text(&o))
	}
	if got, err = d.client.SetTenantOverride("acme", mgmt.Override{Credits: new(credits(1)), For: new("7d")}); err != nil || got.Override.Rate != nil ||
		time.Until(*got.Override.Until).Round(time.Hour) != 7*24*time.Hour || got.Override.For != nil {
		t.Errorf("replaced by %s, %v", text(got.Override), err)
	}
	for range 2 {
		if got, err = d.client.DropTenantOverride("acme"); err != nil || got.Override != nil {
			t.Errorf("dropped: %s, %v", text(got.Override), err)
		}
	}
	o.MaxKeys = nil
	key, err := d.client.SetKeyOverride(k.ID, o)
	if err != nil || text(key.Override) != text(&o) {
		t.Errorf("key %s, %v", text(key.Override), err)
	}
	if key, err = d.client.DropKeyOverride(k.ID); err != nil || key.Override != nil {
		t.Errorf("dropped: %s, %v", text(key.Override), err)
	}
}

func TestMeteringBadInput(t *testing.T) {
	d := newDoor(t)
	k := d.tenant("acme")
	d.counted()
	grants, one, key := "/keytoll/v1/tenants/acme/credits/grants", "/keytoll/v1/tenants/acme/override", "/keytoll/v1/keys/"+k.ID+"/override"
	use := "/keytoll/v1/usage"
	for name, c := range map[string]struct{ method, path, body, field string }{
		"no amount":           {"POST", grants, `{}`, "amount"},
		"amount of 0":         {"POST", grants, `{"amount":0}`, "amount"},
		"negative":            {"POST", grants, `{"amount":-1}`, "amount"},
		"text":                {"POST", grants, `{"amount":"5"}`, "amount"},
		"null":                {"POST", grants, `{"amount":null}`, "amount"},
		"7 decimals":          {"POST", grants, `{"amount":0.0000001}`, "amount"},
		"exponent":            {"POST", grants, `{"amount":1e3}`, "amount"},
		"huge":                {"POST", grants, `{"amount":1000000000001}`, "amount"},
		"twice":               {"POST", grants, `{"amount":1,"amount":2}`, "amount"},
		"past":                {"POST", grants, `{"amount":1,"expires_at":"2001-01-01T00:00:00Z"}`, "expires_at"},
		"two expiries":        {"POST", grants, `{"amount":1,"expires_at":"2999-01-01T00:00:00Z","expires_in":5}`, "expires_in"},
		"no time":             {"POST", grants, `{"amount":1,"expires_in":0}`, "expires_in"},
		"note":                {"POST", grants, `{"amount":1,"note":"` + strings.Repeat("x", 201) + `"}`, "note"},
		"unknown":             {"POST", grants, `{"amount":1,"tenant":"b"}`, "tenant"},
		"a grant's parameter": {"POST", grants + "?dry_run=1", `{"amount":1}`, "dry_run"},
		"parameter":           {"GET", "/keytoll/v1/tenants/acme/credits?limit=1", "", "limit"},
		"empty override":      {"PUT", one, `{}`, "override"},
		"until alone":         {"PUT", one, `{"until":"2999-01-01T00:00:00Z"}`, "override"},
		"credits of 0":        {"PUT", one, `{"credits":0}`, "credits"},
		"null credits":        {"PUT", one, `{"credits":null}`, "credits"},
		"concurrent of 0":     {"PUT", one, `{"concurrent":0}`, "concurrent"},
		"max_keys of -1":      {"PUT", one, `{"max_keys":-1}`, "max_keys"},
		"rate":                {"PUT", one, `{"rate":{"requests":1,"window":"x"}}`, "rate.window"},
		"override's past":     {"PUT", one, `{"credits":1,"until":"2001-01-01T00:00:00Z"}`, "until"},
		"until and for":       {"PUT", one, `{"credits":1,"until":"2999-01-01T00:00:00Z","for":"1d"}`, "for"},
		"for":                 {"PUT", one, `{"credits":1,"for":"soon"}`, "for"},
		"for nothing":         {"PUT", one, `{"credits":1,"for":"0"}`, "for"},
		"a key's max_keys":    {"PUT", key, `{"max_keys":1}`, "max_keys"},
		"drop's parameter":    {"DELETE", key + "?x=1", "", "x"},
		"usage's parameter":   {"GET", use + "?tennant=acme", "", "tennant"},
		"usage has no pages":  {"GET", use + "?limit=5", "", "limit"},
		"parameter twice":     {"GET", use + "?tenant=a&tenant=b", "", "tenant"},
		"empty parameter":     {"GET", use + "?tenant=", "", "tenant"},
		"tenant":              {"GET", use + "?tenant=a%00b", "", "tenant"},
		"key":                 {"GET", use + "?key=42", "", "key"},
		"class":               {"GET", use + "?class=6xx", "", "class"},
		"step":                {"GET", use + "?step=week", "", "step"},
		"by":                  {"GET", use + "?by=tenant,plan", "", "by"},
		"format":              {"GET", use + "?format=xml", "", "format"},
		"from":                {"GET", use + "?from=yesterday", "", "from"},
		"before 1970":         {"GET", use + "?from=1960-01-01T00:00:00Z", "", "from"},
		"after 9998":          {"GET", use + "?to=9999-12-31T23:59:59Z", "", "to"},
		"backwards":           {"GET", use + "?from=2030-01-02T00:00:00Z&to=2030-01-01T00:00:00Z", "", "from"},
		"too much":            {"GET", use + "?from=1970-01-01T00:00:00Z&step=minute", "", "from"},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			d.want(d.send(c.method, c.path, c.body), 400, "invalid_request", c.field)
		})
	}
	d.t = t
	if tt, err := d.client.Tenant("acme"); err != nil || tt.Override != nil {
		t.Errorf("bad input left %+v, %v", tt, err)
	}
	if b, err := d.client.Credits("acme"); err != nil || len(b.Grants) != 0 {
		t.Errorf("bad input left %+v, %v", b, err)
	}
}

func TestOperatorUsage(t *testing.T) {
	d := newDoor(t)
	d.want(d.send("GET", "/keytoll/v1/usage", ""), 503, "unavailable", "")
	a, b := keyID(t, d.tenant("acme").ID), keyID(t, d.tenant("beta").ID)
	d.counted(usage.Series{Tenant: "acme", Key: a, Route: "big", Class: usage.Class2xx}, usage.Series{Tenant: "acme", Key: a, Class: usage.Refused},
		usage.Series{Tenant: "beta", Key: b, Route: "big", Class: usage.Class2xx, Flags: usage.Observed})
	for f, want := range map[mgmt.UsageFilter]string{
		{}:                                    "3/4.5",
		{Tenant: "acme"}:                      "2/3",
		{Tenant: "nobody"}:                    "",
		{Key: b.String()}:                     "1/1.5",
		{Route: "big", By: "tenant,key"}:      "acme" + a.String() + "1/1.5 beta" + b.String() + "1/1.5",
		{Class: "refused", By: "class"}:       "refused1/1.5",
		{By: "flags"}:                         "2/3 !1/1.5",
		{By: "route", Step: "minute"}:         "1/1.5 big2/3",
		{To: time.Now().Add(-time.Hour * 30)}: "",
	} {
		r, err := d.client.Usage(f)
		var got []string
		for _, p := range r.Points {
			mark := ""
			if p.Observed {
				mark = "!"
			}
			got = append(got, fmt.Sprintf("%s%s%s%s%s%d/%s", p.Tenant, p.Key, p.Route, p.Class, mark, p.Requests, p.Credits))
		}
		if err != nil || strings.Join(got, " ") != want || r.To.Sub(r.From) <= 0 {
			t.Errorf("%+v: %v, %v, want %s", f, got, err, want)
		}
	}
	var csv bytes.Buffer
	if err := d.client.UsageCSV(mgmt.UsageFilter{By: "tenant"}, &csv); err != nil || strings.Count(csv.String(), "\r\n") != 3 || !strings.Contains(csv.String(), ",beta,") {
		t.Errorf("csv %q, %v", csv.String(), err)
	}
}

func TestDeskUsage(t *testing.T) {
	d := newDoor(t)
	k := d.tenant("acme")
	mine, other := keyID(t, k.ID), keyID(t, d.tenant("beta").ID)
	rec := d.counted(usage.Series{Tenant: "acme", Key: mine, Route: "big", Class: usage.Class2xx}, usage.Series{Tenant: "beta", Key: other, Route: "big", Class: usage.Class2xx})
	if _, err := d.client.GrantCredits("acme", mgmt.CreateGrant{Amount: credits(2), Note: "difficult customer"}); err != nil {
		t.Fatal(err)
	}
	desk := d.desk(k.ID, &dialect.Dialect{}, func(o *mgmt.DeskOptions) {
		o.Kind, o.Base = mgmt.DeskUsage, "/v1/usage"
		o.Recorder = func() (*usage.Recorder, error) { return rec, nil }
		o.Account = func(tenant string) (mgmt.Account, error) {
			return mgmt.Account{Credits: credit.Balance{Limited: true, Limit: credits(int64(len(tenant))), Remaining: credits(4)},
				Quotas: []mgmt.Quota{{Meter: "requests", Per: "day", Limit: 5, Used: 3}, {Meter: "seconds", Per: "hour", Limit: 1, Used: 2, Observe: true}}}, nil
		}
	})
	w := desk.send("GET", "/v1/usage?by=key,route", "")
	if w.Code != 200 || strings.Count(w.Body.String(), `"start"`) != 1 || !strings.Contains(w.Body.String(), k.ID) || strings.Contains(w.Body.String(), "beta") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	answers := map[string]bool{}
	for _, key := range []string{other.String(), "key_0000000000000000", "42", "%00", strings.Repeat("x", 500)} {
		answers[whole(desk.send("GET", "/v1/usage?step=day&from=2020-01-01T00:00:00Z&to=2030-01-01T00:00:00Z&key="+key, ""))] = true
	}
	if len(answers) != 1 || !strings.Contains(fmt.Sprint(answers), `"points":[]`) {
		t.Errorf("keys that are not the tenant's are answered %v", answers)
	}
	if w := desk.send("GET", "/v1/usage?key="+k.ID, ""); !strings.Contains(w.Body.String(), `"requests":1,`) {
		t.Errorf("own key: %s", w.Body)
	}
	for accept, want := range map[string]string{"": "application/json", "text/csv": "text/csv; charset=utf-8", "*/*": "application/json", "application/json, text/csv;q=0.5": "application/json",
		"text/csv, */*;q=0.1": "text/csv; charset=utf-8", "text/csv;q=0": "application/json"} {
		if got := desk.send("GET", "/v1/usage", "", "Accept", accept).Header().Get("Content-Type"); got != want {
			t.Errorf("Accept %q: %s", accept, got)
		}
	}
	if w := desk.send("GET", "/v1/usage?format=csv", "", "Accept", "application/json"); !strings.HasPrefix(w.Body.String(), "start,tenant,") {
		t.Errorf("csv: %s", w.Body)
	}
	w = desk.send("GET", "/v1/usage/credits", "")
	var b struct {
		Limit, Used, Remaining access.Credits
		Grants                 []map[string]any
	}
	if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || b.Limit != credits(4) || b.Remaining != credits(4) || len(b.Grants) != 1 || strings.Contains(w.Body.String(), "difficult") {
		t.Errorf("credits %s, %v", w.Body, err)
	}
	if want := `"quotas":[{"meter":"requests","per":"day","limit":5,"used":3,"resets_at":null}]`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("credits %s, want %s and no quota that is only observed", w.Body, want)
	}
	for path, status := range map[string]int{"?tenant=beta": 400, "?by=tenant": 400, "?by=flags": 400, "?limit=1": 400, "/credits?tenant=beta": 400, "/grants": 404, "/credits/": 404, "s": 404} {
		if w := desk.send("GET", "/v1/usage"+path, ""); w.Code != status || strings.Contains(w.Body.String(), "caddy keytoll") {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, status)
		}
	}
	if w := desk.send("POST", "/v1/usage/credits", `{}`); w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %v", w.Code, w.Header())
	}
	if w := desk.send("HEAD", "/v1/usage/credits", ""); w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d %s", w.Code, w.Body)
	}
	desk.o.Require, desk.o.Holds = map[string][]string{"credits": {"billing"}}, func(mgmt.Caller, []string) bool { return false }
	if w := desk.send("GET", "/v1/usage/credits", ""); w.Code != 403 {
		t.Errorf("without the permission: %d", w.Code)
	}
	if _, err := d.client.RevokeKey(k.ID); err != nil {
		t.Fatal(err)
	}
	if w := desk.send("GET", "/v1/usage", ""); w.Code != 403 {
		t.Errorf("a revoked caller: %d %s", w.Code, w.Body)
	}
}

// A tenant sees nothing of an earlier one that had its id.
func TestDeskUsageBeforeTheTenant(t *testing.T) {
	d := newDoor(t)
	k := d.tenant("acme")
	rec := d.counted()
	rec.Record(&usage.Request{Second: usage.SecondOf(time.Now().Add(-26 * time.Hour).Unix()), Tenant: "acme", Class: uint8(usage.Class2xx)})
	desk := d.desk(k.ID, &dialect.Dialect{}, func(o *mgmt.DeskOptions) {
		o.Kind, o.Base = mgmt.DeskUsage, "/v1/usage"
		o.Recorder = func() (*usage.Recorder, error) { return rec, nil }
	})
	if r, err := d.client.Usage(mgmt.UsageFilter{From: time.Now().Add(-48 * time.Hour)}); err != nil || len(r.Points) != 1 {
		t.Fatalf("the operator sees %+v, %v", r, err)
	}
	path := "/v1/usage?from=" + time.Now().Add(-48*time.Hour).UTC().Format(time.RFC3339)
	var w *httptest.ResponseRecorder
	if w = desk.send("GET", path, ""); !strings.Contains(w.Body.String(), `"points":[]`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
