package caddymodule

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func creditsCommand() *cobra.Command {
	return group(&cobra.Command{Use: "credits", Short: "Shows and grants the credits of tenants",
		Example: "  $ caddy keytoll credits show acme\n  $ caddy keytoll credits grant acme 500 --expires-in 90d"},
		creditsShowCommand(), creditsGrantCommand(), creditsRevokeCommand(), creditsHistoryCommand())
}

func creditsShowCommand() *cobra.Command {
	return complete(remote(leaf("show <tenant> [--json]", "Shows what a tenant has left of its credits, grants and quotas",
		"  $ caddy keytoll credits show acme\n  $ caddy keytoll credits show acme --json", 1, func(s *session, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			b, err := c.Credits(args[0])
			if err != nil {
				return err
			}
			return s.printBalance(b)
		})), nil)
}

func (s *session) printBalance(b mgmt.Balance) error {
	if s.json() {
		return s.printJSON(b)
	}
	rows := []row{{"tenant", b.Tenant}, {"limit", "the plan has no credits"}}
	if b.Limit != nil && b.Used != nil && b.Remaining != nil {
		rows = []row{{"tenant", b.Tenant}, {"limit", b.Limit.String()}, {"used", b.Used.String()},
			{"remaining", b.Remaining.String()}, {"overage", b.Overage.String()}, {"resets", stamp(b.ResetsAt)}}
	}
	if err := s.printRows(rows...); err != nil {
		return err
	}
	tw := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	if len(b.Grants) > 0 {
		fmt.Fprintln(tw, "\nGRANT\tAMOUNT\tREMAINING\tEXPIRES\tCREATED\tNOTE")
	}
	for _, g := range b.Grants {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", g.ID, g.Amount, g.Remaining, stamp(g.ExpiresAt), stamp(&g.CreatedAt), dash(g.Note))
	}
	if err := tw.Flush(); err != nil || len(b.Quotas) == 0 {
		return err
	}
	fmt.Fprintln(tw, "\nQUOTA\tLIMIT\tUSED\tRESETS")
	for _, q := range b.Quotas {
		name := q.Meter + "/" + q.Per
		if q.Observe {
			name += " (observed)"
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\n", name, q.Limit, q.Used, stamp(q.ResetsAt))
	}
	return tw.Flush()
}

func creditsGrantCommand() *cobra.Command {
	cmd := remote(leaf("grant <tenant> <amount> [--expires <when>|--expires-in <duration>] [--note <text>] [--json]",
		"Gives a tenant credits beside those of its plan", `  $ caddy keytoll credits grant acme 500
  $ caddy keytoll credits grant acme 0.25 --expires-in 90d --note "outage of May"
  $ caddy keytoll credits grant acme 1000 --expires 2030-01-31T00:00:00Z --idempotency-key "invoice-$ID"`, 2, grantCredits))
	cmd.Long = `Gives a tenant credits beside those of its plan, from the next request on. The
plan's are spent first, then the grants, the one that expires first before others.

With --idempotency-key the same command, sent again within ten minutes, grants
nothing more: it prints the same grant, also if the first answer was lost.`
	f := cmd.Flags()
	f.String("expires", "", "When what is left of it is gone: a time such as 2030-01-31T00:00:00Z, or a duration from now such as 90d or 12h")
	f.String("expires-at", "", "When what is left of it is gone, as a time such as 2030-01-31T00:00:00Z")
	f.String("expires-in", "", "When what is left of it is gone, as a duration from now such as 90d or 12h")
	f.String("note", "", "What it is for, for people")
	f.String("idempotency-key", "", "Text of yours that names this grant: 1 to 255 visible ASCII characters")
	return complete(cmd, nil)
}

func grantCredits(s *session, args []string) error {
	amount, err := access.ParseCredits(args[1])
	if err == nil && amount == 0 {
		return usage("a grant of 0 credits: want more")
	}
	if err != nil {
		return usage("%q is %s", args[1], err)
	}
	req := mgmt.CreateGrant{Amount: amount, Note: s.text("note")}
	if req.ExpiresAt, req.ExpiresIn, err = s.expiry(time.Now()); err != nil {
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
	g, err := c.GrantCreditsOnce(args[0], req, once)
	if err != nil {
		return err
	}
	if s.json() {
		return s.printJSON(g)
	}
	return s.printRows(row{"id", g.ID}, row{"tenant", args[0]}, row{"amount", g.Amount.String()}, row{"expires", stamp(g.ExpiresAt)},
		row{"note", g.Note}, row{"created", stamp(&g.CreatedAt)})
}

func creditsRevokeCommand() *cobra.Command {
	return complete(remote(leaf("revoke <tenant> <grant> [--json]", "Takes a grant from a tenant, with what is left of it",
		"  $ caddy keytoll credits revoke acme gr_4fKq0ZbW81TnXyUc", 2, func(s *session, args []string) error {
			c, err := s.client()
			if err != nil {
				return err
			}
			if err := c.RevokeGrant(args[0], args[1]); err != nil {
				return err
			}
			note(s.err, "grant %s of tenant %s is revoked", args[1], args[0])
			if s.json() {
				return s.printJSON(map[string]any{"tenant": args[0], "id": args[1], "revoked": true})
			}
			return nil
		})), nil)
}

func creditsHistoryCommand() *cobra.Command {
	cmd := paged(remote(leaf("history <tenant> [--since <when>] [--until <when>] [--json]", "Lists who granted and revoked credits, oldest first",
		"  $ caddy keytoll credits history acme\n  $ caddy keytoll credits history acme --since 90d --json", 1, creditsHistory)))
	cmd.Long = `Lists who granted and revoked credits, oldest first, and what is left of each grant
now. Grants that expired are in it for as long as the audit trail is kept.`
	cmd.Flags().String("since", "", "Only what happened since then: a time such as 2030-01-31T00:00:00Z, or how long ago, such as 7d or 12h")
	cmd.Flags().String("until", "", "Only what happened before then, as for --since")
	return complete(cmd, nil)
}

// grantEvent is an audit entry of a grant, and what is left of it now; null if
// the tenant has it no longer.
type grantEvent struct {
	access.AuditEntry
	Remaining *access.Credits `json:"remaining"`
}

func creditsHistory(s *session, args []string) error {
	filter := mgmt.AuditFilter{Tenant: args[0]}
	now := time.Now()
	var err error
	if filter.Since, err = s.moment("since", now); err != nil {
		return err
	}
	if filter.Until, err = s.moment("until", now); err != nil {
		return err
	}
	var left map[string]access.Credits
	return printList(s, "entries", "SEQ\tAT\tACTION\tGRANT\tAMOUNT\tEXPIRES\tREMAINING\tNOTE\tBY", grantRow,
		func(c *mgmt.Client, p mgmt.Page) (page []grantEvent, next string, err error) {
			if left == nil {
				if left, err = remaining(c, args[0]); err != nil {
					return nil, "", err
				}
			}
			list, err := c.Audit(filter, p)
			for _, e := range list.Entries {
				if strings.HasPrefix(e.Action, "grant.") {
					page = append(page, grantEvent{e, lookup(left, e.Object)})
				}
			}
			return page, list.Next, err
		})
}

// remaining returns what is left of a tenant's grants, by their ids.
func remaining(c *mgmt.Client, tenant string) (map[string]access.Credits, error) {
	b, err := c.Credits(tenant)
	left := map[string]access.Credits{}
	for _, g := range b.Grants {
		left[g.ID] = g.Remaining
	}
	return left, err
}

func lookup[V any](m map[string]V, k string) *V {
	if v, ok := m[k]; ok {
		return &v
	}
	return nil
}

func grantRow(e grantEvent) []string {
	var g struct {
		Amount    json.Number
		ExpiresAt *time.Time `json:"expires_at"`
		Note      string
	}
	object := e.After
	if len(object) == 0 || string(object) == "null" {
		object = e.Before
	}
	_ = json.Unmarshal(object, &g) // an entry of another form shows no more than itself
	left := "-"
	if e.Remaining != nil {
		left = e.Remaining.String()
	}
	entry := auditRow(e.AuditEntry)
	return []string{entry[0], entry[1], e.Action, e.Object, dash(g.Amount.String()), stamp(g.ExpiresAt), left, dash(g.Note), entry[5]}
}
