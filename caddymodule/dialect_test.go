package caddymodule

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
)

// dialectOf compiles a preset.
func dialectOf(t testing.TB, preset string) *dialect.Compiled {
	t.Helper()
	dl, err := presetDialect(preset)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dl.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dialectParse reads one dialect option from Caddyfile text.
func dialectParse(text string, known map[string]*dialect.Dialect) (string, *dialect.Dialect, error) {
	tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
	if err != nil {
		return "", nil, err
	}
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	return parseDialect(d, known)
}

func dialectView() dialect.KeyView {
	id, err := access.ParseKeyID("key_abcdefghijklmnop")
	if err != nil {
		panic(err)
	}
	return dialect.KeyView{
		Key: &access.Key{
			KeyHead: access.KeyHead{
				ID: id, Status: access.StatusActive, Tenant: "acme", Expires: 1893456000,
				Rate:   access.Rate{Requests: 500, Burst: 500, Window: time.Minute},
				Rights: access.NewRights([]string{"verify"}, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}),
			},
			Name: "Production", Description: "for production", Prefix: "psk_a1b2c3",
			CreatedAt: time.Unix(1740225600, 0),
		},
		Secret: "the-secret",
		Use:    access.Use{At: 1740320523},
	}
}

// TestPresetErrors holds the error bodies against those that the documents
// print, byte by byte but for white space.
func TestPresetErrors(t *testing.T) {
	v := dialect.Values{KeyID: "key_1234567890", ExpiredAt: "2024-01-01T00:00:00Z", Header: "Authorization"}
	const s1key, s2key = `{"error":{"code":"unauthorized","message":"Invalid or missing API key"}}`, `{"error":{"code":"unauthorized","message":"Invalid API key provided"}}`
	const s1no = `{"error":{"code":"forbidden","message":"API key does not have permission for this resource"}}`
	const s2no = `{"error":{"code":"forbidden","message":"Your plan doesn't include access to this feature"}}`
	const limit = `{"error":{"code":"rate_limit_exceeded","message":"Rate limit exceeded. Please try again later."}}`
	s3 := func(code, message, details string) string {
		return `{"success":false,"error":{"code":"` + code + `","message":"` + message + `","details":{` + details + `}}}`
	}
	s3bad := s3("INVALID_API_KEY", "The provided API key is invalid", `"key_id":"key_1234567890"`)
	s3no := s3("INSUFFICIENT_PERMISSIONS", "API key does not have permission for this resource", "")
	for preset, rows := range map[string]map[access.Reason]string{
		"prosodyai": {
			access.Missing: s1key, access.Malformed: s1key, access.Unknown: s1key, access.Revoked: s1key, access.Disabled: s1key,
			access.Suspended: s1key, access.Expired: s1key, access.Forbidden: s1no, access.WrongTenant: s1no, access.RateLimited: limit,
		},
		"audiopod": {
			access.Missing: s2key, access.Malformed: s2key, access.Unknown: s2key, access.Revoked: s2key, access.Disabled: s2key,
			access.Suspended: s2key, access.Expired: s2key, access.PlanRestricted: s2no, access.Forbidden: s2no, access.WrongTenant: s2no,
			access.RateLimited: limit,
		},
		"example": {
			access.Missing:   s3("MISSING_API_KEY", "API key is required", `"header":"Authorization"`),
			access.Malformed: s3("INVALID_API_KEY", "The provided API key is invalid", ""),
			access.Unknown:   s3("INVALID_API_KEY", "The provided API key is invalid", ""),
			access.Revoked:   s3bad, access.Disabled: s3bad, access.Suspended: s3bad,
			access.Expired:   s3("EXPIRED_API_KEY", "The API key has expired", `"expired_at":"2024-01-01T00:00:00Z"`),
			access.Forbidden: s3no, access.WrongTenant: s3no,
			access.PlanRestricted:    s3("PLAN_RESTRICTED", "Your plan doesn't include access to this feature", ""),
			access.AddressNotAllowed: s3("IP_NOT_ALLOWED", "This API key may not be used from this address", ""),
			access.InsecureTransport: s3("INSECURE_TRANSPORT", "Use https: API keys are not accepted over cleartext http", ""),
			access.Ambiguous:         s3("INVALID_REQUEST", "The request carries two different credentials", ""),
			access.RateLimited:       s3("RATE_LIMIT_EXCEEDED", "Rate limit exceeded. Please try again later.", ""),
			access.Throttled:         s3("RATE_LIMIT_EXCEEDED", "Too many failed attempts. Please try again later.", ""),
		},
		"personalabs": {access.Missing: s1key, access.Unknown: s1key, access.Forbidden: s1no, access.RateLimited: limit},
		"prosopo":     {access.Missing: s1key, access.Unknown: s1key, access.Forbidden: s1no, access.RateLimited: limit},
	} {
		c := dialectOf(t, preset)
		for reason, want := range rows {
			got := c.Refusal(reason)
			if got.Status != reason.Answer().Status || got.ContentType != "application/json" {
				t.Errorf("%s %s: %d %s", preset, reason, got.Status, got.ContentType)
			}
			body := got.Body
			if got.Dynamic {
				body = c.RefusalBody(reason, v)
			}
			if string(body) != want+"\n" {
				t.Errorf("%s %s: got\n%s\nwant\n%s", preset, reason, body, want)
			}
		}
	}
}

