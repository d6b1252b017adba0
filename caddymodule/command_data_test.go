package caddymodule

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/importer"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// imported is what an import prints as JSON.
type imported struct {
	Refusals []importer.Refusal
	Report   importer.Report
}

func readImported(t *testing.T, out string) (i imported) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), &i); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return i
}

func TestCommandKeysImport(t *testing.T) {
	c := newClerk(t)
	const plain, short = "sk_live_0123456789abcdef", "tiny"
	c.secrets = append(c.secrets, plain, short)
	sum := sha256.Sum256([]byte("sk_live_hashed"))
	path := write(t, "keys.csv", fmt.Sprintf("tenant,key,sha256,name\nacme,%s,,plain\nacme,,%x,hashed\nacme,%s,,short\n", plain, sum, short))

	out, errs, err := c.try("", "keys", "import", path, "--dry-run", "--create-tenants", "--json")
	want := importer.Report{Lines: 4, Created: 2, Refused: 1}
	if i := readImported(t, out); err == nil || i.Report != want || len(i.Refusals) != 1 || i.Refusals[0].Line != 4 || i.Refusals[0].Field != "key" {
		t.Errorf("dry run: %v\n%s", err, out)
	}
	if !strings.Contains(errs, "1 of 4 lines were refused") || !strings.Contains(errs, "run it without --dry-run") {
		t.Errorf("dry run: %s", errs)
	}
	if out := c.run("tenants", "list", "--json"); strings.Contains(out, "acme") {
		t.Error("a dry run made a tenant")
	}
	if _, errs, _ := c.try("", "keys", "import", path, "--dry-run"); !strings.Contains(errs, "dry run: nothing was changed") || !strings.Contains(errs, "hint: --create-tenants") {
		t.Errorf("a dry run does not say so:\n%s", errs)
	}
	if out, _, err = c.try("", "keys", "import", path); err == nil || !strings.Contains(out, "LINE  COLUMN  WHY") || !strings.Contains(out, "refused  3") {
		t.Errorf("without its tenant: %v\n%s", err, out)
	}
	report := filepath.Join(t.TempDir(), "refused.ndjson")
	out, _, err = c.try("", "keys", "import", path, "--create-tenants", "--report", report, "--json")
	if i := readImported(t, out); err == nil || i.Report != want || len(i.Refusals) != 0 {
		t.Errorf("import: %v\n%s", err, out)
	}
	if text, err := os.ReadFile(report); err != nil || !strings.HasPrefix(string(text), `{"line":4,"field":"key"`) || strings.Contains(string(text), short) {
		t.Errorf("report: %s %v", text, err)
	}
	if _, errs, err := c.try("", "keys", "import", path, "--report", report); err == nil || !strings.Contains(errs, "hint: name a file that is not there yet") {
		t.Errorf("a report that is there: %v %s", err, errs)
	}
	out, _, _ = c.try("", "keys", "import", path, "--json")
	if i := readImported(t, out); i.Report != (importer.Report{Lines: 4, Skipped: 2, Refused: 1}) {
		t.Errorf("again\n%s", out)
	}
	if _, _, err := c.try(plain, "keys", "revoke", "--secret"); err != nil {
		t.Errorf("revoking a key that was moved in: %v", err)
	}
}

