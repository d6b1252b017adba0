package caddymodule

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func tenantsCommand() *cobra.Command {
	return group(&cobra.Command{Use: "tenants", Short: "Manages tenants, the owners of keys"},
		tenantsCreateCommand(), tenantsListCommand(),
		tenantCommand("show", "Shows a tenant", (*mgmt.Client).Tenant),
		tenantCommand("suspend", "Refuses all keys of a tenant from the next request on", setTenantStatus("suspended")),
		tenantCommand("resume", "Ends the suspension of a tenant", setTenantStatus("active")),
		tenantsDeleteCommand(),
	)
}

func tenantsCreateCommand() *cobra.Command {
	cmd := remote(leaf("create <id> [--name <text>] [--plan <plan>] [--metadata <k=v>]", "Creates a tenant",
		"  $ caddy keytoll tenants create acme\n  $ caddy keytoll tenants create acme --name \"Acme, Inc.\" --plan pro", 1, createTenant))
	cmd.Flags().String("name", "", "Name for people")
	cmd.Flags().String("plan", "", "Plan of the configuration (default: its default plan)")
	cmd.Flags().StringArray("metadata", nil, "Value of your own, as key=value; may be repeated")
	return cmd
}

func createTenant(s *session, args []string) error {
	metadata, err := s.metadata()
	if err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	t, err := c.CreateTenant(mgmt.CreateTenant{ID: args[0], Name: s.text("name"), Plan: s.text("plan"), Metadata: metadata})
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

func tenantsListCommand() *cobra.Command {
	return remote(leaf("list [--json]", "Lists all tenants", "  $ caddy keytoll tenants list", 0, func(s *session, _ []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		all := mgmt.TenantList{Tenants: []mgmt.Tenant{}}
		for page := (mgmt.Page{Limit: 100}); ; page.Cursor = all.Next {
			list, err := c.Tenants(page)
			if err != nil {
				return err
			}
			all.Tenants = append(all.Tenants, list.Tenants...)
			if all.Next = list.Next; all.Next == "" {
				break
			}
		}
		if s.json() {
			return s.printJSON(all)
		}
		return printTenants(s.out, all.Tenants)
	}))
}

func printTenants(w io.Writer, tenants []mgmt.Tenant) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ID\tNAME\tPLAN\tSTATUS\tCREATED")
	for _, t := range tenants {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", t.ID, dash(t.Name), dash(t.Plan), t.Status, stamp(&t.CreatedAt))
	}
	return tw.Flush()
}

// tenantCommand makes a command that does one thing to one tenant and shows it.
func tenantCommand(verb, short string, do func(*mgmt.Client, string) (mgmt.Tenant, error)) *cobra.Command {
	return remote(leaf(verb+" <id> [--json]", short, "  $ caddy keytoll tenants "+verb+" acme", 1, func(s *session, args []string) error {
		c, err := s.client()
		if err != nil {
			return err
		}
		t, err := do(c, args[0])
		if err != nil {
			return err
		}
		return s.printTenant(t)
	}))
}

func setTenantStatus(status string) func(*mgmt.Client, string) (mgmt.Tenant, error) {
	return func(c *mgmt.Client, id string) (mgmt.Tenant, error) {
		return c.UpdateTenant(id, mgmt.UpdateTenant{Status: &status})
	}
}

func tenantsDeleteCommand() *cobra.Command {
	return remote(leaf("delete <id> [--json]", "Deletes a tenant and all its keys for good", "  $ caddy keytoll tenants delete acme", 1,
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
		}))
}
