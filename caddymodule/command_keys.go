package caddymodule

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

// maxDays keeps an expiry in days within a time.Duration: a hundred years.
const maxDays = 36525

func keysCommand() *cobra.Command {
	return group(&cobra.Command{Use: "keys", Short: "Manages API keys"},
		keysCreateCommand(), keysListCommand(),
		keyCommand("show", "Shows a key, but never its secret", (*mgmt.Client).Key),
		keyCommand("revoke", "Refuses a key for good, from the next request on", (*mgmt.Client).RevokeKey),
		keyCommand("disable", "Refuses a key from the next request on, until it is enabled", setKeyStatus("disabled")),
		keyCommand("enable", "Lets a disabled key in again", setKeyStatus("active")),
	)
}

func keysCreateCommand() *cobra.Command {
	cmd := remote(leaf("create --tenant <id> [--name <text>] [--expires <when>] [--rate <n/window>] [--json]",
		"Creates a key and prints it, this once", `  $ caddy keytoll keys create --tenant acme --name laptop
  $ caddy keytoll keys create --tenant acme --expires 90d --rate 100/1m --burst 20
  $ caddy keytoll keys create --tenant acme --expires 2030-01-31T00:00:00Z --permissions read,write --json
  $ KEY=$(caddy keytoll keys create --tenant acme --environment test)`, 0, createKey))
	f := cmd.Flags()
	f.String("tenant", "", "Tenant that the key belongs to (required)")
	f.String("name", "", "Name for people")
	f.String("expires", "", "When the key ends: a time such as 2030-01-31T00:00:00Z, or a duration from now such as 90d or 12h (default: never)")
	f.String("rate", "", "Requests per window, such as 100/1m (default: as the plan)")
	f.String("burst", "", "Requests at once (default: as many as the rate's; needs --rate)")
	f.String("prefix", "", "Key prefix of the configuration (default: the first)")
	f.String("environment", "", "Environment whose prefix is used")
	f.StringSlice("permissions", nil, "Permissions, separated by commas")
	f.StringArray("metadata", nil, "Value of your own, as key=value; may be repeated")
	return cmd
}

func createKey(s *session, _ []string) error {
	tenant := s.text("tenant")
	if tenant == "" {
		return &failure{code: exitUsage, message: "keys create needs --tenant", hints: []string{"caddy keytoll tenants list shows them"}}
	}
	req := mgmt.CreateKey{Name: s.text("name"), Prefix: s.text("prefix"), Environment: s.text("environment")}
	req.Permissions, _ = s.cmd.Flags().GetStringSlice("permissions")
	var err error
	if req.ExpiresAt, err = parseExpiry(s.text("expires"), time.Now()); err != nil {
		return err
	}
	if req.Rate, err = parseRate(s.text("rate"), s.text("burst")); err != nil {
		return err
	}
	if req.Metadata, err = s.metadata(); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	k, err := c.CreateKey(tenant, req)
	if err != nil {
		return err
	}
	return s.printNewKey(k)
}

// parseExpiry reads a time or a duration from now; "" is nil, never.
func parseExpiry(text string, now time.Time) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		if !t.After(now) {
			return nil, usage("--expires %s is in the past", text)
		}
		return &t, nil
	}
	wrong := usage("--expires %q: want a time such as 2030-01-31T00:00:00Z or a duration such as 90d or 12h", text)
	var d time.Duration
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > maxDays {
			return nil, wrong
		}
		d = time.Duration(n) * 24 * time.Hour
	} else {
		var err error
		if d, err = time.ParseDuration(text); err != nil {
			return nil, wrong
		}
	}
	if d < time.Second {
		return nil, wrong
	}
	// Stored in whole seconds: rounded up, a key lives at least as long as asked.
	t := now.Add(d + time.Second - 1).UTC().Truncate(time.Second)
	return &t, nil
}

func parseRate(rate, burst string) (*mgmt.Rate, error) {
	if rate == "" {
		if burst != "" {
			return nil, usage("--burst needs --rate")
		}
		return nil, nil
	}
	r, err := access.ParseRate(rate)
	if err != nil {
		return nil, usage("--rate: %s", err)
	}
	if burst != "" {
		if r, err = r.WithBurst(burst); err != nil {
			return nil, usage("--burst: %s", err)
		}
	}
	return mgmt.ShowRate(r), nil
}

// metadata reads the --metadata flags.
func (s *session) metadata() (map[string]string, error) {
	list, _ := s.cmd.Flags().GetStringArray("metadata")
	var m map[string]string
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usage("--metadata %q: want key=value", kv)
		}
		if _, twice := m[k]; twice {
			return nil, usage("--metadata: %q is given twice", k)
		}
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	}
	return m, nil
}

func keysListCommand() *cobra.Command {
	cmd := remote(leaf("list [--tenant <id>] [--status active|disabled|revoked] [--json]", "Lists keys, but never their secrets",
		"  $ caddy keytoll keys list --tenant acme\n  $ caddy keytoll keys list --status revoked --json", 0, listKeys))
	cmd.Flags().String("tenant", "", "Only the keys of this tenant")
	cmd.Flags().String("status", "", "Only the keys in this state: active, disabled or revoked")
	return cmd
}

func listKeys(s *session, _ []string) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	all := mgmt.KeyList{Keys: []mgmt.Key{}}
	for page := (mgmt.Page{Limit: 100}); ; page.Cursor = all.Next {
		list, err := c.Keys(s.text("tenant"), s.text("status"), page)
		if err != nil {
			return err
		}
		all.Keys = append(all.Keys, list.Keys...)
		if all.Next = list.Next; all.Next == "" {
			break
		}
	}
	if s.json() {
		return s.printJSON(all)
	}
	return printKeys(s.out, all.Keys)
}

func printKeys(w io.Writer, keys []mgmt.Key) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ID\tTENANT\tNAME\tPREFIX\tSTATUS\tRATE\tCREATED\tEXPIRES")
	for _, k := range keys {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s…\t%s\t%s\t%s\t%s\n", k.ID, k.Tenant, dash(k.Name), k.Prefix, k.Status,
			rateText(k.Rate), stamp(&k.CreatedAt), stamp(k.ExpiresAt))
	}
	return tw.Flush()
}

// keyCommand makes a command that does one thing to one key and shows it.
func keyCommand(verb, short string, do func(*mgmt.Client, string) (mgmt.Key, error)) *cobra.Command {
	return remote(leaf(verb+" <id> [--json]", short, "  $ caddy keytoll keys "+verb+" key_4fKq0ZbW81TnXyUc", 1, func(s *session, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		k, err := do(c, args[0])
		if err != nil {
			return err
		}
		return s.printKey(k)
	}))
}

func setKeyStatus(status string) func(*mgmt.Client, string) (mgmt.Key, error) {
	return func(c *mgmt.Client, id string) (mgmt.Key, error) {
		return c.UpdateKey(id, mgmt.UpdateKey{Status: &status})
	}
}
