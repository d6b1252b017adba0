package caddymodule

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

// meteredSite charges, names requests, and has the tenant's door to usage.
const meteredSite = `
keytoll_api usage {
	base /v1/usage
}
keytoll {
	charge /big 5
	charge 1
	route /big big
}
reverse_proxy {upstream}
`

const meteredOptions = `
plan free {
	credits 10/month
	quota 100/day
	concurrent 2
}
default_plan free
`

// clerk returns one who commands the running Caddy.
func (g *gateway) clerk(t *testing.T) *clerk {
	t.Helper()
	admin := new(AdminAPI)
	if err := admin.Provision(caddy.ActiveContext()); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = admin.Routes()[0].Handler.ServeHTTP(w, r) }))
	t.Cleanup(srv.Close)
	return &clerk{t: t, addr: srv.Listener.Addr().String()}
}

func says(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%q is not in:\n%s", w, out)
		}
	}
}

// asJSON runs a command that prints JSON.
func asJSON[T any](c *clerk, args ...string) (v T) {
	c.t.Helper()
	out := c.run(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		c.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return v
}

func TestCommandCredits(t *testing.T) {
	g := newGateway(t, meteredOptions, meteredSite)
	_, key := g.key("acme", hourly(1000))
	c := g.clerk(t)
	for _, path := range []string{"/", "/big"} {
		g.do("GET", path, "X-Api-Key: "+key).expect(t, 200)
	}
	g.ended(2)
	says(t, c.run("credits", "show", "acme"), "limit      10\n", "used       6\n", "remaining  4\n", "requests/day  100    2 ")
	g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 402)

	grant := []string{"credits", "grant", "acme", "2.5", "--expires-in", "90d", "--note", "outage of May", "--idempotency-key", "one"}
	soon := asJSON[mgmt.Grant](c, grant...)
	if again := asJSON[mgmt.Grant](c, grant...); again.ID != soon.ID {
		t.Errorf("granted twice: %+v and %+v", soon, again)
	}
	says(t, c.run("credits", "grant", "acme", "1"), "amount   1\n", "expires  never\n")
	g.do("GET", "/big", "X-Api-Key: "+key).expect(t, 200)
	g.ended(4)
	b := asJSON[mgmt.Balance](c, "credits", "show", "acme")
	if *b.Limit != "13.5" || *b.Used != "11" || *b.Remaining != "2.5" || len(b.Grants) != 2 ||
		b.Grants[0].ID != soon.ID || b.Grants[0].Remaining != 1_500_000 || b.ResetsAt == nil {
		t.Errorf("balance %+v", b)
	}
	says(t, c.run("credits", "show", "acme"), soon.ID+"  2.5     1.5 ", "outage of May")
	r := g.do("GET", "/v1/usage/credits", "X-Api-Key: "+key).expect(t, 200)
	says(t, r.body, `{"limit":13.5,"used":11,"remaining":2.5,"resets_at":"`, `"id":"`+soon.ID+`","amount":2.5,"remaining":1.5,`)

	c.run("credits", "revoke", "acme", soon.ID)
	says(t, c.run("credits", "history", "acme"), "grant.created  "+soon.ID+"  2.5 ", "grant.revoked  "+soon.ID, "outage of May")
	history := asJSON[struct{ Entries []grantEvent }](c, "credits", "history", "acme")
	if e := history.Entries; len(e) != 3 || e[0].Remaining != nil || *e[1].Remaining != access.Credit || e[2].Action != "grant.revoked" {
		t.Errorf("history %+v", e)
	}
	if _, errs, err := c.try("", "credits", "revoke", "acme", soon.ID); err == nil || !strings.Contains(errs, "has no grant") {
		t.Errorf("revoked twice: %v %s", err, errs)
	}
}

