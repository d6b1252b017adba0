package dialect

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

func TestProviderKeysInTheDialectsWords(t *testing.T) {
	good := &access.ProviderKey{Tenant: "acme", Provider: "elevenlabs", ID: "pk_4fKq0ZbW81TnXyUc", LastFour: "9xyz", Sealed: []byte("sealed"),
		CreatedAt: time.Unix(1_900_000_000, 0), LastUsed: 1_900_000_060, LastVerified: 1_900_000_120, Valid: true}
	bad := &access.ProviderKey{Provider: "openai", CreatedAt: time.Unix(1_900_000_000, 0), LastVerified: 1_900_000_120}
	fresh := &access.ProviderKey{Provider: "groq", CreatedAt: time.Unix(1_900_000_000, 0), Valid: true} // valid says nothing yet
	for name, c := range map[string]struct {
		d    Dialect
		want string
	}{
		"own": {Dialect{}, `{"provider_keys":[` +
			`{"provider":"elevenlabs","last_four":"9xyz","created_at":"2030-03-17T17:46:40Z","last_used_at":"2030-03-17T17:47:40Z","last_verified_at":"2030-03-17T17:48:40Z","valid":true},` +
			`{"provider":"openai","last_four":null,"created_at":"2030-03-17T17:46:40Z","last_used_at":null,"last_verified_at":"2030-03-17T17:48:40Z","valid":false},` +
			`{"provider":"groq","last_four":null,"created_at":"2030-03-17T17:46:40Z","last_used_at":null,"last_verified_at":null,"valid":null}]}`},
		"camel": {Dialect{Fields: "camel", Time: "unix"}, `{"providerKeys":[` +
			`{"provider":"elevenlabs","lastFour":"9xyz","createdAt":1900000000,"lastUsedAt":1900000060,"lastVerifiedAt":1900000120,"valid":true},` +
			`{"provider":"openai","lastFour":null,"createdAt":1900000000,"lastUsedAt":null,"lastVerifiedAt":1900000120,"valid":false},` +
			`{"provider":"groq","lastFour":null,"createdAt":1900000000,"lastUsedAt":null,"lastVerifiedAt":null,"valid":null}]}`},
		"names and a bare array": {Dialect{Names: map[string]string{"last_four": "ends", "created_at": "made"}, Time: "unix_ms", List: &Shape{Array: true}}, `[` +
			`{"provider":"elevenlabs","ends":"9xyz","made":1900000000000,"last_used_at":1900000060000,"last_verified_at":1900000120000,"valid":true},` +
			`{"provider":"openai","ends":null,"made":1900000000000,"last_used_at":null,"last_verified_at":1900000120000,"valid":false},` +
			`{"provider":"groq","ends":null,"made":1900000000000,"last_used_at":null,"last_verified_at":null,"valid":null}]`},
	} {
		if got := string(compiled(t, &c.d).ProviderKeys([]*access.ProviderKey{good, bad, fresh})); got != c.want+"\n" {
			t.Errorf("%s: %s", name, got)
		}
	}
	c := compiled(t, &Dialect{Names: map[string]string{"reason": "why"}})
	for got, want := range map[string]string{
		string(c.ProviderKeys(nil)):                                                   `{"provider_keys":[]}`,
		string(c.ProviderKey(bad)):                                                    `{"provider":"openai","last_four":null,"created_at":"2030-03-17T17:46:40Z","last_used_at":null,"last_verified_at":"2030-03-17T17:48:40Z","valid":false}`,
		string(c.ProviderVerdict("groq", true, "")):                                   `{"provider":"groq","valid":true,"why":null}`,
		string(c.ProviderVerdict("groq", false, "unauthorized")):                      `{"provider":"groq","valid":false,"why":"unauthorized"}`,
		string(compiled(t, &Dialect{Fields: "camel"}).ProviderVerdict("x", true, "")): `{"provider":"x","valid":true,"reason":null}`,
	} {
		if got != want+"\n" {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestProviderInput(t *testing.T) {
	s4 := compiled(t, &Dialect{Fields: "camel", Unknown: "ignore"})
	if p, k, err := s4.ProviderInput([]byte(`{"provider":"elevenlabs","apiKey":"sk_x","label":"mine"}`)); err != nil || p != "elevenlabs" || k != "sk_x" {
		t.Error(p, k, err)
	}
	own := compiled(t, &Dialect{})
	if p, k, err := own.ProviderInput([]byte(`{"api_key":"sk_x","provider":"elevenlabs"}`)); err != nil || p != "elevenlabs" || k != "sk_x" {
		t.Error(p, k, err)
	}
	for body, want := range map[string]struct{ field, says string }{
		``:                                                  {"provider", "required"},
		`{}`:                                                {"provider", "required"},
		`{"provider":"a"}`:                                  {"api_key", "required"},
		`{"provider":"a","api_key":null}`:                   {"api_key", "required"},
		`{"provider":"a","api_key":""}`:                     {"api_key", "required"},
		`{"provider":"","api_key":"s3cr3t"}`:                {"provider", "required"},
		`{"provider":"a","api_key":7331}`:                   {"api_key", "want a text"},
		`{"provider":"a","api_key":["s3cr3t"]}`:             {"api_key", "want a text"},
		`{"provider":7331,"api_key":"s3cr3t"}`:              {"provider", "want a text"},
		`{"provider":"a","apiKey":"s3cr3t"}`:                {"api_key", "required"},
		`{"provider":"a","api_key":"x","id":"s3cr3t"}`:      {"id", "there is no field"},
		`{"provider":"a","api_key":"x","api_key":"s3cr3t"}`: {"api_key", "twice"},
		`{"provider":"a","api_key":"s3cr3t`:                 {"", "not valid JSON"},
		`["s3cr3t"]`:                                        {"", "JSON object"},
	} {
		p, k, err := own.ProviderInput([]byte(body))
		e, ok := errors.AsType[*InputError](err)
		if !ok || p+k != "" || e.Field != want.field || !strings.Contains(e.Message, want.says) {
			t.Errorf("%s: %q %q %#v", body, p, k, err)
			continue
		}
		if strings.Contains(e.Message, "s3cr3t") || strings.Contains(e.Message, "7331") {
			t.Errorf("%s: a value is in the error %q", body, e.Message)
		}
	}
}

func TestNoInput(t *testing.T) {
	own, lax := compiled(t, &Dialect{}), compiled(t, &Dialect{Unknown: "ignore"})
	for body, want := range map[string][2]bool{"": {true, true}, "{}": {true, true}, `{"api_key":"x"}`: {false, true}, `[]`: {false, false}} {
		if a, b := own.NoInput([]byte(body)) == nil, lax.NoInput([]byte(body)) == nil; a != want[0] || b != want[1] {
			t.Errorf("%q is taken: %t and %t", body, a, b)
		}
	}
}

func TestProviderFieldsAreChecked(t *testing.T) {
	for _, names := range []map[string]string{{"valid": "provider"}, {"api_key": "provider"}, {"reason": "valid"}} {
		err := (&Dialect{Names: names}).Check()
		if err == nil || !strings.Contains(err.Error(), "provider keys: ") {
			t.Errorf("%v: %v", names, err)
		}
	}
}

// What is a reason of the gate too is said in the dialect's words for it.
func TestErrorOfTheGate(t *testing.T) {
	c := compiled(t, &Dialect{Codes: "upper", Reasons: map[string]*Answer{
		"rate_limited":    {Code: "slow_down", Details: map[string]string{"wait": "{retry_after}"}},
		"upstream_failed": {Message: "try later"},
	}})
	if status, body, _ := c.Error(429, "rate_limit_exceeded", "too often", "", "", Values{RetryAfter: 7}); status != 429 ||
		string(body) != `{"error":{"code":"slow_down","message":"too often","details":{"wait":7}}}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := c.Error(502, "bad_gateway", "gone", "", "", Values{}); status != 502 || string(body) != `{"error":{"code":"BAD_GATEWAY","message":"try later"}}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
}
