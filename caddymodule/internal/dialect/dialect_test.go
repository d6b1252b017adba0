package dialect

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

func compiled(t testing.TB, d *Dialect) *Compiled {
	t.Helper()
	c, err := d.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fullView is a key of which every field is set.
func fullView(t testing.TB) KeyView {
	t.Helper()
	id, err := access.ParseKeyID("key_abcdefghijklmnop")
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return KeyView{
		Key: &access.Key{
			KeyHead: access.KeyHead{
				ID: id, Status: access.StatusActive, Tenant: "acme", Environment: "live",
				Expires:  at("2030-01-01T00:00:00Z").Unix(),
				Rate:     access.Rate{Requests: 500, Burst: 600, Window: time.Minute},
				Rights:   access.NewRights([]string{"read", "write"}, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}),
				Previous: &access.Previous{Until: at("2025-03-02T00:00:00Z").Unix()},
			},
			Name: "Staging <1>", Description: "for \"tests\"", Prefix: "ak_live_a1b2", Metadata: map[string]string{"b": "2", "a": "1"},
			CreatedAt: at("2025-02-22T12:00:00Z"), RotatedAt: at("2025-03-01T00:00:00Z"),
		},
		Secret: "ak_live_secret", Plan: "free",
		Use:     access.Use{At: at("2025-02-23T01:02:03Z").Unix(), Address: netip.MustParseAddr("2001:db8::1"), Agent: "curl/8"},
		Limits:  []access.Rate{{Requests: 100, Burst: 100, Window: time.Minute}},
		Refusal: &RefusedBefore{Reason: access.Expired, At: at("2025-02-24T00:00:00Z").Unix()},
	}
}

const fullMembers = `"name":"Staging \u003c1\u003e","description":"for \"tests\"","prefix":"ak_live_a1b2","environment":"live",` +
	`"status":"active","permissions":["read","write"],"rate":{"requests":500,"window":"1m","burst":600},` +
	`"addresses":["203.0.113.0/24"],"metadata":{"a":"1","b":"2"},"plan":"free","tenant":"acme",` +
	`"created_at":"2025-02-22T12:00:00Z","expires_at":"2030-01-01T00:00:00Z","rotated_at":"2025-03-01T00:00:00Z",` +
	`"previous_expires_at":"2025-03-02T00:00:00Z","revoked_at":null,"last_used_at":"2025-02-23T01:02:03Z",` +
	`"last_used_address":"2001:db8::1","last_used_agent":"curl/8"`

func TestOwnBodies(t *testing.T) {
	c := compiled(t, new(Dialect))
	v := fullView(t)
	id := `{"id":"key_abcdefghijklmnop",`
	secret := `"key":"ak_live_secret",`
	for action, want := range map[string]string{
		Create: id + secret + fullMembers + "}\n",
		Rotate: id + secret + fullMembers + "}\n",
		Get:    id + fullMembers + "}\n",
		Update: id + fullMembers + "}\n",
		Me: id + fullMembers + `,"limits":[{"requests":100,"window":"1m","burst":100}],` +
			`"last_refusal":{"reason":"expired","at":"2025-02-24T00:00:00Z"}}` + "\n",
	} {
		if got := string(c.Key(action, v)); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", action, got, want)
		}
	}
	if got, want := string(c.List([]KeyView{v, v})), `{"keys":[`+id+fullMembers+`},`+id+fullMembers+"}]}\n"; got != want {
		t.Errorf("list: got\n%s\nwant\n%s", got, want)
	}
	if got := c.Revoke(v); got != nil {
		t.Errorf("revoke: %s", got)
	}
	for action, want := range map[string]int{Create: 201, List: 200, Get: 200, Update: 200, Rotate: 200, Revoke: 204, Me: 200} {
		if got := c.Shape(action).Status; got != want {
			t.Errorf("%s: status %d, want %d", action, got, want)
		}
	}
}

