package caddymodule

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// maxSecrets is how many secrets a command reads.
const maxSecrets = 10_000

// secrets reads secrets from standard input, one a line. Arguments are seen by
// every user of the machine and stay in the shell's history.
func (s *session) secrets() ([]string, error) {
	var list []string
	in := bufio.NewReaderSize(s.cmd.InOrStdin(), 2*token.MaxLen)
	for at := 1; ; at++ {
		line, err := in.ReadSlice('\n')
		text := strings.TrimSpace(string(line))
		switch {
		case err != nil && err != io.EOF && !errors.Is(err, bufio.ErrBufferFull):
			return nil, fmt.Errorf("reading standard input: %w", err)
		case errors.Is(err, bufio.ErrBufferFull), len(text) > token.MaxLen:
			return nil, usage("line %d of standard input is longer than any key", at)
		case text != "":
			list = append(list, text)
		}
		if len(list) > maxSecrets {
			return nil, usage("more than %d keys on standard input: give fewer at a time", maxSecrets)
		}
		if err == io.EOF {
			break
		}
	}
	if len(list) == 0 {
		return nil, &failure{code: exitUsage, message: "there is no key on standard input",
			hints: []string{`printf '%s\n' "$KEY" | ` + s.cmd.CommandPath() + s.secretFlag()}}
	}
	return list, nil
}

func (s *session) secretFlag() string {
	if s.cmd.Flags().Lookup("secret") != nil {
		return " --secret"
	}
	return ""
}

func keysRevokeCommand() *cobra.Command {
	cmd := remote(leaf("revoke <id…> | --secret [--json]", "Refuses keys for good, from the next request on",
		`  $ caddy keytoll keys revoke key_4fKq0ZbW81TnXyUc
  $ caddy keytoll keys revoke --secret < leaked.txt
  $ printf '%s\n' "$KEY" | caddy keytoll keys revoke --secret`, several, revokeKeys))
	cmd.Long = `Refuses keys for good, from the next request on. Requests of theirs that are still
open, such as streams, end.

With --secret the keys themselves are read from standard input, one a line, as
they were found in a leak; never give a key as an argument. A secret that was
rotated away and is in its grace counts as its key.`
	cmd.Flags().Bool("secret", false, "Read the keys themselves from standard input, one a line")
	return complete(cmd, nil)
}

