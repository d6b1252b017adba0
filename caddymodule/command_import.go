package caddymodule

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/importer"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// progressLines is after how many lines an import says how far it is.
const progressLines = 50_000

func keysImportCommand() *cobra.Command {
	cmd := file(remote(leaf("import <file|-> [--tenant <id>] [--dry-run] [--create-tenants] [--salt <salt> --salt-position <where>] [--report <file>] [--json]",
		"Takes in keys of another product from CSV or NDJSON", `  $ caddy keytoll keys import keys.csv --dry-run
  $ caddy keytoll keys import keys.csv --create-tenants --report refused.ndjson
  $ psql -c "copy (…) to stdout csv header" | caddy keytoll keys import - --tenant acme
  $ caddy keytoll keys import keys.ndjson --salt pepper --salt-position suffix --json`, 1, importKeys)))
	cmd.Long = `Takes in keys of another product, so that their owners notice nothing. The file is
CSV with a header, or one JSON object a line. Its columns:

  tenant         whose the key is (or give --tenant)
  key            the key in plain, or
  sha256         its SHA-256 in hex or base64, with --salt if it was salted, or
  hash           its bcrypt or argon2 hash
  hint           what the key starts with, for lists and to find slow hashes
  name, description, permissions, addresses, rate, expires_at, created_at,
  last_used_at, metadata, environment, disabled, id

Permissions and addresses have spaces between them; a rate is as 100/1m.

A line that is wrong is refused and reported by its number, never with what stood
there, and the others are taken in; mend it and run the file again: keys that are
there are skipped. With --dry-run all is checked and nothing changed. The exit
code is 1 if a line was refused.`
	f := cmd.Flags()
	f.String("tenant", "", "Tenant of all keys, for a file without the column tenant")
	f.Bool("dry-run", false, "Check everything, change nothing")
	f.Bool("create-tenants", false, "Make the tenants that are not there")
	f.String("salt", "", "Salt of the column sha256, as text or as hex:… or base64:…")
	f.String("salt-position", "prefix", "Where the salt stood when the key was hashed: prefix or suffix")
	f.String("report", "", "File that gets the refused lines, one JSON object a line; it must not be there yet")
	return complete(cmd, map[string][]string{"salt-position": {"prefix", "suffix"}})
}

// importing is an import that is under way.
type importing struct {
	s      *session
	out    *sheet
	report io.Writer // of --report; nil for none
	notes  int       // lines at the last note
	failed error     // of writing the refused lines

	noTenant bool // a line was refused because its tenant is not there
}

func importKeys(s *session, args []string) error {
	o, err := s.importOptions()
	if err != nil {
		return err
	}
	in, err := s.input(args[0])
	if err != nil {
		return err
	}
	defer in.Close()
	src, err := s.keysFile(in)
	if err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	if o.Keys, err = mintedBy(c); err != nil {
		return err
	}
	im := &importing{s: s}
	if path := s.text("report"); path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return &failure{message: "--report: " + err.Error(), hints: []string{"name a file that is not there yet"}}
		}
		defer f.Close()
		im.report = f
	}
	return im.run(c, src, o)
}

// keysFile returns a file with the tenant of --tenant in each line.
func (s *session) keysFile(in io.Reader) (io.Reader, error) {
	src := bufio.NewReaderSize(in, importer.MaxLine+2)
	if start, _ := src.Peek(64); strings.HasPrefix(string(start), `{"keytoll_export"`) {
		return nil, &failure{message: "the file is an export of keytoll", hints: []string{"caddy keytoll import <file> takes it in"}}
	}
	if !s.given("tenant") {
		return src, nil
	}
	if err := access.CheckTenantID(s.text("tenant")); err != nil {
		return nil, usage("--tenant: %s", err)
	}
	return &tenantLines{in: src, tenant: s.text("tenant")}, nil
}

// mintedBy returns the prefixes of the running server's keys.
func mintedBy(c *mgmt.Client) (token.Set, error) {
	prefixes, err := prefixesOf(c)
	if err != nil {
		return token.Set{}, err
	}
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.Prefix)
	}
	return token.NewSet(texts...)
}

