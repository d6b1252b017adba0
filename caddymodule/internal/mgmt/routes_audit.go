package mgmt

import (
	"strconv"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// AuditList is a page of the audit trail, oldest first.
type AuditList struct {
	Entries []access.AuditEntry `json:"entries"`
	Next    string              `json:"next,omitempty"` // cursor of the next page; empty at the end
}

// AuditCheck is the answer to GET audit/verify where the trail is whole.
type AuditCheck struct {
	Entries uint64 `json:"entries"` // that were checked
}

// AuditFilter narrows a list of audit entries. Empty fields match all.
type AuditFilter struct {
	Tenant string
	Object string    // id of a key or tenant
	Action string    // such as key.created
	Actor  string    // kind, name or key of who did it
	Since  time.Time // at or after
	Until  time.Time // before
}

func listAudit(c *call, _ none) (*AuditList, error) {
	q, limit, err := c.query("tenant", "object", "action", "actor", "since", "until")
	if err != nil {
		return nil, err
	}
	f := registrar.AuditFilter{Tenant: q["tenant"], Object: q["object"], Action: q["action"], Actor: q["actor"]}
	if f.Since, err = instant("since", q["since"]); err != nil {
		return nil, err
	}
	if f.Until, err = instant("until", q["until"]); err != nil {
		return nil, err
	}
	var after uint64
	if s := q["cursor"]; s != "" {
		if after, err = strconv.ParseUint(s, 10, 64); err != nil {
			return nil, badRequest("cursor", "cursor is not one that a list returned")
		}
	}
	page, next, err := c.Audit(c.Context(), f, after, limit)
	if err != nil {
		return nil, err
	}
	list := &AuditList{Entries: append([]access.AuditEntry{}, page...)}
	if next != 0 {
		list.Next = strconv.FormatUint(next, 10)
	}
	c.link(list.Next)
	return list, nil
}

func verifyAudit(c *call, _ none) (AuditCheck, error) {
	n, err := c.VerifyAudit(c.Context())
	return AuditCheck{Entries: n}, err
}

// instant reads a time of a query; empty is the zero time.
func instant(name, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, badRequest(name, "%s: want a time of RFC 3339, such as 2030-01-31T00:00:00Z", name)
	}
	return t, nil
}