func TestCommandKeysImportForOneTenant(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme")
	for name, file := range map[string]string{
		"CSV":         "\ufeffkey,name\r\nsk_csv_0123456789,\"a, b\"\r\n\r\nsk_csv_1123456789,c",
		"NDJSON":      `{"key":"sk_json_0123456789","name":"a"}` + "\n\n " + `{"key":"sk_json_1123456789"}` + "\n",
		"a long line": "key,name\nsk_long_0123456789," + strings.Repeat("x", 200_000) + "\nsk_long_1123456789,a\nsk_long_2123456789,b\n",
	} {
		t.Run(name, func(t *testing.T) {
			c.t = t
			out, errs, _ := c.try(file, "keys", "import", "-", "--tenant", "acme", "--json")
			if i := readImported(t, out); i.Report.Created != 2 || i.Report.Refused != strings.Count(name, "long") {
				t.Errorf("%s%s", out, errs)
			}
		})
	}
	c.t = t
	if _, errs, err := c.try("tenant,key\nacme,sk_two_0123456789\n", "keys", "import", "-", "--tenant", "acme"); err == nil || !strings.Contains(errs, "twice") {
		t.Errorf("two tenants: %v %s", err, errs)
	}
	salted := sha256.Sum256([]byte("sk_salted_0123456789" + "pepper"))
	out, errs, err := c.try(fmt.Sprintf("sha256,hint\n%x,sk_salted_\n", salted), "keys", "import", "-", "--tenant", "acme", "--salt", "hex:706570706572", "--salt-position", "suffix")
	if err != nil || !strings.Contains(out, "created  1") {
		t.Errorf("salted: %s%s", out, errs)
	}
	if out := c.run("keys", "list", "--tenant", "acme", "--json"); strings.Count(out, `"id"`) != 7 {
		t.Errorf("%d keys", strings.Count(out, `"id"`))
	}
}

func TestExportAndImportCommands(t *testing.T) {
	c := newClerk(t)
	c.run("tenants", "create", "acme", "--permissions", "read")
	k := c.key("keys", "create", "--tenant", "acme", "--name", "laptop")
	path := filepath.Join(t.TempDir(), "export.ndjson")
	c.run("export", path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	text, err := os.ReadFile(path)
	if out := c.run("export", "-"); err != nil || out != string(text) || strings.Contains(out, k.Key) {
		t.Errorf("to standard output: %v\n%s", err, out)
	}
	if _, errs, err := c.try("", "export", path); err == nil || !strings.Contains(errs, "is there already") || !strings.Contains(errs, "--force") {
		t.Errorf("over another: %v %s", err, errs)
	}
	c.run("export", path, "--force")
	if _, errs, err := c.try("", "keys", "import", path); err == nil || !strings.Contains(errs, "hint: caddy keytoll import") {
		t.Errorf("the other import: %v %s", err, errs)
	}
	if out := c.run("import", path); !strings.Contains(out, "skipped  1") {
		t.Errorf("into itself\n%s", out)
	}
	if out := c.run("import", path, "--dry-run", "--json"); !strings.Contains(out, `"skipped": 1`) {
		t.Errorf("dry run\n%s", out)
	}
	c.run("tenants", "delete", "acme")
	lines := strings.SplitAfter(string(text), "\n")
	lines[2] = strings.Replace(lines[2], `"digest"`, `"digits"`, 1)
	out, errs, err := c.try(strings.Join(lines, ""), "import", "-")
	if err == nil || !strings.Contains(out, "3     digits") || !strings.Contains(errs, "1 of 4 lines were refused") {
		t.Errorf("a wrong line: %v\n%s%s", err, out, errs)
	}
	for cut, want := range map[string]string{
		strings.Join(lines[:2], ""): "the file was cut off",
		strings.Join(lines[1:], ""): "this is no export of keytoll",
		string(text) + lines[1]:     "stands behind the end",
		strings.Replace(string(text), `"keytoll_export":1`, `"keytoll_export":9`, 1):                                       "of version 9: this keytoll reads version 1",
		strings.Replace(string(text), `"keytoll_export":1`, `"keytoll_export":1,"x":"`+strings.Repeat("x", 70_000)+`"`, 1): "longer than any",
	} {
		if _, errs, err := c.try(cut, "import", "-"); err == nil || !strings.Contains(errs, want) || !strings.Contains(errs, "hint: ") {
			t.Errorf("want %q: %v %s", want, err, errs)
		}
	}
}

func TestImportSendsParts(t *testing.T) {
	c := newClerk(t)
	var file strings.Builder
	file.WriteString(`{"keytoll_export":1,"installation":"0123"}` + "\n" + `{"type":"tenant","id":"acme"}` + "\n")
	const n = 1500
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, i))
		fmt.Fprintf(&file, `{"type":"key","tenant":"acme","sha256":"%x","description":"%s","metadata":{"a":"%s"}}`+"\n", sum, strings.Repeat("d", 1000), strings.Repeat("v", 400))
		if i == n-2 {
			file.WriteString(`{"type":"key","tenant":"nobody","sha256":"00"}` + "\n")
		}
	}
	fmt.Fprintf(&file, `{"type":"end","tenants":1,"keys":%d}`, n)
	if file.Len() < maxPart {
		t.Fatal("one part holds it all")
	}
	out, errs, err := c.try(file.String(), "import", "-", "--json")
	if i := readImported(t, out); err == nil || i.Report.Created != n || len(i.Refusals) != 1 || i.Refusals[0].Line != n+2 {
		t.Errorf("%v %s\n%s", err, errs, out)
	}
}