// What a key used of its own credits is shown to the operator and to its caller,
// beside the tenant's, and nothing where it has none.
func TestCommandCreditsOfAKey(t *testing.T) {
	g := newGateway(t, meteredOptions+"plan open {\n\tconcurrent 5\n}\n", meteredSite)
	id, key := g.key("acme", hourly(1000))
	_, other := g.key("acme", hourly(1000))
	c := g.clerk(t)
	door := func(key string) map[string]any {
		t.Helper()
		return g.do("GET", "/v1/usage/credits", "X-Api-Key: "+key).expect(t, 200).object(t)
	}
	none := func(when string) {
		t.Helper()
		if out := c.run("keys", "show", id.String()); strings.Contains(out, "remaining") {
			t.Errorf("%s: %s", when, out)
		}
		if r := g.operator("GET", "/keys/"+id.String(), "").expect(t, 200); r.object(t)["credits"] != nil {
			t.Errorf("%s: %s", when, r.body)
		}
	}
	none("no override")
	c.run("keys", "update", id.String(), "--concurrent", "5")
	none("an override of something else")
	if b := door(key); b["key"] != nil {
		t.Errorf("without own credits: %v", b)
	}
	c.run("keys", "update", id.String(), "--credits", "3")
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+other).expect(t, 200)
	shows := func(used, remaining json.Number) {
		t.Helper()
		eventually(t, "the requests are charged", func() bool {
			k := c.key("keys", "show", id.String())
			return k.Credits != nil && k.Credits.Used == used
		})
		k := c.key("keys", "show", id.String())
		if v := k.Credits; v.Limit != "3" || v.Remaining != remaining || v.ResetsAt == nil || !v.ResetsAt.Equal(*asJSON[mgmt.Balance](c, "credits", "show", "acme").ResetsAt) {
			t.Errorf("key %+v", v)
		}
		resets := stamp(k.Credits.ResetsAt)
		says(t, c.run("keys", "show", id.String()), " limit 3, used "+used.String()+", remaining "+remaining.String()+", resets "+resets+"\n")
		same := `{"limit":3,"used":` + used.String() + `,"remaining":` + remaining.String() + `,"resets_at":"` + resets + `"}`
		says(t, g.operator("GET", "/keys/"+id.String(), "").expect(t, 200).body, `"credits":`+same)
		says(t, g.do("GET", "/v1/usage/credits", "X-Api-Key: "+key).expect(t, 200).body, `"key":`+same)
	}
	shows("2", "1")
	if b := door(other); b["key"] != nil || b["used"] != 3.0 {
		t.Errorf("another key of the tenant sees %v", b)
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 402)
	shows("3", "0")
	c.run("tenants", "update", "acme", "--plan", "open")
	none("a plan that counts no credits")
	c.run("tenants", "update", "acme", "--plan", "free")
	shows("3", "0")
	if _, err := g.registrar().SetKeyOverride(t.Context(), id, &access.Override{Credits: 3 * access.Credit, Until: time.Now().Unix() + 2}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the override is over", func() bool { return c.key("keys", "show", id.String()).Credits == nil })
	if b := door(key); b["key"] != nil {
		t.Errorf("an override that is over: %v", b)
	}
	c.run("keys", "update", id.String(), "--credits", "3")
	g.load("plan free\ndefault_plan free", plainGate)
	none("no metering")
}

// What a tenant has comes to more than one amount can be: plan and grants, and
// what it used beyond them.
func TestCommandCreditsOfHugeSums(t *testing.T) {
	g := newGateway(t, meteredOptions, strings.Replace(meteredSite, "charge 1\n", "charge 1\n\tcharge_header X-Cost\n", 1))
	g.upstream.respond(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("X-Cost", access.MaxCredits.String())
		return false
	})
	_, key := g.key("acme", hourly(1000))
	c := g.clerk(t)
	c.run("credits", "grant", "acme", access.MaxCredits.String())
	says(t, c.run("credits", "show", "acme"), "limit      1000000000010\n", "remaining  1000000000010\n")
	for range 3 {
		g.do("GET", "/", "X-Api-Key: "+key)
	}
	g.ended(3)
	says(t, c.run("credits", "show", "acme"), "remaining  0\n", "overage    999999999990\n")
	says(t, c.run("credits", "history", "acme"), "grant.created")
}

