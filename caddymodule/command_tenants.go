package caddymodule

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func tenantsCommand() *cobra.Command {
	return group(&cobra.Command{Use: "tenants", Short: "Manages tenants, the owners of keys",
		Example: "  $ caddy keytoll tenants create acme\n  $ caddy keytoll tenants list"},
		tenantsCreateCommand(), tenantsListCommand(),
		tenantCommand("show", "Shows a tenant", (*mgmt.Client).Tenant),
		tenantsUpdateCommand(),
		tenantCommand("suspend", "Refuses all keys of a tenant from the next request on", setTenantStatus("suspended")),
		tenantCommand("resume", "Ends the suspension of a tenant", setTenantStatus("active")),
		tenantsDeleteCommand(),
	)
}

func tenantsCreateCommand() *cobra.Command {
	cmd := remote(leaf("create <id> [--name <text>] [--plan <plan>] [--permissions <list>] [--metadata <k=v>] [--json]", "Creates a tenant",
		`  $ caddy keytoll tenants create acme
  $ caddy keytoll tenants create acme --name "Acme, Inc." --plan pro
  $ caddy keytoll tenants create acme --permissions read,write`, 1, createTenant))
	cmd.Flags().String("name", "", "Name for people")
	cmd.Flags().String("plan", "", "Plan of the configuration (default: its default plan)")
	cmd.Flags().StringSlice("permissions", nil, "All that keys of the tenant may hold, separated by commas (default: no bound)")
	cmd.Flags().StringArray("metadata", nil, "Value of your own, as key=value; may be repeated")
	return complete(cmd, nil)
}

func createTenant(s *session, args []string) error {
	req := mgmt.CreateTenant{ID: args[0], Name: s.text("name"), Plan: s.text("plan")}
	if bound := s.optionalList("permissions"); bound != nil {
		req.Permissions = *bound
	}
	var err error
	if req.Metadata, err = s.metadata(); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	t, err := c.CreateTenant(req)
	if err != nil {
		return err
	}
	if err := s.printTenant(t); err != nil {
		return err
	}
	note(s.err, "tenant %s created", t.ID)
	note(s.err, "hint: caddy keytoll keys create --tenant %s --name <name>", t.ID)
	return nil
}

func tenantsUpdateCommand() *cobra.Command {
	cmd := remote(leaf("update <id> [--name <text>] [--plan <plan>] [--permissions <list>|--any-permission] [--metadata <k=v>] [--credits <n>] [--rate <n/window>] [--until <when>] [--json]",
		"Changes a tenant and what its keys may do, from the next request on", `  $ caddy keytoll tenants update acme --plan pro
  $ caddy keytoll tenants update acme --permissions read
  $ caddy keytoll tenants update acme --any-permission --name "Acme, Inc."
  $ caddy keytoll tenants update acme --credits 5000 --rate 2000/1m --until 7d
  $ caddy keytoll tenants update acme --no-override`, 1, updateTenant))
	cmd.Long = `Changes a tenant and what its keys may do, from the next request on. What no flag
names stays as it is. --permissions and --metadata replace all that was there; an
empty one takes all away: with --permissions "" the tenant's keys may do nothing.
--plan "" is the default plan.
` + overrideHelp
	cmd.Flags().String("name", "", "Name for people")
	cmd.Flags().String("plan", "", "Plan of the configuration")
	cmd.Flags().StringSlice("permissions", nil, "All that keys of the tenant may hold, separated by commas")
	cmd.Flags().Bool("any-permission", false, "Keys of the tenant may hold any permission that the plan allows")
	cmd.Flags().StringArray("metadata", nil, "Value of your own, as key=value; may be repeated")
	cmd.Flags().String("rate", "", "Requests per window of each key, such as 100/1m, in place of the plan's")
	cmd.Flags().String("burst", "", "Requests at once (default: as many as the rate's; needs --rate)")
	cmd.Flags().String("max-keys", "", "Keys that the tenant may have, in place of the plan's")
	overrideFlags(cmd.Flags())
	return complete(cmd, nil)
}