const (
	dialectID  = `"id":"key_abcdefghijklmnop"`
	dialectS1  = dialectID + `,"name":"Production","prefix":"psk_a1b2c3","created_at":"2025-02-22T12:00:00Z","last_used_at":"2025-02-23T14:22:03Z","expires_at":"2030-01-01T00:00:00Z","rate_limit":500`
	dialectS2  = `"name":"Production","description":"for production","status":"active","prefix":"psk_a1b2c3","created_at":"2025-02-22T12:00:00Z","expires_at":"2030-01-01T00:00:00Z"`
	dialectS4  = `"name":"Production","prefix":"psk_a1b2c3","createdAt":"2025-02-22T12:00:00Z","expiresAt":"2030-01-01T00:00:00Z"`
	dialectS5  = `"name":"Production","permissions":["verify"],"createdAt":"2025-02-22T12:00:00Z","expiresAt":"2030-01-01T00:00:00Z"`
	dialectKey = `"key":"the-secret"`
)

func TestPresetAnswers(t *testing.T) {
	for _, c := range []struct {
		preset, action, want string
		status               int
	}{
		{"prosodyai", dialect.Create, `{"api_key":{` + dialectID + `,` + dialectKey + `,"name":"Production","created_at":"2025-02-22T12:00:00Z"},"message":"Save this key now - it will not be shown again."}`, 201},
		{"prosodyai", dialect.List, `{"api_keys":[{` + dialectS1 + `}]}`, 200},
		{"prosodyai", dialect.Get, `{"api_key":{` + dialectS1 + `}}`, 200},
		{"prosodyai", dialect.Revoke, ``, 204},
		{"audiopod", dialect.Create, `{` + dialectID + `,` + dialectKey + `,` + dialectS2 + `}`, 201},
		{"audiopod", dialect.List, `[{` + dialectID + `,` + dialectS2 + `,"last_used_at":"2025-02-23T14:22:03Z"}]`, 200},
		{"audiopod", dialect.Revoke, `{` + dialectID + `,"status":"active"}`, 200},
		{"example", dialect.Revoke, ``, 204},
		{"personalabs", dialect.Create, `{` + dialectID + `,` + dialectKey + `,` + dialectS4 + `}`, 201},
		{"personalabs", dialect.Rotate, `{` + dialectID + `,` + dialectKey + `,` + dialectS4 + `}`, 200},
		{"personalabs", dialect.List, `{"keys":[{` + dialectID + `,` + dialectS4 + `,"lastUsedAt":"2025-02-23T14:22:03Z"}]}`, 200},
		{"personalabs", dialect.Revoke, ``, 204},
		{"prosopo", dialect.Create, `{` + dialectID + `,` + dialectKey + `,` + dialectS5 + `}`, 201},
		{"prosopo", dialect.List, `{"apiKeys":[{` + dialectID + `,` + dialectS5 + `}]}`, 200},
		{"prosopo", dialect.Revoke, ``, 204},
	} {
		d := dialectOf(t, c.preset)
		var got []byte
		if c.action == dialect.List {
			got = d.List([]dialect.KeyView{dialectView()})
		} else {
			got = d.Key(c.action, dialectView())
		}
		if strings.TrimSuffix(string(got), "\n") != c.want {
			t.Errorf("%s %s: got\n%s\nwant\n%s", c.preset, c.action, got, c.want)
		}
		if status := d.Shape(c.action).Status; status != c.status {
			t.Errorf("%s %s: status %d, want %d", c.preset, c.action, status, c.status)
		}
	}
}