func TestCommandUsage(t *testing.T) {
	g := newGateway(t, meteredOptions, meteredSite)
	id, key := g.key("acme", hourly(1000))
	other, _ := g.key("beta", hourly(1000))
	c := g.clerk(t)
	if out, errs, err := c.try("", "usage"); err != nil || !strings.Contains(errs, "no request") || !strings.Contains(out, "requests  ▁") {
		t.Errorf("nothing yet: %v\n%s%s", err, out, errs)
	}
	for _, path := range []string{"/", "/big", "/"} {
		g.do("GET", path, "X-Api-Key: "+key).expect(t, 200)
	}
	g.ended(3)
	out := c.run("usage", "--tenant", "acme", "--by", "route,class", "--step", "hour")
	says(t, out, "█ 3\n", "█ 7\n", "time (utc) ", "big  ", "2xx ")
	if strings.Contains(c.run("usage", "--tenant", "beta"), "█") || strings.Count(c.run("usage", "--since", "90d", "--step", "hour", "--tenant", "beta"), "▁") > 2*sparkWidth {
		t.Error("beta has usage, or the bars are too long")
	}
	r := asJSON[mgmt.UsageReport](c, "usage", "--key", id.String(), "--by", "tenant", "--since", "1h")
	if r.Step != "minute" || len(r.Points) == 0 || r.Points[0].Tenant != "acme" {
		t.Errorf("usage %+v", r)
	}
	csv := c.run("usage", "--csv", "--by", "key", "--step", "day")
	says(t, csv, "start,tenant,key,", ","+id.String()+",")
	own := g.do("GET", "/v1/usage?by=key&step=day", "X-Api-Key: "+key, "Accept: text/csv").expect(t, 200)
	says(t, own.body, "start,tenant,key,", id.String())
	foreign := g.do("GET", "/v1/usage?key="+other.String(), "X-Api-Key: "+key).expect(t, 200)
	nobody := g.do("GET", "/v1/usage?key=key_0000000000000000", "X-Api-Key: "+key).expect(t, 200)
	if foreign.body != nobody.body || !strings.Contains(foreign.body, `"points":[]`) {
		t.Errorf("another tenant's key: %s, nobody's: %s", foreign.body, nobody.body)
	}
	g.do("GET", "/v1/usage").expect(t, 401)
}

func TestCommandOverrides(t *testing.T) {
	g := newGateway(t, meteredOptions, meteredSite)
	id, key := g.key("acme", hourly(1000))
	c := g.clerk(t)
	tt := asJSON[mgmt.Tenant](c, "tenants", "update", "acme", "--name", "Acme", "--credits", "20", "--rate", "5/1m", "--until", "7d")
	if o := tt.Override; tt.Name != "Acme" || o == nil || *o.Credits != 20*access.Credit || o.Rate.Requests != 5 || time.Until(*o.Until).Round(time.Hour) != 7*24*time.Hour {
		t.Errorf("tenant %+v", tt)
	}
	tt = asJSON[mgmt.Tenant](c, "tenants", "update", "acme", "--credits", "", "--max-keys", "3", "--until", "")
	if o := tt.Override; o == nil || o.Credits != nil || *o.MaxKeys != 3 || o.Rate.Requests != 5 || o.Until != nil {
		t.Errorf("tenant %+v", tt.Override)
	}
	says(t, c.run("tenants", "show", "acme"), "override     rate 5/1m, max keys 3\n")
	if tt = asJSON[mgmt.Tenant](c, "tenants", "update", "acme", "--no-override"); tt.Override != nil {
		t.Errorf("tenant %+v", tt.Override)
	}
	k := c.key("keys", "update", id.String(), "--rate", "9/1m", "--credits", "2", "--concurrent", "1")
	if o := k.Override; k.Rate.Requests != 9 || o == nil || o.Rate != nil || *o.Credits != 2*access.Credit || *o.Concurrent != 1 {
		t.Errorf("key %+v", k)
	}
	for _, want := range []int{200, 200, 402} {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, want)
	}
	if k = c.key("keys", "update", id.String(), "--rate", "8/1m", "--until", "1d"); k.Rate.Requests != 9 || k.Override.Rate.Requests != 8 || k.Override.Credits == nil {
		t.Errorf("key %+v", k)
	}
	if k = c.key("keys", "update", id.String(), "--name", "n", "--no-override"); k.Override != nil || k.Name != "n" {
		t.Errorf("key %+v", k)
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
}