func (im *importing) run(c *mgmt.Client, src io.Reader, o importer.Options) error {
	s := im.s
	how := mgmt.ImportOptions{DryRun: s.is("dry-run"), CreateTenants: s.is("create-tenants")}
	o.Sink = func(_ context.Context, keys []registrar.ImportKey) ([]registrar.ImportResult, error) {
		if im.failed != nil {
			return nil, im.failed
		}
		return c.Import(keys, how)
	}
	o.Refused, o.Progress = im.refused, im.progress
	report, err := importer.Run(s.cmd.Context(), src, o)
	if err = errorsOf(im.failed, err); err != nil {
		if report.Created+report.Skipped > 0 {
			note(s.err, "%d keys were taken in before that: run it again, they will be skipped", report.Created)
		}
		return err
	}
	if err := im.result(report); err != nil {
		return err
	}
	if how.DryRun {
		note(s.err, "this was a dry run: nothing was changed")
	}
	if im.noTenant && !how.CreateTenants {
		note(s.err, "hint: --create-tenants makes the tenants that are not there")
	}
	if report.Unhinted > 0 {
		note(s.err, "%d keys have a slow or salted hash and no hint: an unknown key may be tried against all of them", report.Unhinted)
		note(s.err, "hint: add a column hint with what each key starts with")
	}
	return refusedLines(report.Refused, report.Lines, how.DryRun)
}

// refusedLines is the failure of an import of which lines were refused.
func refusedLines(n, of int, dry bool) error {
	if n == 0 {
		return nil
	}
	again := "mend them and run the file again: keys that are there are skipped"
	if dry {
		again = "mend them, then run it without --dry-run"
	}
	return &failure{message: fmt.Sprintf("%d of %d lines were refused", n, of), hints: []string{again}}
}

func (im *importing) refused(r importer.Refusal) {
	if im.failed != nil {
		return
	}
	im.noTenant = im.noTenant || strings.HasPrefix(r.Message, "there is no tenant")
	if im.report != nil {
		im.failed = json.NewEncoder(im.report).Encode(r)
		return
	}
	if im.out == nil {
		im.out = newSheet(im.s, "refusals", "LINE\tCOLUMN\tWHY")
	}
	im.failed = im.out.add(r, func() []string { return []string{decimal(r.Line), dash(r.Field), r.Message} })
}

func (im *importing) progress(r importer.Report) {
	if r.Lines-im.notes < progressLines {
		return
	}
	im.notes = r.Lines
	note(im.s.err, "%d lines: %d created, %d skipped, %d refused", r.Lines, r.Created, r.Skipped, r.Refused)
}

// result shows the numbers, behind the refused lines.
func (im *importing) result(r importer.Report) error {
	if im.s.json() {
		if im.out == nil {
			im.out = newSheet(im.s, "refusals", "")
		}
		return im.out.close("report", r)
	}
	if im.out != nil {
		if err := im.out.close("", nil); err != nil {
			return err
		}
	}
	return im.s.printRows(row{"lines", decimal(r.Lines)}, row{"created", decimal(r.Created)}, row{"skipped", decimal(r.Skipped)}, row{"refused", decimal(r.Refused)})
}

// importOptions reads the flags of the salt.
func (s *session) importOptions() (o importer.Options, err error) {
	switch where := s.text("salt-position"); where {
	case "prefix", "suffix":
		o.SaltSuffix = where == "suffix"
	default:
		return o, usage("--salt-position %q: want prefix or suffix", where)
	}
	if !s.given("salt") {
		if s.given("salt-position") {
			return o, usage("--salt-position needs --salt")
		}
		return o, nil
	}
	text := s.text("salt")
	o.Salt = []byte(text)
	if digits, ok := strings.CutPrefix(text, "hex:"); ok {
		o.Salt, err = hex.DecodeString(digits)
	} else if digits, ok := strings.CutPrefix(text, "base64:"); ok {
		o.Salt, err = base64.StdEncoding.DecodeString(digits)
	}
	if err != nil || len(o.Salt) == 0 {
		return o, usage("--salt: want a text, or hex:… or base64:…")
	}
	return o, nil
}

// input opens a file, or standard input for "-".
func (s *session) input(name string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(s.cmd.InOrStdin()), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, &failure{code: exitUsage, message: "the file cannot be read: " + err.Error(), hints: []string{"name a file, or - for standard input"}}
	}
	return f, nil
}
