package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/seal"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// providerClerk is a clerk of a server that keeps provider keys, and its
// registrar and door.
func providerClerk(t *testing.T) (*clerk, *registrar.Registrar, *mgmt.Handler) {
	t.Helper()
	b, err := boltstore.New(boltstore.Options{Path: filepath.Join(t.TempDir(), "keytoll.db")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	ring := seal.NewKeyring(seal.NewWrapper("master:test", [32]byte{1}))
	reg := registrar.New(registrar.Options{Store: s, Digester: token.NewDigester(s.(*boltstore.Store).Master()),
		Providers: func() []string { return []string{"elevenlabs", "openai"} }, Keyring: func() *seal.Keyring { return ring }})
	h := mgmt.NewHandler(func() (*registrar.Registrar, error) { return reg, nil }, func() any { return struct{}{} })
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &clerk{t: t, addr: srv.Listener.Addr().String()}, reg, h
}

func TestCommandProviderKeys(t *testing.T) {
	c, reg, h := providerClerk(t)
	const key = "sk_Sample0123456789xyzw"
	c.secrets = append(c.secrets, key)
	c.run("tenants", "create", "acme")
	says(t, c.run("provider-keys", "list", "acme"), "PROVIDER  ENDS WITH  CREATED")
	out, errs, err := c.try(key+"\r\n", "provider-keys", "set", "acme", "elevenlabs")
	if err != nil {
		t.Fatal(err, errs)
	}
	says(t, out, "provider   elevenlabs\n", "tenant     acme\n", "ends with  xyzw\n")
	says(t, errs, "keytoll: the key of tenant acme for elevenlabs is stored\n")
	stored, err := reg.ProviderKey(t.Context(), "acme", "elevenlabs")
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := reg.UnsealProviderKey(t.Context(), "acme", "elevenlabs", stored.ID); err != nil || string(plain) != key {
		t.Errorf("stored %q, %v", plain, err)
	}

	says(t, c.run("provider-keys", "list", "acme"), "elevenlabs  xyzw ", " never      never          -\n")
	verdict := mgmt.ProviderVerdict{Valid: true}
	h.Verify = func(ctx context.Context, tenant, provider string) (mgmt.ProviderVerdict, error) {
		return verdict, reg.RecordProviderVerified(ctx, tenant, provider, stored.ID, verdict.Valid)
	}
	says(t, c.run("provider-keys", "verify", "acme", "elevenlabs"), "provider  elevenlabs\n", "valid     yes\n", "reason    -\n")
	says(t, c.run("provider-keys", "list", "acme"), "  yes\n")
	verdict = mgmt.ProviderVerdict{Reason: "unauthorized"}
	out, errs, err = c.try("", "provider-keys", "verify", "acme", "elevenlabs", "--json")
	if got := (mgmt.ProviderVerdict{}); err == nil || json.Unmarshal([]byte(out), &got) != nil || got != (mgmt.ProviderVerdict{Provider: "elevenlabs", Reason: "unauthorized"}) {
		t.Errorf("a key that is not valid: %v\n%s", err, out)
	}
	says(t, errs, "elevenlabs does not take the key of tenant acme: unauthorized", "hint: store another")
	list := asJSON[mgmt.ProviderKeyList](c, "provider-keys", "list", "acme")
	if l := list.ProviderKeys; len(l) != 1 || l[0].Provider != "elevenlabs" || l[0].LastVerifiedAt == nil || *l[0].Valid {
		t.Errorf("list %+v", list)
	}
	says(t, c.run("audit", "list", "--action", "provider_key.verified"), "provider_key.verified  acme    elevenlabs")

	if got := asJSON[map[string]any](c, "provider-keys", "delete", "acme", "elevenlabs"); got["deleted"] != true {
		t.Errorf("deleted %v", got)
	}
	if _, errs, err := c.try("", "provider-keys", "delete", "acme", "elevenlabs"); err == nil || !strings.Contains(errs, "there is no key for this provider") {
		t.Errorf("deleted twice: %v %s", err, errs)
	}
	if list := asJSON[mgmt.ProviderKeyList](c, "provider-keys", "list", "acme"); len(list.ProviderKeys) != 0 {
		t.Errorf("list %+v", list)
	}
}

func TestCommandProviderKeyErrors(t *testing.T) {
	c, reg, h := providerClerk(t)
	const key = "sk_Sample0123456789xyzw"
	c.secrets = append(c.secrets, key)
	c.run("tenants", "create", "acme")
	if _, _, err := c.try(key, "provider-keys", "set", "acme", "openai"); err != nil {
		t.Fatal(err)
	}
	refuse := func(err error) func() {
		return func() {
			h.Verify = func(context.Context, string, string) (mgmt.ProviderVerdict, error) {
				return mgmt.ProviderVerdict{}, err
			}
		}
	}
	for name, v := range map[string]struct {
		before func()
		stdin  string
		args   []string
		want   string
	}{
		"no key":           {nil, " \n", []string{"set", "acme", "elevenlabs"}, "no key on standard input"},
		"two lines":        {nil, key + "\n" + key + "\n", []string{"set", "acme", "elevenlabs"}, "more than one line"},
		"a long key":       {nil, strings.Repeat(key, 200), []string{"set", "acme", "elevenlabs"}, "longer than 4096 bytes"},
		"two words":        {nil, key + " x", []string{"set", "acme", "elevenlabs"}, "without spaces"},
		"as an argument":   {nil, "", []string{"set", "acme", key}, "no name of a provider"},
		"one too many":     {nil, key, []string{"set", "acme", "elevenlabs", key}, "takes 2 arguments, not 3"},
		"unknown provider": {nil, key, []string{"set", "acme", "groq"}, "providers: elevenlabs, openai"},
		"unknown tenant":   {nil, key, []string{"set", "beta", "openai"}, "there is no tenant"},
		"nobody's":         {nil, "", []string{"list", "beta"}, "there is no tenant"},
		"none stored":      {nil, "", []string{"delete", "acme", "elevenlabs"}, "caddy keytoll provider-keys list acme"},
		"none to verify":   {refuse(nil), "", []string{"verify", "acme", "elevenlabs"}, "there is no key for this provider"},
		"no verify":        {refuse(mgmt.NoVerify("openai")), "", []string{"verify", "acme", "openai"}, "cannot be verified"},
		"unreachable":      {refuse(mgmt.Unreachable("openai", errors.New("timeout"))), "", []string{"verify", "acme", "openai"}, "hint: timeout"},
		"too often":        {refuse(mgmt.TooMany(9 * time.Second)), "", []string{"verify", "acme", "openai"}, "too often"},
		"no command":       {nil, "", []string{"show", "acme"}, "there is no command"},
	} {
		if v.before != nil {
			v.before()
		}
		if out, errs, err := c.try(v.stdin, append([]string{"provider-keys"}, v.args...)...); err == nil || out != "" || !strings.Contains(errs, v.want) || !strings.Contains(errs, "hint: ") {
			t.Errorf("%s: %v\n%s%s", name, err, out, errs)
		}
	}
	if list, err := reg.ProviderKeys(t.Context(), "acme"); err != nil || len(list) != 1 || list[0].LastVerified != 0 {
		t.Errorf("left %v, %v", list, err)
	}
}

// The command calls until nothing is left, adds up, and stops where the server
// gets no further.
func TestCommandRekey(t *testing.T) {
	c, _, h := providerClerk(t)
	part := mgmt.RekeyReport{Tenants: 200, Keys: 300}
	for name, v := range map[string]struct {
		reports []mgmt.RekeyReport
		err     error // after them
		sum     mgmt.RekeyReport
		says    string // on standard error; empty for exit code 0
	}{
		"nothing to do": {reports: []mgmt.RekeyReport{{Done: true}}, sum: mgmt.RekeyReport{Done: true}},
		"in parts": {reports: []mgmt.RekeyReport{part, part, {Tenants: 1, Keys: 1, Done: true}},
			sum: mgmt.RekeyReport{Tenants: 401, Keys: 601, Done: true}},
		"some that do not open": {reports: []mgmt.RekeyReport{part, {Tenants: 1, Keys: 1, Pending: 2, Done: true, Failed: "tenants: 2 (acme, beta)"}},
			sum: mgmt.RekeyReport{Tenants: 201, Keys: 301, Pending: 2, Done: true, Failed: "tenants: 2 (acme, beta)"}, says: "tenants: 2 (acme, beta)"},
		"no progress": {reports: []mgmt.RekeyReport{part, {Pending: 5}}, sum: mgmt.RekeyReport{Tenants: 200, Keys: 300, Pending: 5}, says: "run it again"},
		"a fault":     {reports: []mgmt.RekeyReport{part}, err: &registrar.Error{Code: registrar.Unavailable, Message: "no KMS"}, says: "done before it failed: 200"},
	} {
		calls := 0
		h.Rekey = func(context.Context) (mgmt.RekeyReport, error) {
			if calls++; calls > len(v.reports) {
				return mgmt.RekeyReport{}, v.err
			}
			return v.reports[calls-1], nil
		}
		out, errs, err := c.try("", "rekey", "--json")
		var sum mgmt.RekeyReport
		if v.err == nil && (json.Unmarshal([]byte(out), &sum) != nil || sum != v.sum || calls != len(v.reports)) {
			t.Errorf("%s: %d calls\n%s%s", name, calls, out, errs)
		}
		if (err != nil) != (v.says != "") || !strings.Contains(errs, v.says) || v.err != nil && out != "" {
			t.Errorf("%s: %v\n%s%s", name, err, out, errs)
		}
	}
	h.Rekey = func(context.Context) (mgmt.RekeyReport, error) {
		return mgmt.RekeyReport{Tenants: 2, Keys: 3, Done: true}, nil
	}
	says(t, c.run("rekey"), "tenants        2\n", "provider keys  3\n", "left           0\n")
}