func TestCommandMeteringErrors(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme")
	for name, v := range map[string]struct {
		args []string
		want string
	}{
		"no amount":       {[]string{"credits", "grant", "acme"}, "takes 2 arguments, not 1"},
		"amount":          {[]string{"credits", "grant", "acme", "5e3"}, "not an amount of credits"},
		"amount of 0":     {[]string{"credits", "grant", "acme", "0"}, "want more"},
		"expiries":        {[]string{"credits", "grant", "acme", "5", "--expires", "1d", "--expires-in", "1d"}, "give one of"},
		"no name":         {[]string{"credits", "grant", "acme", "5", "--idempotency-key", ""}, "is empty"},
		"credits of 0":    {[]string{"tenants", "update", "acme", "--credits", "0"}, "want more than 0"},
		"max keys":        {[]string{"tenants", "update", "acme", "--max-keys", "-1"}, "--max-keys"},
		"until":           {[]string{"tenants", "update", "acme", "--credits", "1", "--until", "then"}, `--until "then"`},
		"past":            {[]string{"tenants", "update", "acme", "--credits", "1", "--until", "2001-01-01T00:00:00Z"}, "in the past"},
		"until alone":     {[]string{"tenants", "update", "acme", "--until", "7d"}, "nothing to override"},
		"both":            {[]string{"tenants", "update", "acme", "--credits", "1", "--no-override"}, "not both"},
		"burst alone":     {[]string{"tenants", "update", "acme", "--burst", "1"}, "--burst needs --rate"},
		"a key's until":   {[]string{"keys", "update", "key_4fKq0ZbW81TnXyUc", "--until", "x"}, `--until "x"`},
		"usage's step":    {[]string{"usage", "--step", "week"}, "want minute, hour or day"},
		"usage's class":   {[]string{"usage", "--class", "600"}, "want one of"},
		"usage's by":      {[]string{"usage", "--by", "plan"}, "want tenant, key"},
		"two forms":       {[]string{"usage", "--csv", "--json"}, "not both"},
		"backwards":       {[]string{"usage", "--since", "1d", "--until", "2d"}, "not before"},
		"usage's since":   {[]string{"usage", "--since", "then"}, "want a time"},
		"history's since": {[]string{"credits", "history", "acme", "--since", "then"}, "want a time"},
	} {
		if _, errs, err := c.try("", v.args...); err == nil || !strings.Contains(errs, v.want) || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: %v %s", name, err, errs)
		}
	}
	if _, errs, err := c.try("", "usage"); err == nil || !strings.Contains(errs, "nothing is counted") {
		t.Errorf("no metering: %v %s", err, errs)
	}
	if tt := asJSON[mgmt.Tenant](c, "tenants", "show", "acme"); tt.Override != nil {
		t.Errorf("left %+v", tt)
	}
}

// A sum that no amount may have, and one that stopped at the greatest number,
// are shown as they are.
func TestMicros(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "7": 7e6, "0.25": 250_000, "-1.5": -1_500_000, "9223372036854.775807": 1<<63 - 1, "2000000000000": 2e18} {
		if got := micros(text); got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
}

// Credits that would bound nothing are refused, with what to do.
func TestCommandCreditsOfAPlanWithout(t *testing.T) {
	options := meteredOptions + "plan open {\n\tconcurrent 5\n}\n"
	g := newGateway(t, options, meteredSite)
	id, key := g.key("acme", hourly(1000))
	c := g.clerk(t)
	c.run("tenants", "update", "acme", "--plan", "open")
	for _, args := range [][]string{{"keys", "update", id.String()}, {"tenants", "update", "acme"}} {
		_, errs, err := c.try("", append(args, "--credits", "3")...)
		if err == nil {
			t.Errorf("%v: taken", args)
		}
		says(t, errs, "tenant acme is on plan open, which counts no credits", "hint: add `credits <n>/month` to the plan, or move the tenant")
	}
	c.run("tenants", "update", "acme", "--plan", "free")
	c.run("keys", "update", id.String(), "--credits", "1")
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 402)
}
