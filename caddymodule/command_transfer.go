package caddymodule

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func exportCommand() *cobra.Command {
	cmd := file(remote(leaf("export <file|-> [--force] [--json]", "Writes all tenants and keys to one file, for another installation",
		"  $ caddy keytoll export keytoll.ndjson\n  $ caddy keytoll export - | gzip > keytoll.ndjson.gz", 1, export)))
	cmd.Long = `Writes all tenants and keys to one file, one JSON object a line: a header, the
tenants, the keys, and a last line that counts them. It holds no secrets but their
digests, which are good with the same master key alone.`
	cmd.Flags().Bool("force", false, "Replace the file if it is there")
	return complete(cmd, nil)
}

func export(s *session, args []string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	if args[0] == "-" {
		if s.json() {
			return usage("the export to standard output is JSON already: leave --json out")
		}
		_, err := c.Export(s.out)
		return err
	}
	n, err := s.writeFile(args[0], c.Export)
	if err != nil {
		return err
	}
	note(s.err, "hint: at the other server: caddy keytoll import %s", args[0])
	if s.json() {
		return s.printJSON(map[string]any{"file": args[0], "bytes": n})
	}
	return s.printRows(row{"file", args[0]}, row{"bytes", decimal(n)})
}

func importCommand() *cobra.Command {
	cmd := file(remote(leaf("import <file|-> [--dry-run] [--json]", "Takes in the tenants and keys of an export",
		"  $ caddy keytoll import keytoll.ndjson --dry-run\n  $ gzip -dc keytoll.ndjson.gz | caddy keytoll import -", 1, importExport)))
	cmd.Long = `Takes in the tenants and keys of 'caddy keytoll export'. What is there already is
left as it is, so that it may be run again. The server needs the master key of the
one that the export is of. Keys of another product are for 'caddy keytoll keys
import'. The exit code is 1 if a line was refused.`
	cmd.Flags().Bool("dry-run", false, "Check everything, change nothing")
	return complete(cmd, nil)
}

// exportVersion is what this keytoll reads and writes.
const exportVersion = 1

// Bounds of an import of an export: bytes of a line and of a part that is sent
// at once, which the server takes up to 4 MiB of.
const (
	maxExportLine = 64 << 10
	maxPart       = 2 << 20
)

// transfer is an import of an export that is under way.
type transfer struct {
	s    *session
	c    *mgmt.Client
	how  mgmt.ImportOptions
	head []byte // the header line, which each part begins with
	part bytes.Buffer
	at   []int // the line of the file that each line of the part is

	out    *sheet
	report transferred
	notes  int // lines at the last note
	last   exportEnd

	digests bool // a line was refused for its digest
}

// transferred is the result of an import of an export.
type transferred struct {
	Lines   int `json:"lines"`
	Created int `json:"created"` // keys
	Skipped int `json:"skipped"` // keys that were there already
	Refused int `json:"refused"` // lines
}

// exportEnd is what the first and the last line of an export say of it.
type exportEnd struct {
	Export  int    `json:"keytoll_export"`
	Type    string `json:"type"`
	Tenants int    `json:"tenants"`
	Keys    int    `json:"keys"`
}

func importExport(s *session, args []string) error {
	in, err := s.input(args[0])
	if err != nil {
		return err
	}
	defer in.Close()
	c, err := s.client()
	if err != nil {
		return err
	}
	t := &transfer{s: s, c: c, how: mgmt.ImportOptions{DryRun: s.is("dry-run"), CreateTenants: s.is("dry-run")}}
	if err := t.read(bufio.NewReaderSize(in, maxExportLine)); err != nil {
		if t.report.Created > 0 {
			note(s.err, "%d keys were taken in before that: run it again, they will be skipped", t.report.Created)
		}
		return err
	}
	if err := t.result(); err != nil {
		return err
	}
	if t.how.DryRun {
		note(s.err, "this was a dry run: nothing was changed")
	}
	if t.digests {
		note(s.err, "hint: digests are good with one master key alone: give this server that of the one which the export is of")
	}
	return refusedLines(t.report.Refused, t.report.Lines, t.how.DryRun)
}