func updateTenant(s *session, args []string) error {
	now := time.Now()
	req, err := s.tenantUpdate()
	if err := errorsOf(err, s.overrideParts(new(mgmt.Override), true, now)); err != nil {
		return err
	}
	if req == (mgmt.UpdateTenant{}) && !s.overridden(true) {
		return usage("tenants update needs a flag that says what to change")
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	id := args[0]
	a := amendment[mgmt.Tenant]{what: "tenant", rated: true,
		show:     func() (mgmt.Tenant, error) { return c.Tenant(id) },
		override: func(t mgmt.Tenant) *mgmt.Override { return t.Override },
		set:      func(o mgmt.Override) (mgmt.Tenant, error) { return c.SetTenantOverride(id, o) },
		drop:     func() (mgmt.Tenant, error) { return c.DropTenantOverride(id) }}
	if req != (mgmt.UpdateTenant{}) {
		a.update = func() (mgmt.Tenant, error) { return c.UpdateTenant(id, req) }
	}
	t, err := a.do(s, now)
	if err != nil {
		return err
	}
	return s.printTenant(t)
}

// tenantUpdate reads the flags of a change, but for those of the override.
func (s *session) tenantUpdate() (mgmt.UpdateTenant, error) {
	req := mgmt.UpdateTenant{Name: s.optional("name"), Plan: s.optional("plan")}
	bound := s.optionalList("permissions")
	switch {
	case bound != nil && s.is("any-permission"):
		return req, usage("give --permissions or --any-permission, not both")
	case bound != nil:
		req.Permissions = mgmt.Value(*bound)
	case s.is("any-permission"):
		req.Permissions = mgmt.Null[[]string]()
	}
	metadata, err := s.metadata()
	if metadata != nil {
		req.Metadata = &metadata
	}
	return req, err
}

func tenantsListCommand() *cobra.Command {
	cmd := paged(remote(leaf("list [--json]", "Lists all tenants", "  $ caddy keytoll tenants list\n  $ caddy keytoll tenants list --all --json", 0,
		func(s *session, _ []string) error {
			return printList(s, "tenants", "ID\tNAME\tPLAN\tSTATUS\tPERMISSIONS\tCREATED", func(t mgmt.Tenant) []string {
				return []string{t.ID, dash(t.Name), dash(t.Plan), t.Status, boundText(t.Permissions), stamp(&t.CreatedAt)}
			}, func(c *mgmt.Client, p mgmt.Page) ([]mgmt.Tenant, string, error) {
				list, err := c.Tenants(p)
				return list.Tenants, list.Next, err
			})
		})))
	return complete(cmd, nil)
}

// boundText shows what a tenant's keys may hold.
func boundText(permissions []string) string {
	switch {
	case permissions == nil:
		return "any"
	case len(permissions) == 0:
		return "none"
	}
	return strings.Join(permissions, ", ")
}

// tenantCommand makes a command that does one thing to one tenant and shows it.
func tenantCommand(verb, short string, do func(*mgmt.Client, string) (mgmt.Tenant, error)) *cobra.Command {
	return complete(remote(leaf(verb+" <id> [--json]", short, "  $ caddy keytoll tenants "+verb+" acme", 1, func(s *session, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		t, err := do(c, args[0])
		if err != nil {
			return err
		}
		return s.printTenant(t)
	})), nil)
}

func setTenantStatus(status string) func(*mgmt.Client, string) (mgmt.Tenant, error) {
	return func(c *mgmt.Client, id string) (mgmt.Tenant, error) {
		return c.UpdateTenant(id, mgmt.UpdateTenant{Status: &status})
	}
}

func tenantsDeleteCommand() *cobra.Command {
	return complete(remote(leaf("delete <id> [--json]", "Deletes a tenant and all its keys for good", "  $ caddy keytoll tenants delete acme", 1,
		func(s *session, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			if err := c.DeleteTenant(args[0]); err != nil {
				return err
			}
			note(s.err, "tenant %s and its keys are deleted", args[0])
			if s.json() {
				return s.printJSON(map[string]any{"id": args[0], "deleted": true})
			}
			return nil
		})), nil)
}
