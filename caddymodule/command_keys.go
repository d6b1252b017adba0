package caddymodule

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

var keyStatuses = []string{"active", "disabled", "revoked"}

func keysCommand() *cobra.Command {
	return group(&cobra.Command{Use: "keys", Short: "Manages API keys",
		Example: "  $ caddy keytoll keys create --tenant acme --name laptop\n  $ caddy keytoll keys list --tenant acme"},
		keysCreateCommand(), keysListCommand(),
		keyCommand("show", "Shows a key, but never its secret", (*mgmt.Client).Key),
		keysUpdateCommand(), keysRotateCommand(), keysRevokeCommand(),
		keyCommand("disable", "Refuses a key from the next request on, until it is enabled", setKeyStatus("disabled")),
		keyCommand("enable", "Lets a disabled key in again", setKeyStatus("active")),
		keysInspectCommand(), keysImportCommand(),
	)
}

func keysCreateCommand() *cobra.Command {
	cmd := remote(leaf("create --tenant <id> [--name <text>] [--expires <when>] [--rate <n/window>] [--json]",
		"Creates a key and prints it, this once", `  $ caddy keytoll keys create --tenant acme --name laptop
  $ caddy keytoll keys create --tenant acme --expires 90d --rate 100/1m --burst 20
  $ caddy keytoll keys create --tenant acme --expires-at 2030-01-31T00:00:00Z --permissions read,write --json
  $ caddy keytoll keys create --tenant acme --allow-from 192.0.2.0/24,2001:db8::7
  $ KEY=$(caddy keytoll keys create --tenant acme --environment test --idempotency-key "deploy-$ID")`, 0, createKey))
	cmd.Long = `Creates a key and prints it, this once: only its digest is kept. A flag that is
left out is as the plan or the configuration has it.

With --idempotency-key the same command, sent again within ten minutes, makes no
second key: it prints the same one, also if the first answer was lost.`
	f := cmd.Flags()
	f.String("tenant", "", "Tenant that the key belongs to (required)")
	f.String("prefix", "", "Key prefix of the configuration (default: the first)")
	f.String("environment", "", "Environment whose prefix is used")
	f.String("idempotency-key", "", "Text of yours that names this creation: 1 to 255 visible ASCII characters")
	keyFlags(f)
	return complete(cmd, nil)
}

func createKey(s *session, _ []string) error {
	tenant := s.text("tenant")
	if tenant == "" {
		return &failure{code: exitUsage, message: "keys create needs --tenant", hints: []string{"caddy keytoll tenants list shows them"}}
	}
	req := mgmt.CreateKey{Name: s.text("name"), Description: s.text("description"), Prefix: s.text("prefix"),
		Environment: s.text("environment"), Permissions: s.list("permissions"), Addresses: s.list("allow-from")}
	var err error
	if req.ExpiresAt, req.ExpiresIn, err = s.expiry(time.Now()); err != nil {
		return err
	}
	if req.Rate, err = s.rate(); err != nil {
		return err
	}
	if req.Metadata, err = s.metadata(); err != nil {
		return err
	}
	once, err := s.once()
	if err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	k, err := c.CreateKeyOnce(tenant, req, once)
	if err != nil {
		return err
	}
	return s.printNewKey(k)
}

func keysListCommand() *cobra.Command {
	cmd := paged(remote(leaf("list [--tenant <id>] [--status active|disabled|revoked] [--name <text>] [--json]", "Lists keys, but never their secrets",
		"  $ caddy keytoll keys list --tenant acme\n  $ caddy keytoll keys list --name laptop\n  $ caddy keytoll keys list --status revoked --all --json", 0, listKeys)))
	cmd.Flags().String("tenant", "", "Only the keys of this tenant")
	cmd.Flags().String("status", "", "Only the keys in this state: active, disabled or revoked")
	cmd.Flags().String("name", "", "Only the keys whose name holds this, in whatever case")
	return complete(cmd, map[string][]string{"status": keyStatuses})
}

func listKeys(s *session, _ []string) error {
	return printList(s, "keys", "ID\tTENANT\tNAME\tPREFIX\tSTATUS\tRATE\tCREATED\tEXPIRES\tLAST USED", func(k mgmt.Key) []string {
		return []string{k.ID, k.Tenant, dash(k.Name), k.Prefix + "…", statusText(k), rateText(k.Rate), stamp(&k.CreatedAt),
			stamp(k.ExpiresAt), stamp(k.LastUsedAt)}
	}, func(c *mgmt.Client, p mgmt.Page) ([]mgmt.Key, string, error) {
		list, err := c.KeysNamed(s.text("tenant"), s.text("status"), s.text("name"), p)
		return list.Keys, list.Next, err
	})
}

// keyCommand makes a command that does one thing to one key and shows it.
func keyCommand(verb, short string, do func(*mgmt.Client, string) (mgmt.Key, error)) *cobra.Command {
	return complete(remote(leaf(verb+" <id> [--json]", short, "  $ caddy keytoll keys "+verb+" key_4fKq0ZbW81TnXyUc", 1, func(s *session, args []string) error {
		if err := checkKeyID(args[0]); err != nil {
			return err
		}
		c, err := s.client()
		if err != nil {
			return err
		}
		k, err := do(c, args[0])
		if err != nil {
			return err
		}
		return s.printKey(k)
	})), nil)
}

func setKeyStatus(status string) func(*mgmt.Client, string) (mgmt.Key, error) {
	return func(c *mgmt.Client, id string) (mgmt.Key, error) {
		return c.UpdateKey(id, mgmt.UpdateKey{Status: &status})
	}
}
