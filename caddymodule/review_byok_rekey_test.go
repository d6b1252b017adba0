package caddymodule

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// When a rekey says that it is done, the present master key alone opens the
// database, also if an earlier run broke off between its last tenant and that,
// and the one before was taken out of the configuration since.
func TestBYOKRekeyThatIsDoneEndsTheOldMasterKey(t *testing.T) {
	g := newGateway(t, "provider elevenlabs", "keytoll {\nbyok\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", hourly(1000))
	if _, _, err := g.registrar().StoreProviderKey(t.Context(), "acme", "elevenlabs", token.Wrap("sk_of_acme_0123456789")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(g.dir, "master.key")
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	old := parseMaster(t, string(first))
	t.Setenv("KEYTOLL_TEST_NEXT", anotherMaster)
	const now = "provider elevenlabs\nmaster_key {env.KEYTOLL_TEST_NEXT}\n"
	site := "keytoll {\nbyok\n}\nreverse_proxy {upstream}"
	g.load(now+"master_key {file."+file+"}\n", site)
	app, err := activeApp()
	if err != nil {
		t.Fatal(err)
	}
	e := app.engine.Load()
	// All that a run does but the last step.
	done, err := g.registrar().Rekey(t.Context(), 0)
	if err = errors.Join(app.useMasters(t.Context(), e, true), err); err != nil || !done.Done {
		t.Fatal(done, err)
	}
	g.load(now, site)
	rekeyAll(t)
	if e := lifeEngine(t).(*engine.Engine); e.Opens(old) || !e.Opens(parseMaster(t, anotherMaster)) {
		t.Error("rekey is done, and the master key before still opens the database")
	}
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if got := g.upstream.last(t).Header.Get("X-Provider-Key-Elevenlabs"); got != "sk_of_acme_0123456789" {
		t.Errorf("the API got %q", got)
	}
}
