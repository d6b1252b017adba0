package dialect

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

func TestInput(t *testing.T) {
	c := compiled(t, &Dialect{
		Update: &Shape{Inputs: inputFields(Update)},
		Rotate: &Shape{Grace: "1h"},
	})
	for _, tt := range []struct {
		action, body string
		want         Input
	}{
		{Create, ``, Input{}},
		{Create, ` {} `, Input{}},
		{Create, `{"name":"a","description":"b","environment":"live"}`, Input{Name: new("a"), Description: new("b"), Environment: new("live")}},
		{Create, `{"permissions":["a","b"]}`, Input{Permissions: &[]string{"a", "b"}}},
		{Create, `{"permissions":[]}`, Input{Permissions: &[]string{}}},
		{Create, `{"rate":{"requests":5,"window":"s"}}`, Input{Rate: &access.Rate{Requests: 5, Burst: 5, Window: time.Second}}},
		{Create, `{"rate":{"burst":9,"requests":5,"window":"1m"}}`, Input{Rate: &access.Rate{Requests: 5, Burst: 9, Window: time.Minute}}},
		{Create, `{"rate":null}`, Input{PlanRate: true}},
		{Update, `{"rate_per_minute":500}`, Input{Rate: &access.Rate{Requests: 500, Burst: 500, Window: time.Minute}}},
		{Update, `{"rate_per_minute":null,"disabled":true}`, Input{PlanRate: true, Disabled: new(true)}},
		{Create, `{"expires_at":"2030-01-01T02:00:00.9+02:00"}`, Input{ExpiresAt: new(time.Unix(1893456000, 0).UTC())}},
		{Create, `{"expires_at":null}`, Input{Never: true}},
		{Create, `{"expires_in_days":90}`, Input{ExpiresIn: new(90 * 24 * time.Hour)}},
		{Create, `{"expires_in_seconds":36000}`, Input{ExpiresIn: new(10 * time.Hour)}},
		{Create, `{"expires_in_days":null}`, Input{Never: true}},
		{Create, `{"metadata":{"a":"b"}}`, Input{Metadata: &map[string]string{"a": "b"}}},
		{Create, `{"addresses":["203.0.113.9/24","2001:db8::1","::ffff:192.0.2.1","::ffff:192.0.2.0/120"]}`, Input{Addresses: &[]netip.Prefix{
			netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::1/128"),
			netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.0/24")}}},
		{Rotate, ``, Input{Grace: new(time.Hour)}},
		{Rotate, `{"grace_seconds":0}`, Input{Grace: new(time.Duration)}},
		{Rotate, `{"grace_seconds":60}`, Input{Grace: new(time.Minute)}},
	} {
		got, err := c.Input(tt.action, []byte(tt.body))
		if err == nil {
			for _, name := range []string{got.ExpiryName, got.RateName} {
				if name != "" && !strings.Contains(tt.body, `"`+name+`"`) {
					t.Errorf("%s: %q is no member", tt.body, name)
				}
			}
			got.ExpiryName, got.RateName = "", ""
		}
		if err != nil || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s %s: got %+v, %v", tt.action, tt.body, got, err)
		}
	}
}

func TestInputRefuses(t *testing.T) {
	c := compiled(t, &Dialect{
		Names:  map[string]string{"expires_in_seconds": "expirationTime"},
		Create: &Shape{Inputs: inputFields(Create), Required: []string{"name", "permissions"}},
		Rotate: &Shape{Inputs: []string{}},
	})
	head := `{"name":"a","permissions":["a"],`
	for _, tt := range []struct{ action, body, field, want string }{
		{Create, `{"name":"a"`, "", "not valid JSON"},
		{Create, `{"name":"a"} {}`, "", "not valid JSON"},
		{Create, `[]`, "", "must be a JSON object"},
		{Create, `null`, "", "must be a JSON object"},
		{Create, "{\"name\":\"\xff\"}", "", "not valid UTF-8"},
		{Create, `{"name":"` + strings.Repeat("a", maxBody) + `"}`, "", "longer than 65536 bytes"},
		{Create, head + `"metadata":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, "", "nested more than 32"},
		{Create, `{"permissions":["a"]}`, "name", "name is required"},
		{Create, `{"name":"","permissions":["a"]}`, "name", "name is required"},
		{Create, `{"name":"a"}`, "permissions", "permissions is required"},
		{Create, `{"name":"a","permissions":null}`, "permissions", "permissions is required"},
		{Create, `{"name":"a","permissions":[]}`, "permissions", "must not be empty"},
		{Create, `{"name":"a","name":"b","permissions":["a"]}`, "name", `"name" stands twice`},
		{Create, `{"name":"a","n\u0061me":"b","permissions":["a"]}`, "name", `"name" stands twice`},
		{Create, head + `"metadata":{"a":"1","a":"2"}}`, "metadata.a", `"metadata.a" stands twice`},
		{Create, head + `"expire_at":"2030-01-01T00:00:00Z"}`, "expire_at", `no field "expire_at"`},
		{Create, head + `"Description":"x"}`, "Description", `no field "Description"`},
		{Create, head + `"tenant":"x"}`, "tenant", `no field "tenant"`},
		{Create, head + `"disabled":true}`, "disabled", "no field"},
		{Create, head + `"expires_in_seconds":1}`, "expires_in_seconds", "no field"},
		{Create, head + `"expirationTime":0}`, "expirationTime", "from 1 to"},
		{Create, head + `"expirationTime":-1}`, "expirationTime", "from 1 to"},
		{Create, head + `"expirationTime":1.5}`, "expirationTime", "whole number"},
		{Create, head + `"expirationTime":1e3}`, "expirationTime", "whole number"},
		{Create, head + `"expirationTime":"60"}`, "expirationTime", "whole number"},
		{Create, head + `"expirationTime":99999999999999999999}`, "expirationTime", "from 1 to"},
		{Create, head + `"expires_in_days":36501}`, "expires_in_days", "from 1 to 36500"},
		{Create, head + `"expires_in_days":1,"expirationTime":1}`, "expirationTime", "expires_in_days and expirationTime both"},
		{Create, head + `"expires_at":null,"expires_in_days":1}`, "expires_in_days", "both"},
		{Create, head + `"expires_at":"tomorrow"}`, "expires_at", "want a time such as"},
		{Create, head + `"expires_at":""}`, "expires_at", "want a time such as"},
		{Create, head + `"expires_at":0}`, "expires_at", "want a time such as"},
		{Create, head + `"expires_at":"0001-01-01T00:00:00Z"}`, "expires_at", "want a time such as"},
		{Create, head + `"rate_per_minute":0}`, "rate_per_minute", "from 1 to"},
		{Create, head + `"rate_per_minute":60000001}`, "rate_per_minute", "from 1 to"},
		{Create, head + `"rate_per_minute":true}`, "rate_per_minute", "whole number"},
		{Create, head + `"rate_per_minute":1,"rate":null}`, "rate_per_minute", "both give the rate"},
		{Create, head + `"rate":5}`, "rate", "an object such as"},
		{Create, head + `"rate":{"requests":1,"window":"1m","brust":2}}`, "rate.brust", "no field"},
		{Create, head + `"rate":{"requests":1}}`, "rate", "window"},
		{Create, head + `"rate":{"requests":1,"window":"-1m"}}`, "rate", "window"},
		{Create, head + `"rate":{"window":"1m"}}`, "rate", "whole number"},
		{Create, head + `"rate":{"requests":1,"window":"1d","burst":1000000000}}`, "rate", "ten years"},
		{Create, head + `"description":null}`, "description", "want a text, not null"},
		{Create, head + `"description":5}`, "description", "want a text, not 5"},
		{Create, head + `"addresses":"10.0.0.0/8"}`, "addresses", "array of texts"},
		{Create, head + `"addresses":["10.0.0.0/8",5]}`, "addresses", "texts in the array"},
		{Create, head + `"addresses":["10.0.0.0/8","10.0.0.0/33"]}`, "addresses", "number 2 is not a network"},
		{Create, head + `"addresses":["fe80::1%eth0"]}`, "addresses", "number 1"},
		{Create, head + `"addresses":["::ffff:0:0/64"]}`, "addresses", "number 1"},
		{Create, head + `"addresses":["10.0.0.1"` + strings.Repeat(`,"10.0.0.1"`, access.MaxAddresses) + `]}`, "addresses", "at most 64"},
		{Create, head + `"metadata":[]}`, "metadata", "object of texts"},
		{Create, head + `"metadata":{"a":1}}`, "metadata", `"a" must be a text`},
		{Update, `{"disabled":1}`, "disabled", "true or false"},
		{Update, `{"disabled":true,"id":"key_x"}`, "id", "no field"},
		{Rotate, `{"grace_seconds":1}`, "grace_seconds", "no field"},
	} {
		in, err := c.Input(tt.action, []byte(tt.body))
		e, ok := errors.AsType[*InputError](err)
		if in != nil || !ok || e.Field != tt.field || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%.120s: got %+v, %+v; want %s: %s", tt.body, in, err, tt.field, tt.want)
		}
	}
}

// TestInputKeepsTextsToItself: a secret that is put into the wrong member does
// not come back in an error.
func TestInputKeepsTextsToItself(t *testing.T) {
	c := compiled(t, new(Dialect))
	for _, field := range inputFields(Create) {
		for _, body := range []string{`{"` + field + `":"ak_secret"}`, `{"` + field + `":["ak_secret","ak_secret"]}`, `{"` + field + `":{"window":"ak_secret","requests":1}}`} {
			if _, err := c.Input(Create, []byte(body)); err != nil && strings.Contains(err.Error(), "ak_secret") {
				t.Errorf("%s: %v", body, err)
			}
		}
	}
}

func TestInputIgnoresUnknown(t *testing.T) {
	c := compiled(t, &Dialect{Unknown: "ignore"})
	in, err := c.Input(Create, []byte(`{"name":"a","nome":"b","rate":{"requests":1,"window":"1s","x":1}}`))
	if err != nil || *in.Name != "a" || in.Rate == nil {
		t.Errorf("%+v, %v", in, err)
	}
	if _, err := c.Input(Create, []byte(`{"nome":"a","nome":"b"}`)); err == nil {
		t.Error("a name that stands twice was let through")
	}
}

func TestInputTimes(t *testing.T) {
	for form, bodies := range map[string][2]string{
		"unix":    {`{"expires_at":1893456000}`, `{"expires_at":"2030-01-01T00:00:00Z"}`},
		"unix_ms": {`{"expires_at":1893456000500}`, `{"expires_at":999}`},
	} {
		c := compiled(t, &Dialect{Time: form})
		in, err := c.Input(Create, []byte(bodies[0]))
		if err != nil || in.ExpiresAt.Unix() != 1893456000 {
			t.Errorf("%s: %+v, %v", form, in, err)
		}
		for _, body := range []string{bodies[1], `{"expires_at":0}`, `{"expires_at":-5}`, `{"expires_at":253402300800000}`} {
			if in, err := c.Input(Create, []byte(body)); err == nil {
				t.Errorf("%s %s: %v", form, body, in.ExpiresAt)
			}
		}
	}
}

// FuzzInput: whatever is sent, there is an input or an *InputError that names
// at most a short field; what is accepted is JSON within the bounds, and reading
// it twice gives the same.
func FuzzInput(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `{"name":"a","expires_in_days":90,"metadata":{"a":"b"}}`, `{"rate":{"requests":5,"window":"1m","burst":9}}`,
		`{"rate_per_minute":5,"addresses":["10.0.0.0/8","::1"]}`, `{"expires_at":"2030-01-01T00:00:00Z","permissions":["*"]}`,
		`{"name":1,"name":2}`, `[[[[[[`, `{"grace_seconds":5}`, `{"disabled":false}`, "\xff", `{"a":{"a":{"a":[{}]}}}`,
	} {
		f.Add([]byte(s))
	}
	c := compiled(f, &Dialect{
		Create: &Shape{Inputs: inputFields(Create)}, Update: &Shape{Inputs: inputFields(Update)},
	})
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, action := range []string{Create, Update, Rotate} {
			in, err := c.Input(action, body)
			if (in == nil) == (err == nil) {
				t.Fatalf("%v, %v", in, err)
			}
			if err != nil {
				if e, ok := errors.AsType[*InputError](err); !ok || e.Message == "" || len(e.Field) > 80 {
					t.Fatalf("%#v", err)
				}
				continue
			}
			if len(body) > maxBody || len(body) > 0 && !json.Valid(body) {
				t.Fatalf("accepted %q", body)
			}
			checkInput(t, in)
			if again, _ := c.Input(action, body); !reflect.DeepEqual(in, again) {
				t.Fatalf("%+v, then %+v", in, again)
			}
		}
	})
}

func checkInput(t *testing.T, in *Input) {
	t.Helper()
	if in.ExpiresIn != nil && (*in.ExpiresIn <= 0 || *in.ExpiresIn > maxExpiry) || in.Grace != nil && *in.Grace < 0 {
		t.Fatalf("expires in %v, grace %v", in.ExpiresIn, in.Grace)
	}
	if in.Never && (in.ExpiresAt != nil || in.ExpiresIn != nil) || in.ExpiresAt != nil && in.ExpiresIn != nil {
		t.Fatalf("two expiries: %+v", in)
	}
	if in.Rate != nil && (in.PlanRate || in.Rate.Validate() != nil) {
		t.Fatalf("rate %+v", in.Rate)
	}
	if in.Addresses != nil {
		for _, a := range *in.Addresses {
			if !a.IsValid() || a != a.Masked() || a.Addr().Is4In6() {
				t.Fatalf("network %s", a)
			}
		}
	}
}
