package mgmt_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

const (
	providerBase = "/v1/provider-keys"
	sample       = "sk_Sample0123456789xyzw" // a provider key that no answer may hold
)

// judge is what verifies: it says what it is told to, and notes that as the
// server does.
type judge struct {
	d       *door
	verdict mgmt.ProviderVerdict
	err     error
	asked   []string
	actor   access.Actor
}

func (j *judge) verify(ctx context.Context, tenant, provider string) (mgmt.ProviderVerdict, error) {
	j.asked = append(j.asked, tenant+" "+provider)
	k, err := j.d.reg.ProviderKey(ctx, tenant, provider)
	if err == nil && j.err == nil {
		err = j.d.reg.RecordProviderVerified(ctx, tenant, provider, k.ID, j.verdict.Valid)
	}
	return j.verdict, errors.Join(j.err, err)
}

// providerDesk is the door to the provider keys of a tenant of its own.
func (d *door) providerDesk(tenant string, dl *dialect.Dialect) (*desk, *judge) {
	d.t.Helper()
	j := &judge{d: d}
	return d.desk(d.tenant(tenant).ID, dl, func(o *mgmt.DeskOptions) {
		o.Kind, o.Base, o.Verify = mgmt.DeskProviderKeys, providerBase, j.verify
	}), j
}

// try sends a request of which the answer may not hold the key.
func (k *desk) try(method, path, body string, header ...string) *httptest.ResponseRecorder {
	k.t.Helper()
	w := k.send(method, path, body, header...)
	if text := whole(w); strings.Contains(text, sample) || strings.Contains(text, "pk_") || strings.Contains(text, "caddy keytoll") {
		k.t.Errorf("%s %s shows what it must not:\n%s", method, path, text)
	}
	return w
}

func TestDeskProviderKeys(t *testing.T) {
	d := newDoor(t)
	k, j := d.providerDesk("acme", &dialect.Dialect{Fields: "camel"})
	if w := k.try("GET", providerBase, ""); w.Code != 200 || w.Body.String() != `{"providerKeys":[]}`+"\n" {
		t.Errorf("none: %d %s", w.Code, w.Body)
	}
	store := `{"provider":"elevenlabs","apiKey":"` + sample + `"}`
	for i, status := range []int{201, 200} {
		w := k.try("POST", providerBase, store)
		if w.Code != status || w.Header().Get("Content-Type") != "application/json" || !strings.HasPrefix(w.Body.String(), `{"provider":"elevenlabs","lastFour":"xyzw","createdAt":"`) ||
			!strings.HasSuffix(w.Body.String(), `,"lastUsedAt":null,"lastVerifiedAt":null,"valid":null}`+"\n") {
			t.Errorf("stored %d: %d %s", i, w.Code, w.Body)
		}
	}
	one := providerBase + "/elevenlabs"
	for _, v := range []mgmt.ProviderVerdict{{Reason: "unauthorized"}, {Valid: true}} {
		j.verdict = v
		w := k.try("POST", one+"/verify", "")
		want := map[bool]string{true: `{"provider":"elevenlabs","valid":true,"reason":null}`, false: `{"provider":"elevenlabs","valid":false,"reason":"unauthorized"}`}[v.Valid]
		if w.Code != 200 || w.Body.String() != want+"\n" {
			t.Errorf("verify: %d %s", w.Code, w.Body)
		}
		if w := k.try("GET", providerBase+"/", ""); !strings.Contains(w.Body.String(), `"valid":`+map[bool]string{true: "true", false: "false"}[v.Valid]+"}]}") {
			t.Errorf("after it: %s", w.Body)
		}
	}
	if !slices.Equal(j.asked, []string{"acme elevenlabs", "acme elevenlabs"}) {
		t.Errorf("asked %v", j.asked)
	}
	if w := k.try("DELETE", one, ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("deleted: %d %s", w.Code, w.Body)
	}
	if w := k.try("DELETE", one, ""); w.Code != 404 {
		t.Errorf("deleted twice: %d %s", w.Code, w.Body)
	}
	trail, err := d.client.Audit(mgmt.AuditFilter{Tenant: "acme", Actor: k.caller}, mgmt.Page{})
	var actions []string
	for _, e := range trail.Entries {
		actions = append(actions, e.Action)
	}
	if text, _ := json.Marshal(trail); err != nil || strings.Contains(string(text), sample) || strings.Contains(string(text), "xyzw") ||
		!slices.Equal(actions, []string{"provider_key.stored", "provider_key.replaced", "provider_key.verified", "provider_key.verified", "provider_key.deleted"}) {
		t.Errorf("audit %v, %v\n%s", actions, err, text)
	}
}

