package caddymodule

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/conformance"
)

// conformanceCommand replays a file of requests and answers. It talks to the
// API itself, not to the admin endpoint.
func conformanceCommand() *cobra.Command {
	cmd := leaf("conformance <file> <base-url> [--var <name=value>] [--json]",
		"Replays a file of requests and expected answers and says what differs",
		`  $ caddy keytoll conformance keys.yaml https://api.example.com
  $ caddy keytoll conformance keys.yaml http://localhost:8080 --var key="$KEY" --var tier=free
  $ caddy keytoll conformance keys.yaml https://staging.example.com --json`, 0, nil)
	cmd.Long = `
Sends the requests of a file to an API and compares the answers, field by field,
with what the file says: status, headers, and the JSON body with its names,
types and values. Each step can carry the sentence of your documentation that
it proves.

The exit code is 0 if all is as the file says, 1 if anything differs, 2 if the
file or the command was not understood. Redirects are not followed. The value
of an Authorization header or of a variable that the file lists under secrets
is never printed. A file looks so:

  vars:
    key: "{env.API_KEY}"
  secrets: [key]
  steps:
    - name: no key
      sentence: A request without a key is answered with 401.
      request: {path: /v1/things}
      expect: {status: 401, json: {error: {code: unauthorized, message: "{{string}}"}}}
    - name: a key
      request: {path: /v1/things, headers: {Authorization: "Bearer {{key}}"}}
      expect: {status: 200, headers: {X-RateLimit-Limit: "{{integer}}"}}`
	cmd.Flags().StringArray("var", nil, "Value of a variable of the file, as name=value; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s := &session{cmd: cmd, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
		return finish(cmd, conform(s, args))
	}
	return cmd
}

func conform(s *session, args []string) error {
	if len(args) != 2 {
		e := usage("%s takes a file and a base URL, not %d arguments", s.cmd.CommandPath(), len(args))
		e.hints = []string{s.cmd.CommandPath() + " --help"}
		return e
	}
	if u, err := url.Parse(args[1]); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		e := usage("the base URL must be http:// or https://, a host and perhaps a path")
		e.hints = []string{s.cmd.CommandPath() + " " + args[0] + " http://localhost:8080"}
		return e
	}
	vars, err := s.variables()
	if err != nil {
		return err
	}
	file, err := os.Open(args[0])
	if err != nil {
		e := usage("the file cannot be read: %v", err)
		e.hints = []string{s.cmd.CommandPath() + " --help shows what a file looks like"}
		return e
	}
	defer file.Close()
	f, err := conformance.Load(file)
	if err != nil {
		e := usage("%s: %v", args[0], err)
		e.hints = []string{s.cmd.CommandPath() + " --help shows what a file looks like"}
		return e
	}
	report, err := conformance.Run(s.cmd.Context(), f, conformance.Options{BaseURL: args[1], Vars: vars})
	if err != nil {
		e := usage("%v", err)
		e.hints = []string{"give variables with --var name=value, or in the environment if the file says so"}
		return e
	}
	return s.printReport(report)
}

// variables reads --var.
func (s *session) variables() (map[string]string, error) {
	list, _ := s.cmd.Flags().GetStringArray("var")
	vars := make(map[string]string, len(list))
	for _, v := range list {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, usage("--var: want name=value") // the text may be a secret
		}
		if _, twice := vars[name]; twice {
			return nil, usage("--var %s is given twice", name)
		}
		vars[name] = value
	}
	return vars, nil
}

func (s *session) printReport(r *conformance.Report) error {
	if s.json() {
		if err := s.printJSON(r); err != nil {
			return err
		}
	} else if err := r.Write(s.out); err != nil {
		return err
	}
	if _, different, _ := r.Count(); different > 0 {
		return &failure{message: fmt.Sprintf("%d of %d steps differ", different, len(r.Steps)),
			hints: []string{"see the lines that begin with \"differ\", or change the file if it is the document that is wrong"}}
	}
	return nil
}
