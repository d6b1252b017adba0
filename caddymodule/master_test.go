package caddymodule

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

const anotherMaster = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="

func parseMaster(t *testing.T, text string) token.Master {
	t.Helper()
	m, err := token.ParseMaster(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// rekeyAll does what `caddy keytoll rekey` has the server do.
func rekeyAll(t *testing.T) {
	t.Helper()
	app, err := activeApp()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := app.rekey(t.Context()); err != nil || !r.Done || r.Pending != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
}

// The generated key is replaced by a configured one while the server runs.
func TestMasterKeyIsReplaced(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	serves := func() {
		t.Helper()
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	refused := func(options, want string) {
		t.Helper()
		if err := g.tryLoad(g.text(options, plainGate)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", options, err, want)
		}
	}
	db, file := filepath.Join(g.dir, "keytoll.db"), filepath.Join(g.dir, "master.key")
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	old, next := parseMaster(t, string(first)), parseMaster(t, anotherMaster)
	t.Setenv("KEYTOLL_TEST_NEXT", anotherMaster)
	t.Setenv("KEYTOLL_TEST_STRAY", old.Text()[1:43]+"B=")
	const now = "master_key {env.KEYTOLL_TEST_NEXT}\n"
	both := now + "master_key {file." + file + "}\n"
	opened := lifeEngine(t)

	refused(now, "with another master key")
	refused(now+"master_key {env.KEYTOLL_TEST_STRAY}\n", "with another master key")
	g.load(both, plainGate)
	serves()
	g.load("", plainGate) // nothing is decided yet
	g.load(both, plainGate)
	rekeyAll(t)
	g.load(now, plainGate)
	serves()
	if lifeEngine(t) != opened {
		t.Error("the store was opened again")
	}
	refused("", "with another master key")
	if e := lifeEngine(t).(*engine.Engine); !e.Opens(next) || e.Opens(old) || !e.Master.Equal(old) {
		t.Error("not the new key alone, or another root")
	}

	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	refused("", "was replaced and no longer opens it: set master_key to the new one")
	check := func(want string, flags ...string) {
		t.Helper()
		out, errs, _ := keytoll(append([]string{"check", "--db", db}, flags...)...)
		if !strings.Contains(out+errs, want) {
			t.Errorf("check %v: %s%s", flags, out, errs)
		}
	}
	check("was replaced")
	check("hint: name the key with --master-key")
	check("problems       none", "--master-key", "{env.KEYTOLL_TEST_NEXT}")
	check("problems       none", "--previous-master-key", "{env.KEYTOLL_TEST_NEXT}")
	check("--previous-master-key: want {file.", "--previous-master-key", anotherMaster)
	g.load(now, plainGate)
	serves()
	if log := g.log(); strings.Contains(log, anotherMaster) || strings.Contains(log, old.Text()) {
		t.Error("a master key is in the log")
	}
}

// The file beside the database is replaced by another.
func TestMasterKeyFileIsReplaced(t *testing.T) {
	g := newGateway(t, "", plainGate)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	file := filepath.Join(g.dir, "master.key")
	if err := errors.Join(os.Rename(file, file+".old"), os.WriteFile(file, []byte(anotherMaster+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := g.tryLoad(g.text("", plainGate)); err == nil || !strings.Contains(err.Error(), "with another master key") {
		t.Error("a reload that no start could follow:", err)
	}
	both := `master_key {file.` + file + "}\nmaster_key {file." + file + ".old}\n"
	g.load(both, plainGate)
	rekeyAll(t)
	g.load("", plainGate)
	if err := errors.Join(os.Remove(file+".old"), caddy.Stop()); err != nil {
		t.Fatal(err)
	}
	g.load("", plainGate)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
}
