package caddymodule

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/conformance"
)

func TestConformanceCommand(t *testing.T) {
	const secret = "psk_a1b2c3d4e5f6g7h8"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secret {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = w.Write([]byte(`{"echo":"` + r.Header.Get("Authorization") + `"}`))
	}))
	t.Cleanup(srv.Close)
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "keys.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const steps = `
vars: {key: ""}
secrets: [key]
steps:
- {name: a key, request: {path: /, headers: {Authorization: "Bearer {{key}}"}}, expect: {status: 200, json: {echo: "{{string}}"}}}
- {name: no key, request: {path: /}, expect: {status: 401, json: {echo: ""}}}
`
	good, bad := file(steps), file(strings.Replace(steps, `echo: "{{string}}"`, "echo: none", 1))
	for name, c := range map[string]struct {
		args     []string
		code     int
		out, err string // parts of standard output and error
	}{
		"same":          {[]string{good, srv.URL, "--var", "key=" + secret}, 0, "same   a key\nsame   no key\n2 the same, 0 different, 0 later\n", ""},
		"different":     {[]string{bad, srv.URL, "--var", "key=" + secret}, 1, "differ a key\n       body/echo: want \"none\", got \"[…]\"\n", "keytoll: 1 of 2 steps differ"},
		"no variable":   {[]string{good, srv.URL}, 2, "", "variable key has no value"},
		"bad variable":  {[]string{good, srv.URL, "--var", secret}, 2, "", "want name=value"},
		"twice":         {[]string{good, srv.URL, "--var", "key=a", "--var", "key=b"}, 2, "", "--var key is given twice"},
		"other":         {[]string{good, srv.URL, "--var", "key=a", "--var", "kez=b"}, 2, "", "the file has no variable kez"},
		"no base URL":   {[]string{good}, 2, "", "takes a file and a base URL, not 1 arguments"},
		"bad base URL":  {[]string{good, "api.example.com", "--var", "key=a"}, 2, "", "the base URL must be http:// or https://"},
		"no file":       {[]string{good + "x", srv.URL}, 2, "", "the file cannot be read"},
		"bad file":      {[]string{file("steps:\n- nam: a"), srv.URL}, 2, "", "line 2: step 1 has no member nam"},
		"no such flag":  {[]string{good, srv.URL, "--vars", "a"}, 2, "", "unknown flag: --vars"},
		"nobody's port": {[]string{good, "http://127.0.0.1:1", "--var", "key=a"}, 1, "2 different", "2 of 2 steps differ"},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, err := conformanceRun(c.args...)
			if code := exitCode(err); code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.err) {
				t.Errorf("exit code %d, want %d\n%s\n%s", code, c.code, out, errs)
			}
			if c.code == 2 && (out != "" || !strings.HasPrefix(errs, "keytoll: ")) {
				t.Errorf("standard output %q, error %q", out, errs)
			}
			if strings.Contains(out+errs, secret) {
				t.Errorf("the secret is printed:\n%s\n%s", out, errs)
			}
		})
	}
	out, _, err := conformanceRun(bad, srv.URL, "--json", "--var", "key="+secret)
	var rep conformance.Report
	if e := json.Unmarshal([]byte(out), &rep); e != nil || exitCode(err) != 1 || len(rep.Steps) != 2 || len(rep.Steps[0].Differences) != 1 {
		t.Errorf("%s: %v, %v", out, e, err)
	}
	help, _, err := conformanceRun("--help")
	if err != nil || !strings.Contains(help, "steps:") || !strings.Contains(help, "$ caddy keytoll conformance") {
		t.Errorf("help: %v\n%s", err, help)
	}
}

func conformanceRun(args ...string) (stdout, stderr string, err error) {
	root := &cobra.Command{Use: "keytoll"}
	group(root, conformanceCommand())
	var out, errs bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"conformance"}, args...))
	err = root.Execute()
	return out.String(), errs.String(), err
}

// exitCode returns the exit code that Caddy gives an error.
func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case err.Error() == "exiting with status 2":
		return exitUsage
	}
	return 1
}