func TestDatabaseCommands(t *testing.T) {
	dir := t.TempDir()
	db, copied := filepath.Join(dir, "keytoll.db"), filepath.Join(dir, "copy.db")
	if _, errs, err := keytoll("init", "--db", db, "--tenant", "acme"); err != nil {
		t.Fatal(errs)
	}
	var k mgmt.Key
	t.Run("running", func(t *testing.T) {
		c := &clerk{t: t, addr: adminServerAt(t, db)}
		if out := c.run("backup", copied, "--json"); !strings.Contains(out, `"bytes": `) {
			t.Errorf("backup: %s", out)
		}
		if _, errs, err := c.try("", "backup", copied); err == nil || !strings.Contains(errs, "is there already") {
			t.Errorf("a second backup: %v %s", err, errs)
		}
		k = c.key("keys", "create", "--tenant", "acme")
		c.run("backup", copied, "--force")
		c.run("keys", "revoke", k.ID)
		for _, args := range [][]string{{"check", "--db", db}, {"compact", "--db", db}, {"restore", copied, "--db", db}} {
			if _, errs, err := keytoll(args...); err == nil || !strings.Contains(errs, "hint: stop the server") {
				t.Errorf("%v: %v %s", args, err, errs)
			}
		}
	})
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, args := range [][]string{{"check", copied}, {"check", "--db", db, "--json"}, {"compact", "--db", db}, {"restore", copied, "--db", db}} {
		if out, errs, err := keytoll(args...); err != nil || out == "" {
			t.Errorf("%v: %v %s%s", args, err, out, errs)
		}
	}
	t.Run("restored", func(t *testing.T) {
		c := &clerk{t: t, addr: adminServerAt(t, db)}
		if got := c.key("keys", "show", k.ID); got.Status != "revoked" {
			t.Errorf("the backup armed a revoked key: %+v", got)
		}
	})
	file, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.ReplaceAll(file, []byte("first key"), []byte("First key"))
	if bytes.Equal(file, flipped) {
		t.Fatal("the copy has no key to change")
	}
	if err := os.WriteFile(copied, flipped, 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, err := keytoll("check", copied, "--json")
	var r checked
	if bad := json.Unmarshal([]byte(out), &r); bad != nil || err == nil || len(r.Problems) == 0 || !strings.Contains(errs, "hint: ") {
		t.Errorf("a changed byte: %v %v\n%s%s", err, bad, out, errs)
	}
}

// The admin endpoint of a running Caddy backs up and exports what it serves.
func TestAdminHooks(t *testing.T) {
	g := newGateway(t, "", plainGate)
	id, key := g.key("acme", registrar.CreateKeyRequest{})
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if use := activeUse(id); use.At == 0 {
		t.Error("no last use")
	}
	var file bytes.Buffer
	if n, err := activeBackup(t.Context(), &file); err != nil || int(n) != file.Len() || n == 0 {
		t.Errorf("backup of %d bytes, %v", n, err)
	}
	name := activeInstallation()
	if len(name) != 16 {
		t.Errorf("installation %q", name)
	}
	if st := activeStatus().(status); len(st.Prefixes) == 0 || st.Prefixes[0].Prefix != defaultPrefix {
		t.Errorf("status %+v", st)
	}
}