func TestDeskProviderKeysBadInput(t *testing.T) {
	d := newDoor(t)
	k, _ := d.providerDesk("acme", &dialect.Dialect{})
	key := `"api_key":"` + sample + `"`
	for name, c := range map[string]struct {
		method, tail, body string
		status             int
		says               string
	}{
		"nothing":             {"POST", "", ``, 400, "provider is required"},
		"no key":              {"POST", "", `{"provider":"openai"}`, 400, "api_key is required"},
		"no provider":         {"POST", "", `{` + key + `}`, 400, "provider is required"},
		"changed places":      {"POST", "", `{"provider":"` + sample + `","api_key":"elevenlabs"}`, 400, `"field":"provider"`},
		"unknown provider":    {"POST", "", `{"provider":"sk-0a1b2c3d4e5f",` + key + `}`, 400, `there is no provider of that name`},
		"another case":        {"POST", "", `{"provider":"OpenAI",` + key + `}`, 400, `"field":"provider"`},
		"key with a space":    {"POST", "", `{"provider":"openai","api_key":"` + sample + ` x"}`, 400, `"field":"api_key"`},
		"key beyond ASCII":    {"POST", "", `{"provider":"openai","api_key":"` + sample + `ä"}`, 400, `"field":"api_key"`},
		"long key":            {"POST", "", `{"provider":"openai","api_key":"` + sample + strings.Repeat("x", 4096) + `"}`, 400, `"field":"api_key"`},
		"list of keys":        {"POST", "", `{"provider":"openai","api_key":["` + sample + `"]}`, 400, `"field":"api_key"`},
		"unknown member":      {"POST", "", `{"provider":"openai","tenant":"other",` + key + `}`, 400, `"tenant"`},
		"member twice":        {"POST", "", `{"provider":"openai",` + key + `,` + key + `}`, 400, `"api_key"`},
		"not JSON":            {"POST", "", `{` + key, 400, "not valid JSON"},
		"too long":            {"POST", "", `{` + key + `,"x":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "body_too_large"},
		"query":               {"POST", "?provider=openai", `{}`, 400, "provider"},
		"filter":              {"GET", "?limit=5", "", 400, "limit"},
		"delete's query":      {"DELETE", "/openai?force=1", "", 400, "force"},
		"verify's body":       {"POST", "/openai/verify", `{` + key + `}`, 400, `"api_key"`},
		"verify's query":      {"POST", "/openai/verify?x=1", "", 400, `"x"`},
		"method of all":       {"PUT", "", `{}`, 405, "method_not_allowed"},
		"method of one":       {"GET", "/openai", "", 405, "method_not_allowed"},
		"method of verify":    {"GET", "/openai/verify", "", 405, "method_not_allowed"},
		"path":                {"POST", "/openai/rotate", "", 404, "not_found"},
		"deeper path":         {"POST", "/openai/verify/", "", 404, "not_found"},
		"path of a neighbour": {"GET", "s", "", 404, "not_found"},
		"hidden slash":        {"POST", "/openai%2Fverify", "", 404, "not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			k.t = t
			w := k.try(c.method, providerBase+c.tail, c.body)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) || strings.Contains(w.Body.String(), "0a1b2c3d4e5f") {
				t.Errorf("%d %s, want %d and %s", w.Code, w.Body, c.status, c.says)
			}
		})
	}
	k.t = t
	if w := k.try("POST", providerBase, `{"provider":"openai",`+key+`}`, "Content-Type", "text/plain"); w.Code != 415 {
		t.Errorf("text: %d %s", w.Code, w.Body)
	}
	if w := k.try("PUT", providerBase, ""); w.Header().Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("Allow %q", w.Header().Get("Allow"))
	}
	if list, err := d.client.ProviderKeys("acme"); err != nil || len(list.ProviderKeys) != 0 {
		t.Errorf("bad input left %+v, %v", list, err)
	}
}

// What a tenant has no key for is one answer, whoever else has one and whether
// there is such a provider, in a dialect of either status for foreign ids.
func TestDeskProviderKeysIsolation(t *testing.T) {
	for _, foreign := range []int{403, 404} {
		d := newDoor(t)
		other, _ := d.providerDesk("other", &dialect.Dialect{})
		if w := other.try("POST", providerBase, `{"provider":"elevenlabs","api_key":"`+sample+`"}`); w.Code != 201 {
			t.Fatal(w.Code, w.Body)
		}
		k, j := d.providerDesk("acme", &dialect.Dialect{Foreign: foreign})
		for _, c := range [][2]string{{"DELETE", ""}, {"POST", "/verify"}} {
			answers := map[string]bool{}
			for _, name := range []string{"elevenlabs", "openai", "nobody", "ElevenLabs", "a%20b", "%00", strings.Repeat("x", 500)} {
				w := k.try(c[0], providerBase+"/"+name+c[1], "")
				if answers[whole(w)] = true; w.Code != 404 {
					t.Errorf("%s %s: %d", c[0], name, w.Code)
				}
			}
			if len(answers) != 1 {
				t.Errorf("%s %s: %d answers: %v", c[0], c[1], len(answers), answers)
			}
		}
		if len(j.asked) != 0 {
			t.Errorf("asked %v", j.asked)
		}
		if w := k.try("GET", providerBase, ""); strings.Contains(w.Body.String(), "elevenlabs") {
			t.Errorf("another tenant's: %s", w.Body)
		}
		if list, err := d.client.ProviderKeys("other"); err != nil || len(list.ProviderKeys) != 1 {
			t.Errorf("the other tenant has %+v, %v", list, err)
		}
	}
}

func TestDeskVerifyRefusals(t *testing.T) {
	d := newDoor(t)
	k, j := d.providerDesk("acme", &dialect.Dialect{Codes: "upper", Reasons: map[string]*dialect.Answer{
		"rate_limited": {Details: map[string]string{"wait": "{retry_after}"}}, "upstream_failed": {Code: "PROVIDER_DOWN"}}})
	k.try("POST", providerBase, `{"provider":"openai","api_key":"`+sample+`"}`)
	path := providerBase + "/openai/verify"
	for name, c := range map[string]struct {
		err    error
		status int
		retry  string
		says   []string
	}{
		"too often":   {mgmt.TooMany(1500 * time.Millisecond), 429, "2", []string{`"code":"RATE_LIMIT_EXCEEDED"`, `"wait":2`}},
		"just now":    {mgmt.TooMany(0), 429, "1", []string{`"wait":1`}},
		"no verify":   {mgmt.NoVerify("openai"), 400, "", []string{`"field":"provider"`, "cannot be verified"}},
		"unreachable": {mgmt.Unreachable("openai", errors.New("dial 10.0.0.1")), 502, "", []string{`"code":"PROVIDER_DOWN"`, "could not be reached"}},
		"replaced":    {&registrar.Error{Code: registrar.NotFound, Message: "pk_other"}, 404, "", []string{"NOT_FOUND"}},
		"fault":       {errors.New("disk"), 500, "", []string{"INTERNAL"}},
	} {
		j.err = c.err
		w := k.try("POST", path, "{}")
		for _, s := range c.says {
			if !strings.Contains(w.Body.String(), s) {
				t.Errorf("%s: no %s in %s", name, s, w.Body)
			}
		}
		if w.Code != c.status || w.Header().Get("Retry-After") != c.retry || strings.Contains(w.Body.String(), "10.0.0.1") {
			t.Errorf("%s: %d, Retry-After %q: %s", name, w.Code, w.Header().Get("Retry-After"), w.Body)
		}
	}
	list, err := d.client.ProviderKeys("acme")
	if err != nil || len(list.ProviderKeys) != 1 || list.ProviderKeys[0].LastVerifiedAt != nil {
		t.Errorf("refusals left %+v, %v", list, err)
	}
}

// Each action has its own permission, and a caller that was good when it was let
// in may be so no longer.
func TestDeskProviderKeysRequire(t *testing.T) {
	d := newDoor(t)
	k, j := d.providerDesk("acme", &dialect.Dialect{})
	k.try("POST", providerBase, `{"provider":"openai","api_key":"`+sample+`"}`)
	requests := map[string][3]string{
		mgmt.ActionStore: {"POST", "", `{"provider":"openai","api_key":"` + sample + `"}`}, mgmt.ActionList: {"GET", "", ""},
		mgmt.ActionVerify: {"POST", "/openai/verify", ""}, mgmt.ActionDelete: {"DELETE", "/nobody", ""},
	}
	k.o.Holds = func(_ mgmt.Caller, need []string) bool { return false }
	for action := range requests {
		k.o.Require = map[string][]string{action: {"byok"}}
		for other, r := range requests {
			if w := k.try(r[0], providerBase+r[1], r[2]); (w.Code == 403) != (action == other) {
				t.Errorf("%s needs a permission, and %s is answered %d", action, other, w.Code)
			}
		}
	}
	k.o.Require = nil
	if _, err := d.client.RevokeKey(k.caller); err != nil {
		t.Fatal(err)
	}
	asked := len(j.asked)
	for action, r := range requests {
		if w := k.try(r[0], providerBase+r[1], r[2]); w.Code != 403 {
			t.Errorf("%s by a revoked caller: %d %s", action, w.Code, w.Body)
		}
	}
	if len(j.asked) != asked {
		t.Error("a revoked caller had a provider asked")
	}
}

func TestOperatorProviderKeys(t *testing.T) {
	d := newDoor(t)
	d.tenant("acme")
	j := &judge{d: d, verdict: mgmt.ProviderVerdict{Reason: "forbidden"}}
	const all = "/keytoll/v1/tenants/acme/provider-keys"
	d.want(d.send("POST", all+"/openai/verify", ""), 503, "unavailable", "")
	d.want(d.send("POST", "/keytoll/v1/rekey", ""), 503, "unavailable", "")
	d.handler.Verify = j.verify
	for _, status := range []int{201, 200} {
		w := d.send("PUT", all+"/openai", `{"api_key":"`+sample+`"}`)
		if w.Code != status || !strings.HasPrefix(w.Body.String(), `{"provider":"openai","last_four":"xyzw","created_at":"`) ||
			!strings.HasSuffix(w.Body.String(), `"last_used_at":null,"last_verified_at":null,"valid":null}`+"\n") {
			t.Errorf("stored: %d %s", w.Code, w.Body)
		}
	}
	v, err := d.client.VerifyProviderKey("acme", "openai")
	if err != nil || v != (mgmt.ProviderVerdict{Provider: "openai", Reason: "forbidden"}) {
		t.Errorf("verdict %+v, %v", v, err)
	}
	list, err := d.client.ProviderKeys("acme")
	if err != nil || len(list.ProviderKeys) != 1 || list.ProviderKeys[0].Provider != "openai" || list.ProviderKeys[0].LastFour != "xyzw" ||
		list.ProviderKeys[0].LastVerifiedAt == nil || *list.ProviderKeys[0].Valid || list.ProviderKeys[0].LastUsedAt != nil {
		t.Errorf("list %+v, %v", list, err)
	}
	j.err = mgmt.TooMany(7 * time.Second)
	w := d.send("POST", all+"/openai/verify", "")
	if d.want(w, 429, "rate_limit_exceeded", ""); w.Header().Get("Retry-After") != "7" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	j.err = mgmt.Unreachable("openai", errors.New("10.0.0.1 is private"))
	if w := d.send("POST", all+"/openai/verify", ""); w.Code != 502 || !strings.Contains(w.Body.String(), `"code":"bad_gateway"`) || !strings.Contains(w.Body.String(), "10.0.0.1 is private") {
		t.Errorf("unreachable: %d %s", w.Code, w.Body)
	}
	if err := d.client.DeleteProviderKey("acme", "openai"); err != nil {
		t.Error(err)
	}
	for _, err := range []error{d.client.DeleteProviderKey("acme", "openai"), d.client.DeleteProviderKey("acme", "no/thing"), d.client.DeleteProviderKey("nobody", "openai")} {
		if refusedWith(err) != 404 {
			t.Errorf("deleted what is not there: %v", err)
		}
	}
}

func TestOperatorProviderKeysBadInput(t *testing.T) {
	d := newDoor(t)
	d.tenant("acme")
	d.handler.Rekey = func(context.Context) (mgmt.RekeyReport, error) { return mgmt.RekeyReport{}, nil }
	const all = "/keytoll/v1/tenants/acme/provider-keys"
	for name, c := range map[string]struct{ method, path, body, field string }{
		"no key":           {"PUT", all + "/openai", `{}`, "api_key"},
		"empty":            {"PUT", all + "/openai", `{"api_key":""}`, "api_key"},
		"number":           {"PUT", all + "/openai", `{"api_key":733173317331}`, "api_key"},
		"space":            {"PUT", all + "/openai", `{"api_key":"` + sample + ` 1"}`, "api_key"},
		"long":             {"PUT", all + "/openai", `{"api_key":"` + strings.Repeat(sample, 200) + `"}`, "api_key"},
		"unknown":          {"PUT", all + "/openai", `{"api_key":"` + sample + `","provider":"x"}`, "provider"},
		"unknown provider": {"PUT", all + "/groq", `{"api_key":"` + sample + `"}`, "provider"},
		"parameter":        {"PUT", all + "/openai?x=1", `{"api_key":"` + sample + `"}`, "x"},
		"list's":           {"GET", all + "?limit=1", "", "limit"},
		"delete's":         {"DELETE", all + "/openai?x=1", "", "x"},
		"verify's":         {"POST", all + "/openai/verify?x=1", "", "x"},
		"rekey's":          {"POST", "/keytoll/v1/rekey?all=1", "", "all"},
	} {
		t.Run(name, func(t *testing.T) {
			d.t = t
			w := d.send(c.method, c.path, c.body)
			d.want(w, 400, "invalid_request", c.field)
			if strings.Contains(w.Body.String(), sample) || strings.Contains(w.Body.String(), "7331") {
				t.Errorf("the key is in %s", w.Body)
			}
		})
	}
	d.t = t
	if w := d.send("POST", all, `{}`); w.Code != 405 || w.Header().Get("Allow") != "GET" {
		t.Errorf("POST: %d %v", w.Code, w.Header())
	}
	if list, err := d.client.ProviderKeys("acme"); err != nil || len(list.ProviderKeys) != 0 {
		t.Errorf("bad input left %+v, %v", list, err)
	}
}

func TestOperatorRekey(t *testing.T) {
	d := newDoor(t)
	report, err := mgmt.RekeyReport{Tenants: 3, Keys: 5, Pending: 2}, error(nil)
	d.handler.Rekey = func(context.Context) (mgmt.RekeyReport, error) { return report, err }
	if w := d.send("POST", "/keytoll/v1/rekey", ""); w.Code != 200 || w.Body.String() != `{"tenants":3,"keys":5,"pending":2,"done":false}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	err = &registrar.Error{Code: registrar.Conflict, Message: "tenant acme"}
	if _, got := d.client.Rekey(); refusedWith(got) != 409 {
		t.Errorf("a conflict that ended it early: %v", got)
	}
	report.Done = true
	if got, err := d.client.Rekey(); err != nil || got != (mgmt.RekeyReport{Tenants: 3, Keys: 5, Pending: 2, Done: true, Failed: "tenant acme"}) {
		t.Errorf("%+v, %v", got, err)
	}
	err = &registrar.Error{Code: registrar.Unavailable, Message: "no KMS"}
	if _, got := d.client.Rekey(); refusedWith(got) != 503 {
		t.Errorf("unavailable: %v", got)
	}
}

// A desk seals and a registrar opens the very key.
func TestProviderKeyComesBack(t *testing.T) {
	d := newDoor(t)
	k, _ := d.providerDesk("acme", &dialect.Dialect{Names: map[string]string{"api_key": "secret"}, Unknown: "ignore"})
	if w := k.try("POST", providerBase, `{"provider":"openai","secret":"`+sample+`","api_key":"other"}`); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	p, err := d.reg.ProviderKey(t.Context(), "acme", "openai")
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := d.reg.UnsealProviderKey(t.Context(), "acme", "openai", p.ID); err != nil || string(plain) != sample {
		t.Errorf("%s, %v", plain, err)
	}
}