func revokeKeys(s *session, args []string) error {
	bySecret := s.is("secret")
	switch {
	case bySecret && len(args) > 0:
		return usage("--secret reads keys from standard input and takes no argument")
	case !bySecret && len(args) == 0:
		return usage("%s takes ids of keys, or --secret", s.cmd.CommandPath())
	}
	if !bySecret {
		for _, id := range args { // all of them, before any is revoked
			if err := checkKeyID(id); err != nil {
				return err
			}
		}
	}
	what, revoke := "id", (*mgmt.Client).RevokeKey
	if bySecret {
		var err error
		if args, err = s.secrets(); err != nil {
			return err
		}
		what, revoke = "line", (*mgmt.Client).RevokeSecret
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	if len(args) == 1 && !bySecret {
		k, err := revoke(c, args[0])
		if err != nil {
			return err
		}
		return s.printKey(k)
	}
	return s.revokeAll(c, args, what, revoke)
}

// revokeAll revokes what can be revoked: one slip in a list of leaked keys must
// not keep the others alive.
func (s *session) revokeAll(c *mgmt.Client, list []string, what string, revoke func(*mgmt.Client, string) (mgmt.Key, error)) error {
	out := newSheet(s, "keys", "ID\tTENANT\tNAME\tSTATUS\tREVOKED")
	failed := 0
	for i, v := range list {
		k, err := revoke(c, v)
		if err != nil {
			if _, answered := errors.AsType[*mgmt.Error](err); !answered {
				return errorsOf(err, out.end(""))
			}
			failed++
			note(s.err, "%s %d: %s", what, i+1, err)
			continue
		}
		if err := out.add(k, func() []string {
			return []string{k.ID, k.Tenant, dash(k.Name), k.Status, stamp(k.RevokedAt)}
		}); err != nil {
			return err
		}
	}
	if err := out.end(""); err != nil {
		return err
	}
	if failed > 0 {
		f := &failure{message: fmt.Sprintf("%d of %d keys were not revoked", failed, len(list)),
			hints: []string{"look for them with caddy keytoll keys list, and revoke them by id"}}
		if what == "line" {
			f.hints = append(f.hints, "a secret that was rotated away and is dead already is not found")
		}
		return f
	}
	return nil
}

func keysInspectCommand() *cobra.Command {
	cmd := remote(leaf("inspect [--prefix <prefix>] [--json]", "Tells what the text of a key says of itself",
		`  $ printf '%s\n' "$KEY" | caddy keytoll keys inspect
  $ caddy keytoll keys inspect --prefix ak_live_ --json < key.txt`, 0, inspectKey))
	cmd.Long = `Reads a key from standard input and tells its prefix, its environment and whether
its checksum is right. The key is sent nowhere and printed nowhere.

Which prefixes are in use, and of which environment, is asked of the running
server if there is one; with --prefix no server is asked. Whether a key is good
can only the server tell: 'caddy keytoll keys list' shows how each key starts.
The exit code is 1 if the text is not a key as keytoll makes them.`
	cmd.Flags().StringArray("prefix", nil, "Prefix in use, as prefix or prefix=environment; may be repeated")
	return complete(cmd, nil)
}

// inspection is what a key says of itself.
type inspection struct {
	Form        string `json:"form"`        // minted, wrong_checksum or other
	Prefix      string `json:"prefix"`      // empty: none of the right form
	Known       *bool  `json:"known"`       // the prefix is in use; null: no one to ask
	Environment string `json:"environment"` // of the prefix
	Shown       string `json:"shown"`       // what lists show of the key
}

func inspectKey(s *session, _ []string) error {
	prefixes, asked, err := s.prefixes()
	if err != nil {
		return err
	}
	list, err := s.secrets()
	if err != nil {
		return err
	}
	if len(list) != 1 {
		return usage("%s reads one key, not %d", s.cmd.CommandPath(), len(list))
	}
	in := inspect(list[0], prefixes, asked)
	if err := s.printInspection(in); err != nil {
		return err
	}
	switch in.Form {
	case "wrong_checksum":
		return &failure{message: "the checksum is wrong: the key was mistyped or cut off", hints: []string{"copy it again, whole"}}
	case "other":
		return &failure{message: "this is no key as keytoll makes them", hints: []string{
			"a key that was moved in from another product has another form; only the server knows it"}}
	}
	return nil
}

// inspect reads the prefix off the text itself: no other part of a key can hold
// an underscore.
func inspect(text string, prefixes []Prefix, asked bool) inspection {
	in := inspection{Form: "other"}
	prefix := text[:strings.LastIndexByte(text, '_')+1]
	set, err := token.NewSet(prefix)
	if err == nil {
		switch set.Classify(text) {
		case token.Minted:
			in.Form = "minted"
		case token.Garbage:
			in.Form = "wrong_checksum"
		}
	}
	if in.Form == "other" {
		in.Shown = token.Set{}.Display(token.Wrap(text))
		return in
	}
	in.Prefix, in.Shown = prefix, set.Display(token.Wrap(text))
	if asked {
		in.Known = new(false)
	}
	for _, p := range prefixes {
		if p.Prefix == prefix {
			in.Known, in.Environment = new(true), p.Environment
		}
	}
	return in
}

// prefixes returns those of --prefix, or those of the running server; asked says
// that these are all.
func (s *session) prefixes() (list []Prefix, asked bool, err error) {
	given, _ := s.cmd.Flags().GetStringArray("prefix")
	for _, text := range given {
		prefix, environment, _ := strings.Cut(text, "=")
		if err := token.CheckPrefix(prefix); err != nil {
			return nil, false, usage("--prefix: %s", err)
		}
		list = append(list, Prefix{Prefix: prefix, Environment: environment})
	}
	if len(given) > 0 {
		return list, true, nil
	}
	c, err := s.client()
	if err != nil {
		return nil, false, err
	}
	if list, err = prefixesOf(c); err != nil { // such as no server
		return nil, false, nil
	}
	return list, len(list) > 0, nil
}

// prefixesOf asks the running server.
func prefixesOf(c *mgmt.Client) ([]Prefix, error) {
	raw, err := c.Status()
	if err != nil {
		return nil, err
	}
	var st struct{ Prefixes []Prefix }
	if err := json.Unmarshal(raw, &st); err != nil {
		return nil, fmt.Errorf("the answer is not what keytoll sends: %w", err)
	}
	return st.Prefixes, nil
}

func (s *session) printInspection(in inspection) error {
	if s.json() {
		return s.printJSON(in)
	}
	checksum := map[string]string{"minted": "right", "wrong_checksum": "wrong", "other": "none"}[in.Form]
	known := "unknown: no server to ask, and no --prefix"
	if in.Known != nil {
		known = map[bool]string{true: "yes", false: "no"}[*in.Known]
	}
	return s.printRows(row{"form", strings.ReplaceAll(in.Form, "_", " ")}, row{"prefix", in.Prefix}, row{"in use", known},
		row{"environment", in.Environment}, row{"checksum", checksum}, row{"shown as", in.Shown})
}
