package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

var auditActions = []string{"tenant.created", "tenant.updated", "tenant.suspended", "tenant.resumed", "tenant.deleted",
	"key.created", "key.updated", "key.disabled", "key.enabled", "key.rotated", "key.revoked", "key.expired", "key.adopted",
	"keys.imported", "keys.replayed", "grant.created", "grant.revoked", "provider_key.stored", "provider_key.replaced",
	"provider_key.verified", "provider_key.deleted", "data_key.rekeyed", "backup.made", "audit.trimmed"}

func auditCommand() *cobra.Command {
	return group(&cobra.Command{Use: "audit", Short: "Shows and checks the trail of changes",
		Example: "  $ caddy keytoll audit list --tenant acme --since 7d\n  $ caddy keytoll audit verify"},
		auditListCommand(), auditVerifyCommand())
}

func auditListCommand() *cobra.Command {
	cmd := paged(remote(leaf("list [--tenant <id>] [--object <id>] [--action <action>] [--actor <who>] [--since <when>] [--until <when>] [--json]",
		"Lists who changed what, oldest first", `  $ caddy keytoll audit list --since 7d
  $ caddy keytoll audit list --object key_4fKq0ZbW81TnXyUc --json
  $ caddy keytoll audit list --action key.revoked --actor ada --all`, 0, listAudit)))
	cmd.Long = `Lists who changed what, oldest first. With --json each entry also has the object
as it was before and after, without secrets.`
	f := cmd.Flags()
	f.String("tenant", "", "Only changes of this tenant and its keys")
	f.String("object", "", "Only changes of this key or tenant")
	f.String("action", "", "Only this action, such as key.revoked")
	f.String("actor", "", "Only changes by this kind of actor, name or key")
	f.String("since", "", "Only changes since then: a time such as 2030-01-31T00:00:00Z, or how long ago, such as 7d or 12h")
	f.String("until", "", "Only changes before then, as for --since")
	return complete(cmd, map[string][]string{"action": auditActions, "actor": {access.ActorOperator, access.ActorKey, access.ActorSystem}})
}

func listAudit(s *session, _ []string) error {
	filter := mgmt.AuditFilter{Tenant: s.text("tenant"), Object: s.text("object"), Action: s.text("action"), Actor: s.text("actor")}
	if filter.Action != "" && !slices.Contains(auditActions, filter.Action) {
		return &failure{code: exitUsage, message: fmt.Sprintf("--action %q: there is no such action", filter.Action),
			hints: []string{"actions: " + strings.Join(auditActions, ", ")}}
	}
	now := time.Now()
	var err error
	if filter.Since, err = s.moment("since", now); err != nil {
		return err
	}
	if filter.Until, err = s.moment("until", now); err != nil {
		return err
	}
	return printList(s, "entries", "SEQ\tAT\tACTION\tTENANT\tOBJECT\tBY\tFROM", auditRow,
		func(c *mgmt.Client, p mgmt.Page) ([]access.AuditEntry, string, error) {
			list, err := c.Audit(filter, p)
			return list.Entries, list.Next, err
		})
}

func auditRow(e access.AuditEntry) []string {
	by := []string{e.Actor.Kind}
	for _, more := range []string{e.Actor.Name, e.Actor.Key} {
		if more != "" {
			by = append(by, more)
		}
	}
	return []string{decimal(e.Seq), stamp(&e.At), e.Action, dash(e.Tenant), dash(e.Object), strings.Join(by, " "), dash(e.Actor.Address)}
}

func auditVerifyCommand() *cobra.Command {
	cmd := remote(leaf("verify [--json]", "Checks that no audit entry was changed, taken out or moved",
		"  $ caddy keytoll audit verify\n  $ caddy keytoll audit verify --json", 0, func(s *session, _ []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			check, err := c.VerifyAudit()
			if e, ok := errors.AsType[*mgmt.Error](err); ok && e.Code == "internal" {
				return &failure{message: "the audit trail is not whole, or could not be read: " + e.Message, hints: []string{
					"the server's log names the first entry at fault",
					"compare with a backup: caddy keytoll check <backup>"}}
			}
			if err != nil {
				return err
			}
			if s.json() {
				return s.printJSON(check)
			}
			return s.printRows(row{"entries", decimal(check.Entries)}, row{"trail", "whole"})
		}))
	return complete(cmd, nil)
}