func TestBareKey(t *testing.T) {
	c := compiled(t, &Dialect{Fields: "camel", Time: "unix", Get: &Shape{
		Members: append(membersFor(Get), "rate_per_minute"), Wrap: "data", Extra: []Member{{"ok", "true", true}, {"more", "no", false}}}})
	got := string(c.Key(Get, KeyView{Key: &access.Key{CreatedAt: time.Unix(1, 0)}}))
	want := `{"data":{"id":"key_\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000\u0000",` +
		`"name":"","description":"","prefix":"","environment":"","status":"unknown","permissions":[],"rate":null,"addresses":[],` +
		`"metadata":{},"plan":null,"tenant":"","createdAt":1,"expiresAt":null,"rotatedAt":null,"previousExpiresAt":null,` +
		`"revokedAt":null,"lastUsedAt":null,"lastUsedAddress":null,"lastUsedAgent":null,"ratePerMinute":null},"ok":true,"more":"no"}` + "\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := string(c.List(nil)); got != "{\"keys\":[]}\n" {
		t.Errorf("empty list: %s", got)
	}
}

func TestEnvelopes(t *testing.T) {
	const message = "Invalid or missing API key"
	details := map[string]*Answer{"expired": {Details: map[string]string{
		"at": "it was {expired_at}", "id": "{key_id}", "wait": "{retry_after}", "empty": "{}", "open": "a{b"}}}
	v := Values{ExpiredAt: "then", RetryAfter: 7}
	for _, c := range []struct{ errors, static, dynamic string }{
		{"", `{"error":{"code":"unauthorized","message":"` + message + `"}}`,
			`{"error":{"code":"unauthorized","message":"` + message + `","details":{"at":"it was then","empty":"{}","open":"a{b","wait":7}}}`},
		{"success", `{"success":false,"error":{"code":"unauthorized","message":"` + message + `","details":{}}}`,
			`{"success":false,"error":{"code":"unauthorized","message":"` + message + `","details":{"at":"it was then","empty":"{}","open":"a{b","wait":7}}}`},
		{"flat", `{"code":"unauthorized","message":"` + message + `"}`,
			`{"code":"unauthorized","message":"` + message + `","at":"it was then","empty":"{}","open":"a{b","wait":7}`},
		{"problem", `{"type":"about:blank","title":"Unauthorized","status":401,"detail":"` + message + `","code":"unauthorized"}`,
			`{"type":"about:blank","title":"Unauthorized","status":401,"detail":"` + message + `","code":"unauthorized","at":"it was then","empty":"{}","open":"a{b","wait":7}`},
	} {
		d := compiled(t, &Dialect{Errors: c.errors, Reasons: details})
		static := d.Refusal(access.Unknown)
		if string(static.Body) != c.static+"\n" || static.Status != 401 || static.Dynamic {
			t.Errorf("%s: %d %v %s", c.errors, static.Status, static.Dynamic, static.Body)
		}
		if got := string(d.RefusalBody(access.Expired, v)); got != c.dynamic+"\n" || !d.Refusal(access.Expired).Dynamic {
			t.Errorf("%s: got\n%s\nwant\n%s", c.errors, got, c.dynamic)
		}
		if problem := static.ContentType == "application/problem+json"; problem != (c.errors == "problem") {
			t.Errorf("%s: content type %s", c.errors, static.ContentType)
		}
	}
}

// TestReasonsMatchTheTable: without a dialect every reason says what the table
// of reasons says, and every body is JSON in every envelope.
func TestReasonsMatchTheTable(t *testing.T) {
	for _, errors := range []string{"", "success", "flat", "problem"} {
		c := compiled(t, &Dialect{Errors: errors, Codes: "upper"})
		for i := range access.NumReasons {
			r := access.Reason(i)
			if r.LetsIn() {
				continue
			}
			got := c.Refusal(r)
			if !json.Valid(got.Body) || got.Status != r.Answer().Status || !strings.Contains(string(got.Body), strings.ToUpper(r.Answer().Code)) {
				t.Errorf("%s: %d %s", r, got.Status, got.Body)
			}
		}
	}
}

func TestRefusalDoesNotAllocate(t *testing.T) {
	c := compiled(t, new(Dialect))
	var sum int
	if n := testing.AllocsPerRun(100, func() { sum += c.Refusal(access.Unknown).Status }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestManagementErrors(t *testing.T) {
	d := &Dialect{
		Fields: "camel", Names: map[string]string{"rate_per_minute": "rpm"},
		Create: &Shape{Inputs: []string{"name", "expires_in_days", "rate_per_minute"}},
		Update: &Shape{Inputs: []string{"name"}},
		Reasons: map[string]*Answer{
			"conflict":  {Status: 422, Code: "Busy", Message: "no"},
			"not_found": {Message: "Nothing here"},
			"exists":    {Details: map[string]string{"where": "{field}"}},
		},
	}
	c := compiled(t, d)
	for _, tt := range []struct {
		status            int
		code, field, hint string
		wantStatus        int
		want              string
	}{
		{400, "invalid_request", "expires_at", "", 400, `{"error":{"code":"invalid_request","message":"m","details":{"field":"expiresInDays"}}}`},
		{400, "invalid_request", "rate", "h", 400, `{"error":{"code":"invalid_request","message":"m","details":{"field":"rpm","hint":"h"}}}`},
		{400, "invalid_request", "nope", "", 400, `{"error":{"code":"invalid_request","message":"m","details":{"field":"nope"}}}`},
		{409, "conflict", "", "", 422, `{"error":{"code":"Busy","message":"no"}}`},
		{404, "not_found", "", "", 404, `{"error":{"code":"not_found","message":"Nothing here"}}`},
		{409, "exists", "name", "h", 409, `{"error":{"code":"exists","message":"m","details":{"where":"name"}}}`},
		{500, "internal", "", "", 500, `{"error":{"code":"internal","message":"m"}}`},
	} {
		status, body, contentType := c.Error(tt.status, tt.code, "m", tt.field, tt.hint, Values{})
		if status != tt.wantStatus || string(body) != tt.want+"\n" || contentType != "application/json" {
			t.Errorf("%s: %d %s", tt.code, status, body)
		}
	}
	if f := c.Foreign(); f.Status != 404 || string(f.Body) != `{"error":{"code":"not_found","message":"Nothing here"}}`+"\n" {
		t.Errorf("foreign: %d %s", f.Status, f.Body)
	}
	d.Foreign = 403
	c = compiled(t, d)
	if f := c.Foreign(); f.Status != 403 || string(f.Body) != string(c.Refusal(access.WrongTenant).Body) {
		t.Errorf("foreign: %d %s", f.Status, f.Body)
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	long := strings.Repeat("x", 65)
	for _, c := range []struct {
		d    Dialect
		want string
	}{
		{Dialect{Errors: "html"}, `errors "html": want one of standard, success, problem, flat`},
		{Dialect{Codes: "Upper"}, "codes"},
		{Dialect{Fields: "kebab"}, "snake, camel"},
		{Dialect{Time: "iso"}, "rfc3339"},
		{Dialect{Unknown: "drop"}, "refuse, ignore"},
		{Dialect{Reset: "never"}, "epoch"},
		{Dialect{RateHeaders: "all"}, "draft"},
		{Dialect{Foreign: 410}, "want 403 or 404"},
		{Dialect{Realm: `a"b`}, "realm"},
		{Dialect{Realm: long}, "realm"},
		{Dialect{Names: map[string]string{"nome": "x"}}, "there is no field nome"},
		{Dialect{Names: map[string]string{"name": "a b"}}, "no name for a member"},
		{Dialect{Names: map[string]string{"name": long}}, "no name for a member"},
		{Dialect{Names: map[string]string{"name": "id"}}, "are both named id"},
		{Dialect{Reasons: map[string]*Answer{"expird": {}}}, "there is no reason expird"},
		{Dialect{Reasons: map[string]*Answer{"allowed": {}}}, "there is no reason allowed"},
		{Dialect{Reasons: map[string]*Answer{"expired": nil}}, "error expired"},
		{Dialect{Reasons: map[string]*Answer{"expired": {Status: 200}}}, "400 to 599"},
		{Dialect{Reasons: map[string]*Answer{"expired": {Code: "a b"}}}, "code"},
		{Dialect{Reasons: map[string]*Answer{"expired": {Message: "a\nb"}}}, "control"},
		{Dialect{Reasons: map[string]*Answer{"expired": {Details: map[string]string{"a": "{secret}"}}}}, "there is no {secret}"},
		{Dialect{Reasons: map[string]*Answer{"expired": {Details: map[string]string{"a b": "x"}}}}, "detail"},
		{Dialect{Errors: "flat", Reasons: map[string]*Answer{"expired": {Details: map[string]string{"code": "x"}}}}, "choose another"},
		{Dialect{Errors: "problem", Reasons: map[string]*Answer{"expired": {Details: map[string]string{"title": "x"}}}}, "choose another"},
		{Dialect{Get: &Shape{Members: []string{"id", "key"}}}, "get: members: there is no key here"},
		{Dialect{List: &Shape{Members: []string{"limits"}}}, "there is no limits here"},
		{Dialect{Get: &Shape{Members: []string{"id", "id"}}}, "listed twice"},
		{Dialect{Get: &Shape{Status: 404}}, "200 to 299"},
		{Dialect{Get: &Shape{Status: 204}}, "has no body"},
		{Dialect{Revoke: &Shape{Status: 204}}, "add empty"},
		{Dialect{Get: &Shape{Array: true}}, "list alone"},
		{Dialect{Get: &Shape{Empty: true}}, "update and revoke alone"},
		{Dialect{Revoke: &Shape{Empty: true, Wrap: "x"}}, "empty answer has no members"},
		{Dialect{List: &Shape{Array: true, Wrap: "x"}}, "bare array"},
		{Dialect{List: &Shape{Array: true, Extra: []Member{{Name: "a", Value: "b"}}}}, "no place for member a"},
		{Dialect{Get: &Shape{Inputs: []string{"name"}}}, "create, update and rotate alone"},
		{Dialect{Create: &Shape{Inputs: []string{"tenant"}}}, "there is no tenant here"},
		{Dialect{Create: &Shape{Inputs: []string{"name"}, Required: []string{"permissions"}}}, "add it to input"},
		{Dialect{Create: &Shape{Required: []string{"expires_at", "expires_in_days"}}}, "want one of expires_at"},
		{Dialect{Get: &Shape{Filters: []string{"status"}}}, "list alone"},
		{Dialect{List: &Shape{Filters: []string{"id"}}}, "filter: there is no id here"},
		{Dialect{Get: &Shape{Grace: "1h"}}, "rotate alone"},
		{Dialect{Rotate: &Shape{Grace: "soon"}}, `grace "soon"`},
		{Dialect{Rotate: &Shape{Grace: "1500ms"}}, "whole seconds"},
		{Dialect{Get: &Shape{Wrap: "a b"}}, "wrap"},
		{Dialect{Get: &Shape{Extra: []Member{{Name: "id", Value: "b"}}}}, "has a member of that name"},
		{Dialect{Get: &Shape{Wrap: "data", Extra: []Member{{Name: "data", Value: "b"}}}}, "has a member of that name"},
		{Dialect{Get: &Shape{Extra: []Member{{Name: "a", Value: "b\x00"}}}}, "member a"},
		{Dialect{Get: &Shape{Extra: []Member{{"a", "yes", true}}}}, "is not JSON"},
	} {
		_, err := c.d.Compile()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

// TestCloneSharesNothing: a dialect that starts from a preset leaves the preset
// alone, and JSON keeps all of it.
func TestCloneSharesNothing(t *testing.T) {
	d := &Dialect{
		Names:   map[string]string{"id": "key_id"},
		Reasons: map[string]*Answer{"expired": {Details: map[string]string{"a": "b"}}},
		Create:  &Shape{Members: []string{"id"}, Inputs: []string{}, Extra: []Member{{Name: "a", Value: "b"}}},
		List:    &Shape{Filters: []string{}},
	}
	before, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	out := d.Clone()
	out.Names["id"], out.Reasons["expired"].Details["a"] = "x", "x"
	out.Create.Members[0], out.Create.Extra[0].Value = "name", "x"
	out.List.Filters = nil
	after, _ := json.Marshal(d)
	if string(before) != string(after) {
		t.Errorf("changed: %s", after)
	}
	var back Dialect
	if err := json.Unmarshal(before, &back); err != nil {
		t.Fatal(err)
	}
	if s := compiled(t, &back).Shape(Create); s.Inputs == nil || len(s.Inputs) != 0 {
		t.Errorf("inputs none came back as %v", s.Inputs)
	}
	if s := compiled(t, &back).Shape(List); len(s.Filters) != 0 {
		t.Errorf("filter none came back as %v", s.Filters)
	}
}