// TestPresetInputs sends what the documents send, and what they do not know.
func TestPresetInputs(t *testing.T) {
	for _, c := range []struct{ preset, action, body, bad string }{
		{"prosodyai", dialect.Create, `{"name":"Staging Environment","expires_at":"2026-01-01T00:00:00Z","rate_limit":500}`, ""},
		{"prosodyai", dialect.Create, `{"name":"a","rate_limit":0}`, "rate_limit"},
		{"prosodyai", dialect.Create, `{"name":"a","expires_in_days":5}`, "expires_in_days"},
		{"prosodyai", dialect.Create, `{"name":"a","permissions":["x"]}`, "permissions"},
		{"audiopod", dialect.Create, `{"name":"Production API Key","description":"Key for production environment"}`, ""},
		{"audiopod", dialect.Create, `{"name":"a","expires_at":null}`, "expires_at"},
		{"example", dialect.Create, `{"name":"a","permissions":["read"]}`, ""},
		{"personalabs", dialect.Create, `{"name":"Production Key","expiresInDays":90}`, ""},
		{"personalabs", dialect.Create, `{"name":"a","expiresInDays":"90"}`, "expiresInDays"},
		{"personalabs", dialect.Create, `{"name":"a","expires_in_days":90}`, "expires_in_days"},
		{"personalabs", dialect.Rotate, ``, ""},
		{"prosopo", dialect.Create, `{"name":"CI","expirationTime":3600,"permissions":["verify"]}`, ""},
		{"prosopo", dialect.Create, `{"name":"CI","permissions":["verify"]}`, ""},
		{"prosopo", dialect.Create, `{"name":"CI"}`, "permissions"},
		{"prosopo", dialect.Create, `{"permissions":["verify"]}`, "name"},
	} {
		_, err := dialectOf(t, c.preset).Input(c.action, []byte(c.body))
		e, _ := err.(*dialect.InputError)
		if c.bad == "" && err != nil || c.bad != "" && (e == nil || e.Field != c.bad) {
			t.Errorf("%s %s: %v", c.preset, c.body, err)
		}
	}
	in, err := dialectOf(t, "personalabs").Input(dialect.Rotate, nil)
	if err != nil || in.Grace == nil || *in.Grace != 0 {
		t.Errorf("rotate of personalabs: %+v, %v", in, err)
	}
}

func TestPresetSettings(t *testing.T) {
	for preset, want := range map[string]struct {
		foreign     int
		reset, rate string
		filters     []string
	}{
		"prosodyai":   {403, "epoch", "", []string{}},
		"audiopod":    {404, "epoch", "x", []string{"status"}},
		"example":     {404, "epoch", "", []string{"status", "name"}},
		"personalabs": {404, "off", "x", []string{}},
		"prosopo":     {404, "epoch", "", []string{}},
	} {
		c := dialectOf(t, preset)
		if f := c.Foreign(); f.Status != want.foreign {
			t.Errorf("%s: foreign %d", preset, f.Status)
		}
		if c.Reset() != want.reset || c.RateHeaders() != want.rate || !reflect.DeepEqual(c.Shape(dialect.List).Filters, want.filters) {
			t.Errorf("%s: reset %s, rate headers %s, filters %v", preset, c.Reset(), c.RateHeaders(), c.Shape(dialect.List).Filters)
		}
	}
	if len(presetNames()) != 5 {
		t.Errorf("presets: %v", presetNames())
	}
}

// TestPresetsAreFormatted: each preset is a block as an owner would write it, as
// `caddy fmt` writes it, and means the same there.
func TestPresetsAreFormatted(t *testing.T) {
	for _, name := range presetNames() {
		text, err := presetFiles.ReadFile("presets/" + name + ".caddyfile")
		if err != nil {
			t.Fatal(err)
		}
		if f := caddyfile.Format(text); string(f) != string(text) {
			t.Errorf("%s: caddy fmt would write:\n%s", name, f)
		}
		_, own, err := dialectParse("dialect own {\n"+string(text)+"}\n", nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, copied, err := dialectParse("dialect own "+name, nil)
		preset, _ := presetDialect(name)
		if err != nil || !reflect.DeepEqual(own, preset) || !reflect.DeepEqual(copied, preset) {
			t.Errorf("%s: not what the block means, %v", name, err)
		}
		var back dialect.Dialect
		if b, _ := json.Marshal(preset); json.Unmarshal(b, &back) != nil || !reflect.DeepEqual(&back, preset) {
			t.Errorf("%s: JSON loses something: %s", name, b)
		}
	}
}
