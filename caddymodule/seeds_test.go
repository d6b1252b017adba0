package caddymodule

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/conformance"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// seedDir holds the five documents as files for keytoll conformance, each with
// the Caddyfile of its owner.
const seedDir = "../testdata/seeds/"

// newSeed runs Caddy with the Caddyfile of a document. Only what a test must
// not share with others of its machine is added: no admin endpoint, and a log
// in the test's directory.
func newSeed(t *testing.T, name string, edits ...string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), addr: freeAddr(t), upstream: newUpstream(t)}
	g.url = "http://" + g.addr
	t.Setenv("SITE", g.url)
	t.Setenv("DB", filepath.Join(g.dir, "keytoll.db"))
	t.Setenv("UPSTREAM", g.upstream.addr)
	t.Setenv("SEEDS", seedDir)
	text, err := os.ReadFile(seedDir + name + ".caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	edited := strings.Replace(string(text), "\tlog {\n", "\tadmin off\n\tpersist_config off\n\tlog {\n\t\toutput file "+g.dir+"/caddy.log\n", 1)
	if err := g.tryLoad(strings.NewReplacer(edits...).Replace(edited)); err != nil {
		t.Fatal(err)
	}
	return g
}

// seedKeys is the keys that every document speaks of, and their variables.
type seedKeys struct {
	g    *gateway
	vars map[string]string
	soon time.Time // when the expired key expires
}

// newSeedKeys makes an expired key, a revoked one, and one of another tenant.
func newSeedKeys(g *gateway) *seedKeys {
	k := &seedKeys{g: g, vars: make(map[string]string), soon: time.Now().Add(2 * time.Second)}
	_, k.vars["expired_key"] = g.key("acme", registrar.CreateKeyRequest{Name: "Expired", Expires: &k.soon})
	revoked, secret := g.key("acme", registrar.CreateKeyRequest{Name: "Revoked"})
	if _, err := g.registrar().RevokeKey(context.Background(), revoked); err != nil {
		g.t.Fatal(err)
	}
	k.vars["revoked_key"], k.vars["revoked_id"] = secret, revoked.String()
	foreign, _ := g.key("other", registrar.CreateKeyRequest{Name: "Foreign"})
	k.vars["foreign_id"] = foreign.String()
	return k
}

// add makes a key and keeps its secret as a variable.
func (k *seedKeys) add(variable, tenant string, req registrar.CreateKeyRequest) {
	k.g.t.Helper()
	_, k.vars[variable] = k.g.key(tenant, req)
}

// plan puts a tenant, which is created if need be, on a plan.
func (k *seedKeys) plan(tenant, plan string) {
	k.g.t.Helper()
	ctx := context.Background()
	if err := k.g.registrar().EnsureTenant(ctx, registrar.CreateTenantRequest{ID: tenant}); err != nil {
		k.g.t.Fatal(err)
	}
	if _, err := k.g.registrar().SetTenantPlan(ctx, tenant, plan); err != nil {
		k.g.t.Fatal(err)
	}
}

// grant gives a tenant credits once.
func (k *seedKeys) grant(tenant string, credits int64) {
	k.g.t.Helper()
	req := registrar.GrantRequest{Amount: access.Credits(credits) * access.Credit, Note: "signed up"}
	if _, err := k.g.registrar().GrantCredits(context.Background(), tenant, req); err != nil {
		k.g.t.Fatal(err)
	}
}

// credits gives a tenant other credits of each period than its plan has.
func (k *seedKeys) credits(tenant string, credits int64) {
	k.g.t.Helper()
	o := &access.Override{Credits: access.Credits(credits) * access.Credit}
	if _, err := k.g.registrar().SetTenantOverride(context.Background(), tenant, o); err != nil {
		k.g.t.Fatal(err)
	}
}

// conform runs the document's file with the variables that it has and fails
// on each difference.
func (k *seedKeys) conform(t *testing.T, name string) {
	t.Helper()
	for time.Now().Before(k.soon.Add(time.Second)) {
		time.Sleep(50 * time.Millisecond)
	}
	text, err := os.ReadFile(seedDir + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	file, err := conformance.Load(strings.NewReader(string(text)))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for v := range k.vars {
		if !strings.Contains(string(text), "\n  "+v+": ") {
			delete(k.vars, v) // not all documents speak of all keys
		}
	}
	report, err := conformance.Run(t.Context(), file, conformance.Options{BaseURL: k.g.url, Vars: k.vars})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Steps {
		if s.Skipped != "" {
			t.Logf("later (%s): %s: %s", s.Skipped, s.Name, s.Sentence)
		}
		for _, d := range s.Differences {
			t.Errorf("%s (%s): %s: want %s, got %s", s.Name, s.Sentence, d.Where, d.Want, d.Got)
		}
	}
	same, different, later := report.Count()
	t.Logf("%s: %d the same, %d different, %d later", name, same, different, later)
	k.checkLog(t)
}

// checkLog fails if a secret that the test knows is in Caddy's log.
func (k *seedKeys) checkLog(t *testing.T) {
	t.Helper()
	log := k.g.log()
	for v, secret := range k.vars {
		if strings.HasSuffix(v, "_key") && strings.Contains(log, secret) {
			t.Errorf("the log has the secret of %s", v)
		}
	}
}

func perMinute(n uint32) *access.Rate {
	return &access.Rate{Requests: n, Burst: n, Window: time.Minute}
}

func TestSeedS1ProsodyAI(t *testing.T) {
	k := newSeedKeys(newSeed(t, "S1"))
	k.add("key", "acme", registrar.CreateKeyRequest{Name: "Production", Rate: perMinute(1000)})
	k.vars["org"] = "acme"
	k.conform(t, "S1")
}

func TestSeedS2AudioPod(t *testing.T) {
	k := newSeedKeys(newSeed(t, "S2"))
	all := []string{access.AllPermissions}
	for tenant, plan := range map[string]string{"acme": "pro", "paying": "pro", "large": "enterprise"} {
		k.plan(tenant, plan)
	}
	k.add("key", "acme", registrar.CreateKeyRequest{Name: "Production App", Permissions: all})
	k.add("flood_key", "acme", registrar.CreateKeyRequest{Name: "Development"})
	k.plan("acme", "free") // a plan bounds keys that have more
	k.add("pro_key", "paying", registrar.CreateKeyRequest{Name: "Production App", Permissions: all})
	k.add("enterprise_key", "large", registrar.CreateKeyRequest{Name: "Production App", Permissions: all, Rate: perMinute(5000)})
	k.add("new_user_key", "new", registrar.CreateKeyRequest{Name: "Development"})
	k.grant("new", 5)
	k.credits("large", 20_000)
	k.conform(t, "S2")
}

func TestSeedS3Example(t *testing.T) {
	k := newSeedKeys(newSeed(t, "S3"))
	for variable, permission := range map[string]string{"key": "admin", "read_key": "read", "write_key": "write", "webhook_key": "webhook", "flood_key": "read"} {
		k.add(variable, "acme", registrar.CreateKeyRequest{Name: permission, Permissions: []string{permission}})
	}
	k.conform(t, "S3")
}

func TestSeedS4PersonaLabs(t *testing.T) {
	// The provider itself is not asked: a key is verified here, and all else is as
	// it is shipped.
	shop := newProviderShop(t, "xi-api-key", "sk_elevenlabs_0123456789")
	k := newSeedKeys(newSeed(t, "S4", "\t\tproviders personalabs\n", "\t\tproviders personalabs\n\t\tprovider elevenlabs {\n"+
		"\t\t\tverify GET "+shop+" xi-api-key {keytoll.provider_key}\n\t\t\tallow_private\n\t\t}\n"))
	k.g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		var asked struct{ Provider string }
		if json.NewDecoder(r.Body).Decode(&asked) == nil && asked.Provider != "" {
			w.Header().Set("X-Provider-Used", asked.Provider)
		}
		return false
	})
	k.vars["provider_key"] = "sk_elevenlabs_0123456789"
	k.add("key", "acme", registrar.CreateKeyRequest{Name: "First"})
	k.add("flood_key", "acme", registrar.CreateKeyRequest{Name: "Flood"})
	k.plan("studio", "studio")
	k.add("studio_key", "studio", registrar.CreateKeyRequest{Name: "First"})
	k.conform(t, "S4")
}

// newProviderShop runs a provider that knows one key, which comes in a header,
// and returns its URL.
func newProviderShop(t *testing.T, header, key string) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(header) != key {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/v1/user"
}

func TestSeedS5Prosopo(t *testing.T) {
	k := newSeedKeys(newSeed(t, "S5"))
	k.add("key", "acme", registrar.CreateKeyRequest{Name: "First", Permissions: []string{access.AllPermissions}})
	k.conform(t, "S5")
}