func (t *transfer) read(in *bufio.Reader) error {
	for number := 1; ; number++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("line %d is longer than any of an export", number)
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("reading line %d: %w", number, err)
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if err := t.line(number, line); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
	}
	if t.head == nil {
		return notExport("the file is empty")
	}
	if err := t.send(); err != nil {
		return err
	}
	if t.last.Type != "end" {
		return &failure{message: "the file was cut off: its last line, of type end, is missing", hints: []string{
			"export again; what is in this file was taken in, and will be skipped"}}
	}
	return nil
}

func notExport(why string) error {
	return &failure{message: "this is no export of keytoll: " + why, hints: []string{
		"make one with caddy keytoll export <file>", "keys of another product: caddy keytoll keys import <file>"}}
}

func (t *transfer) line(number int, line []byte) error {
	t.report.Lines++
	if t.head == nil {
		var head exportEnd
		if json.Unmarshal(line, &head) != nil || head.Export == 0 {
			return notExport("the first line is not its header")
		}
		if head.Export != exportVersion {
			return &failure{message: fmt.Sprintf("the export is of version %d: this keytoll reads version %d", head.Export, exportVersion),
				hints: []string{"use the keytoll that wrote it, or export again with this one"}}
		}
		t.head = append(bytes.Clone(line), '\n')
		return nil
	}
	if t.last.Type == "end" {
		return notExport(fmt.Sprintf("line %d stands behind the end", number))
	}
	if t.last = (exportEnd{}); bytes.Contains(line, []byte(`"end"`)) {
		_ = json.Unmarshal(line, &t.last) // one that is wrong is the server's to refuse
	}
	if len(t.head)+t.part.Len()+len(line) >= maxPart {
		if err := t.send(); err != nil {
			return err
		}
	}
	t.part.Write(line)
	t.part.WriteByte('\n')
	t.at = append(t.at, number)
	return nil
}

// send sends a part and notes what became of it.
func (t *transfer) send() error {
	if len(t.at) == 0 {
		return nil
	}
	r, err := t.c.ImportLines(append(bytes.Clone(t.head), t.part.Bytes()...), t.how)
	if err != nil {
		return err
	}
	t.report.Created += r.Created
	t.report.Skipped += r.Skipped
	t.report.Refused += len(r.Errors)
	for _, e := range r.Errors {
		if i := e.Line - 2; i >= 0 && i < len(t.at) { // line 1 is the header
			e.Line = t.at[i]
		} else {
			e.Line = 1
		}
		t.digests = t.digests || e.Field == "digest"
		if t.out == nil {
			t.out = newSheet(t.s, "refusals", "LINE\tFIELD\tWHY")
		}
		if err := t.out.add(e, func() []string { return []string{decimal(e.Line), dash(e.Field), e.Message} }); err != nil {
			return err
		}
	}
	t.part.Reset()
	t.at = t.at[:0]
	if t.report.Lines-t.notes >= progressLines {
		t.notes = t.report.Lines
		note(t.s.err, "%d lines: %d created, %d skipped, %d refused", t.report.Lines, t.report.Created, t.report.Skipped, t.report.Refused)
	}
	return nil
}

func (t *transfer) result() error {
	r := t.report
	if t.s.json() {
		if t.out == nil {
			t.out = newSheet(t.s, "refusals", "")
		}
		return t.out.close("report", r)
	}
	if t.out != nil {
		if err := t.out.close("", nil); err != nil {
			return err
		}
	}
	return t.s.printRows(row{"lines", decimal(r.Lines)}, row{"created", decimal(r.Created)}, row{"skipped", decimal(r.Skipped)}, row{"refused", decimal(r.Refused)})
}
