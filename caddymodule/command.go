package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"os/user"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "keytoll",
		Usage: "<command>",
		Short: "Manages API keys and tenants",
		Long: `
Manages the API keys and tenants of keytoll.

Most commands talk to a running Caddy through its admin endpoint, found as by
'caddy trust': --address, or the admin address of --config, or the default.
Changes count from the next request on. The commands init, restore, check and
compact work on the database of a server that is stopped; conformance talks to
the API itself; 'keys inspect' works alone.

Results go to standard output and everything else to standard error, so that
KEY=$(caddy keytoll keys create --tenant acme) works. The exit code is 0, 1 if
the command failed, 2 if it was not understood.`,
		CobraFunc: keytollCommand,
	})
}

func keytollCommand(root *cobra.Command) {
	root.Example = `  $ caddy keytoll tenants create acme
  $ caddy keytoll keys create --tenant acme --name laptop
  $ caddy keytoll keys list --tenant acme
  $ caddy keytoll keys rotate key_4fKq0ZbW81TnXyUc --grace 24h
  $ caddy keytoll keys revoke key_4fKq0ZbW81TnXyUc
  $ caddy keytoll credits grant acme 500 --expires-in 90d
  $ caddy keytoll usage --tenant acme --since 7d
  $ caddy keytoll provider-keys set acme elevenlabs < key.txt
  $ caddy keytoll backup keytoll-backup.db`
	group(root, initCommand(), statusCommand(), tenantsCommand(), keysCommand(), creditsCommand(), usageCommand(), auditCommand(),
		providerKeysCommand(), rekeyCommand(), backupCommand(), restoreCommand(), checkCommand(), compactCommand(), exportCommand(), importCommand(),
		file(conformanceCommand()))
}

// group makes cmd a command that only has others. Without this, cobra answers
// a misspelt command with the help text and exit code 0.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		e := usage("there is no command %q", cmd.CommandPath()+" "+args[0])
		e.hints = []string{cmd.CommandPath() + " --help"}
		return finish(cmd, e)
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if args := cmd.Flags().Args(); len(args) > 0 { // a misspelt command with flags that this one has not
			return cmd.RunE(cmd, args)
		}
		return flagError(cmd, err)
	})
	return cmd
}

// several is any number of arguments, for leaf.
const several = -1

// leaf makes a command that runs. It takes none to two arguments, or several.
func leaf(use, short, example string, arguments int, run func(*session, []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions}
	cmd.Flags().Bool("json", false, "Print JSON")
	cmd.SetFlagErrorFunc(flagError)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if arguments != several && len(args) != arguments {
			e := usage("%s takes %s, not %d", cmd.CommandPath(), [...]string{"no argument", "1 argument", "2 arguments"}[arguments], len(args))
			e.hints = []string{cmd.CommandPath() + " --help"}
			return finish(cmd, e)
		}
		if cmd.Flags().Lookup("address") != nil {
			if err := refuseSecrets(cmd, args); err != nil {
				return finish(cmd, err)
			}
		}
		s := &session{cmd: cmd, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}
		return finish(cmd, run(s, args))
	}
	return cmd
}

// file lets the shell complete the arguments of a command to names of files.
func file(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = nil
	return cmd
}

// remote adds the flags that say where the admin endpoint is.
func remote(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().String("address", "", "Address of the administration API listener (if --config is not used)")
	cmd.Flags().StringP("config", "c", "", "Configuration file (if --address is not used)")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply (if --config is used)")
	return cmd
}

func flagError(cmd *cobra.Command, err error) error {
	e := usage("%s", err)
	e.hints = []string{cmd.CommandPath() + " --help"}
	return finish(cmd, e)
}

// session is one run of a command.
type session struct {
	cmd *cobra.Command
	out io.Writer // results alone
	err io.Writer // all else
}

func (s *session) text(flag string) string { v, _ := s.cmd.Flags().GetString(flag); return v }
func (s *session) is(flag string) bool     { v, _ := s.cmd.Flags().GetBool(flag); return v }
func (s *session) given(flag string) bool  { return s.cmd.Flags().Changed(flag) }
func (s *session) json() bool              { return s.is("json") }
func (s *session) list(flag string) []string {
	v, _ := s.cmd.Flags().GetStringSlice(flag)
	return v
}

// client returns a client of the admin endpoint that the flags name.
func (s *session) client() (*mgmt.Client, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(s.text("address"), nil, s.text("config"), s.text("adapter"))
	if err != nil {
		return nil, &failure{message: "the admin address is not known: " + err.Error(),
			hints: []string{"name it with --address, such as --address localhost:2019"}}
	}
	return &mgmt.Client{Do: admin(address), Actor: actor()}, nil
}

// actor is the name that the audit trail gets: that of the user who runs the
// command.
func actor() string {
	u, err := user.Current()
	if err != nil || access.CheckName(u.Username) != nil {
		return ""
	}
	return u.Username
}

// admin returns a way to send one request to an admin endpoint.
func admin(address string) func(string, string, http.Header, io.Reader) (*http.Response, error) {
	return func(method, path string, header http.Header, body io.Reader) (*http.Response, error) {
		header.Set("Connection", "close") // each request has a connection of its own
		resp, err := caddycmd.AdminAPIRequest(address, method, path, header, body)
		if err == nil {
			return resp, nil
		}
		if resp := refused(err); resp != nil {
			return resp, nil
		}
		return nil, unreachable(address, err)
	}
}

func statusCommand() *cobra.Command {
	return remote(leaf("status [--json]", "Shows what the running keytoll says of itself",
		"  $ caddy keytoll status\n  $ caddy keytoll status --json", 0, func(s *session, _ []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			status, err := c.Status()
			if err != nil {
				return err
			}
			return s.printStatus(status)
		}))
}

// finish reports err and gives Caddy the exit code. Caddy's own wrapper would
// log the error as a structured line, and says "exit code 2" by an unexported
// type, which is had by wrapping a function that returns the code alone.
func finish(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	report(cmd.ErrOrStderr(), err, cmd.CommandPath()+" --help")
	f, ok := errors.AsType[*failure](err)
	if !ok || f.code != exitUsage {
		return err
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitUsage, nil })(cmd, nil)
}
