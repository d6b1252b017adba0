package caddymodule

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/store/boltstore"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// TestMain makes the test binary the caddy command where a test runs it as a
// child, so that exit codes are those of the real thing.
func TestMain(m *testing.M) {
	if os.Getenv("KEYTOLL_TEST_COMMAND") != "" {
		caddycmd.Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// keytoll runs a command line in this process.
func keytoll(args ...string) (stdout, stderr string, err error) {
	return keytollIn("", args...)
}

// keytollIn is keytoll with something on standard input.
func keytollIn(stdin string, args ...string) (stdout, stderr string, err error) {
	root := &cobra.Command{Use: "keytoll"}
	keytollCommand(root)
	var out, errs bytes.Buffer
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(args)
	err = root.Execute()
	return out.String(), errs.String(), err
}

// adminServer is an admin endpoint with the operator door alone.
func adminServer(t *testing.T) (address string) {
	t.Helper()
	return adminServerAt(t, filepath.Join(t.TempDir(), "keytoll.db"))
}

// adminServerAt is adminServer with its database at path, until the test ends.
func adminServerAt(t *testing.T, path string) (address string) {
	t.Helper()
	b, err := boltstore.New(boltstore.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	master := s.(*boltstore.Store).Master()
	reg := registrar.New(registrar.Options{Store: s, Digester: token.NewDigester(master),
		Prefixes: func() []registrar.Prefix { return []registrar.Prefix{{Text: "ak_live_", Environment: "live"}} }})
	h := mgmt.NewHandler(func() (*registrar.Registrar, error) { return reg, nil },
		func() any {
			return map[string]any{"backend": "bolt", "plans": []string{"pro"}, "prefixes": []Prefix{{Prefix: "ak_live_", Environment: "live"}}}
		})
	h.Backup, h.Installation = s.Backup, func() string { return "0123" }
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

func TestCommandSession(t *testing.T) {
	addr := adminServer(t)
	run := func(args ...string) string {
		t.Helper()
		out, errs, err := keytoll(append(args, "--address", addr)...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, errs)
		}
		return out
	}
	run("tenants", "create", "acme", "--name", "Acme, Inc.", "--metadata", "crm=42")
	if out := run("tenants", "show", "acme"); !strings.Contains(out, "Acme, Inc.") || !strings.Contains(out, "crm=42") {
		t.Errorf("show: %s", out)
	}
	secret := run("keys", "create", "--tenant", "acme", "--name", "laptop")
	set, _ := token.NewSet("ak_live_")
	if set.Classify(strings.TrimSuffix(secret, "\n")) != token.Minted {
		t.Errorf("standard output of keys create is %q, want the key alone", secret)
	}
	var key mgmt.Key
	out := run("keys", "create", "--tenant", "acme", "--expires", "90d", "--rate", "100/1m", "--burst", "20",
		"--permissions", "read,write", "--json")
	if err := json.Unmarshal([]byte(out), &key); err != nil {
		t.Fatal(err)
	}
	if key.Key == "" || *key.Rate != (mgmt.Rate{Requests: 100, Window: "1m", Burst: 20}) || len(key.Permissions) != 2 ||
		key.ExpiresAt.Sub(key.CreatedAt).Round(time.Hour) != 90*24*time.Hour {
		t.Errorf("created %s", out)
	}
	for _, c := range [][2]string{{"disable", "disabled"}, {"enable", "active"}, {"show", "active"}, {"revoke", "revoked"}, {"revoke", "revoked"}} {
		var got mgmt.Key
		if err := json.Unmarshal([]byte(run("keys", c[0], key.ID, "--json")), &got); err != nil || got.Status != c[1] || got.Key != "" {
			t.Errorf("keys %s: %+v, %v", c[0], got, err)
		}
	}
	list := run("keys", "list", "--tenant", "acme")
	if strings.Count(list, "\n") != 3 || !strings.Contains(list, key.ID) || strings.Contains(list, key.Key) || strings.Contains(list, strings.TrimSpace(secret)) {
		t.Errorf("list:\n%s", list)
	}
	if out := run("keys", "list", "--status", "revoked", "--json"); strings.Count(out, `"id"`) != 1 {
		t.Errorf("revoked: %s", out)
	}
	if out := run("status"); !strings.HasPrefix(out, "backend   bolt\nplans     pro\nprefixes  ak_live_ live\n") {
		t.Errorf("status: %q", out)
	}
	run("tenants", "suspend", "acme")
	run("tenants", "resume", "acme")
	run("tenants", "delete", "acme")
	if out := run("tenants", "list", "--json"); strings.TrimSpace(strings.Join(strings.Fields(out), "")) != `{"tenants":[]}` {
		t.Errorf("after delete: %s", out)
	}
}

func TestListWalksAllPages(t *testing.T) {
	addr := adminServer(t)
	if _, _, err := keytoll("tenants", "create", "acme", "--address", addr); err != nil {
		t.Fatal(err)
	}
	c := &mgmt.Client{Do: admin(addr)}
	const n = 120 // more than the largest page
	for range n {
		if _, err := c.CreateKey("acme", mgmt.CreateKey{}); err != nil {
			t.Fatal(err)
		}
	}
	if out, _, err := keytoll("keys", "list", "--address", addr); err != nil || strings.Count(out, "key_") != n {
		t.Errorf("listed %d of %d keys, %v", strings.Count(out, "key_"), n, err)
	}
}

// commandError is a wrong command line, what it is answered and its exit code.
type commandError struct {
	args []string
	want []string
	code int
}

// commandErrors returns wrong command lines for a server at addr and one without
// keytoll.
func commandErrors(addr, bare string) map[string]commandError {
	return map[string]commandError{
		"no tenant":           {[]string{"keys", "create", "--tenant", "acme", "--address", addr}, []string{`there is no tenant "acme"`, "hint: caddy keytoll tenants create acme"}, 1},
		"no server":           {[]string{"status", "--address", "127.0.0.1:1"}, []string{"no caddy answers at 127.0.0.1:1", "hint: start it: caddy run", "--address"}, 1},
		"no port":             {[]string{"status", "--address", "localhost"}, []string{`"localhost" is no admin address`, "localhost:2019"}, 1},
		"no keytoll":          {[]string{"status", "--address", bare}, []string{"this server has no keytoll", "hint: "}, 1},
		"no config":           {[]string{"status", "--config", "/nonexistent/Caddyfile"}, []string{"admin address is not known", "hint: "}, 1},
		"not our id":          {[]string{"keys", "revoke", "42", "--address", addr}, []string{"not a key id", "hint: caddy keytoll keys list"}, 1},
		"no plan":             {[]string{"tenants", "create", "b", "--plan", "gold", "--address", addr}, []string{`there is no plan "gold"`, "hint: "}, 1},
		"no --tenant":         {[]string{"keys", "create"}, []string{"keys create needs --tenant", "hint: "}, 2},
		"bad expiry":          {[]string{"keys", "create", "--tenant", "a", "--expires", "soon"}, []string{`--expires "soon": want a time`}, 2},
		"past":                {[]string{"keys", "create", "--tenant", "a", "--expires", "2001-01-01T00:00:00Z"}, []string{"is in the past"}, 2},
		"NaN rate":            {[]string{"keys", "create", "--tenant", "a", "--rate", "NaN/1m"}, []string{"--rate: "}, 2},
		"burst alone":         {[]string{"keys", "create", "--tenant", "a", "--burst", "3"}, []string{"--burst needs --rate"}, 2},
		"bad metadata":        {[]string{"keys", "create", "--tenant", "a", "--metadata", "x"}, []string{"want key=value"}, 2},
		"no such flag":        {[]string{"keys", "create", "--tennant", "a"}, []string{"unknown flag: --tennant", "hint: keytoll keys create --help"}, 2},
		"no such command":     {[]string{"keys", "crate"}, []string{`there is no command "keytoll keys crate"`, "hint: keytoll keys --help"}, 2},
		"no such group":       {[]string{"kyes", "create"}, []string{"there is no command"}, 2},
		"no argument":         {[]string{"tenants", "create"}, []string{"takes 1 argument, not 0"}, 2},
		"nothing to change":   {[]string{"keys", "update", "key_4fKq0ZbW81TnXyUc", "--address", addr}, []string{"needs a flag that says what to change", "hint: keytoll keys update --help"}, 2},
		"two expiries":        {[]string{"keys", "create", "--tenant", "a", "--expires", "1d", "--expires-in", "1d"}, []string{"give one of --expires"}, 2},
		"never and then":      {[]string{"keys", "update", "k", "--never", "--expires-in", "1d"}, []string{"not both"}, 2},
		"two rates":           {[]string{"keys", "update", "k", "--plan-rate", "--rate", "1/1m"}, []string{"not both"}, 2},
		"on and off":          {[]string{"keys", "update", "k", "--enable", "--disable"}, []string{"not both"}, 2},
		"grace":               {[]string{"keys", "rotate", "k", "--grace", "soon"}, []string{`--grace "soon": want whole seconds`}, 2},
		"no such key":         {[]string{"keys", "rotate", "key_4fKq0ZbW81TnXyUc", "--address", addr}, []string{"there is no key", "hint: "}, 1},
		"revoke nothing":      {[]string{"keys", "revoke"}, []string{"takes ids of keys, or --secret", "hint: "}, 2},
		"secret as argument":  {[]string{"keys", "revoke", "--secret", "ak_live_x"}, []string{"reads keys from standard input"}, 2},
		"no secret":           {[]string{"keys", "revoke", "--secret"}, []string{"no key on standard input", "keys revoke --secret"}, 2},
		"nothing to inspect":  {[]string{"keys", "inspect", "--prefix", "kt_"}, []string{"no key on standard input", "hint: printf"}, 2},
		"bad prefix":          {[]string{"keys", "inspect", "--prefix", "kt"}, []string{"--prefix: ", "hint: "}, 2},
		"bad limit":           {[]string{"keys", "list", "--limit", "0"}, []string{"--limit 0: want 1 or more"}, 2},
		"all and some":        {[]string{"keys", "list", "--limit", "5", "--all"}, []string{"not both"}, 2},
		"bad since":           {[]string{"audit", "list", "--since", "then"}, []string{`--since "then": want a time`}, 2},
		"no such export":      {[]string{"import", "/nonexistent"}, []string{"cannot be read", "or - for standard input"}, 2},
		"empty export":        {[]string{"import", "-", "--address", addr}, []string{"this is no export", "caddy keytoll keys import"}, 1},
		"empty keys":          {[]string{"keys", "import", "-", "--address", addr}, []string{"the file is empty", "hint: "}, 1},
		"bad salt":            {[]string{"keys", "import", "-", "--salt", "hex:x"}, []string{"--salt: want"}, 2},
		"salt's place":        {[]string{"keys", "import", "-", "--salt-position", "middle"}, []string{"want prefix or suffix"}, 2},
		"import's tenant":     {[]string{"keys", "import", "-", "--tenant", "a b"}, []string{"--tenant: "}, 2},
		"no backup's place":   {[]string{"backup", "/nonexistent/a.db", "--address", addr}, []string{"no such file or directory", "hint: name a file in a directory"}, 1},
		"no database":         {[]string{"check", "/nonexistent/a.db"}, []string{"no such file", "hint: name the database with --db"}, 1},
		"nothing to compact":  {[]string{"compact", "--db", "/nonexistent/a.db"}, []string{"hint: name the database with --db"}, 1},
		"key in the open":     {[]string{"check", "--master-key", "AAAA"}, []string{"--master-key: want {file."}, 2},
		"no such master key":  {[]string{"check", "--master-key", "{env.NO_SUCH_KEY}"}, []string{"there is no such value", "hint: "}, 1},
		"two databases":       {[]string{"check", "a", "--db", "b"}, []string{"takes one file, or --db"}, 2},
		"export twice JSON":   {[]string{"export", "-", "--json", "--address", addr}, []string{"leave --json out"}, 2},
		"nothing of a tenant": {[]string{"tenants", "update", "a"}, []string{"needs a flag that says what to change"}, 2},
		"bound twice":         {[]string{"tenants", "update", "a", "--permissions", "x", "--any-permission"}, []string{"not both"}, 2},
		"bad init":            {[]string{"init", "--tenant", "a b"}, []string{"tenant id"}, 2},
	}
}

func TestCommandErrorsSayTheNextStep(t *testing.T) {
	addr := adminServer(t)
	bare := httptest.NewServer(http.NotFoundHandler()) // a caddy without keytoll
	t.Cleanup(bare.Close)
	for name, c := range commandErrors(addr, bare.Listener.Addr().String()) {
		t.Run(name, func(t *testing.T) {
			out, errs, err := keytoll(c.args...)
			if err == nil || out != "" {
				t.Fatalf("error %v, standard output %q", err, out)
			}
			if !strings.Contains(errs, "keytoll: hint: ") {
				t.Errorf("standard error %q says no next step", errs)
			}
			for _, want := range c.want {
				if !strings.Contains(errs, want) {
					t.Errorf("standard error %q lacks %q", errs, want)
				}
			}
			for line := range strings.Lines(errs) {
				if !strings.HasPrefix(line, "keytoll: ") || strings.HasSuffix(line, ".\n") {
					t.Errorf("line %q", line)
				}
			}
			if usage := err.Error() == "exiting with status 2"; usage != (c.code == exitUsage) {
				t.Errorf("error %v, want exit code %d", err, c.code)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	for want, args := range map[int][]string{
		0: {"keytoll", "keys", "create", "--help"},
		1: {"keytoll", "status", "--address", "127.0.0.1:1"},
		2: {"keytoll", "keys", "create"},
	} {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "KEYTOLL_TEST_COMMAND=1")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != want {
			t.Errorf("caddy %v: %v, exit code %d, want %d", args, err, cmd.ProcessState.ExitCode(), want)
		}
		for line := range strings.Lines(errs.String()) {
			if !strings.HasPrefix(line, "keytoll: ") {
				t.Errorf("caddy %v: standard error has the line %q", args, line)
			}
		}
	}
}

func TestInit(t *testing.T) {
	db := filepath.Join(t.TempDir(), "data", "keytoll.db")
	out, errs, err := keytoll("init", "--db", db, "--tenant", "acme", "--prefix", "ak_live_", "--json")
	if err != nil {
		t.Fatal(err, errs)
	}
	var k mgmt.Key
	if err := json.Unmarshal([]byte(out), &k); err != nil || !strings.HasPrefix(k.Key, "ak_live_") || k.Tenant != "acme" {
		t.Fatalf("%s: %v", out, err)
	}
	for _, f := range []string{db, filepath.Join(filepath.Dir(db), "master.key")} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
	}
	if _, errs, err := keytoll("init", "--db", db, "--tenant", "acme"); err == nil || !strings.Contains(errs, "hint: start the server, then: caddy keytoll keys create --tenant acme") {
		t.Errorf("a second init: %v %s", err, errs)
	}
	if _, errs, err := keytoll("init", "--db", db, "--tenant", "b"); err != nil {
		t.Errorf("a second tenant: %v %s", err, errs)
	}
	b, err := boltstore.New(boltstore.Options{Path: db})
	if err != nil {
		t.Fatal(err)
	}
	s, err := b.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, errs, err := keytoll("init", "--db", db, "--tenant", "c"); err == nil || !strings.Contains(errs, "open in another process") ||
		!strings.Contains(errs, "hint: let that process do it: caddy keytoll tenants create c") {
		t.Errorf("init of an open database: %v %s", err, errs)
	}
}

func TestParseExpiry(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{"90d": 90 * 24 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute,
		"1s": time.Second, "1001ms": 2 * time.Second} {
		if at, in, err := parseExpiry(text, now); err != nil || at != nil || in == nil || time.Duration(*in)*time.Second != want {
			t.Errorf("%q is %v, %v, %v; want %v", text, at, in, err, want)
		}
	}
	at, in, err := parseExpiry("2031-01-01T00:00:00+01:00", now)
	if err != nil || in != nil || !at.Equal(time.Date(2030, 12, 31, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("a time is %v, %v, %v", at, in, err)
	}
	for _, text := range []string{"", "0", "0d", "-1d", "-5h", "1ms", "d", "NaN", "1e9h", "99999999999999h", "36526d", "2030-01-02", "2030-01-02T03:04:05Z"} {
		if at, in, err := parseExpiry(text, now); err == nil {
			t.Errorf("%q is %v, %v", text, at, in)
		}
	}
}
