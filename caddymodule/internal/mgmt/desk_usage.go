package mgmt

import (
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// DeskUsage is the kind of a Desk that shows what the caller's tenant used and
// has left.
const DeskUsage = "usage"

// The actions of such a Desk.
const (
	actUsage   = "usage"
	actCredits = "credits"
)

var (
	onUsage   = map[string]string{http.MethodGet: actUsage}
	onCredits = map[string]string{http.MethodGet: actCredits}
)

// maxTenantPoints and maxTenantSteps bound an answer to a tenant, who is one of
// many.
const (
	maxTenantPoints = 20_000
	maxTenantSteps  = 10_000
)

// nobodysKey stands for a text that is no id. No key has it.
var nobodysKey = access.KeyID{'?'}

// findUsage returns what can be done at a path below the base.
func findUsage(rest string) (map[string]string, bool) {
	switch rest {
	case "", "/":
		return onUsage, true
	case "/" + actCredits:
		return onCredits, true
	}
	return nil, false
}

// usage answers with the usage of the caller's tenant. Of a key that is another
// tenant's, nobody's, or no id at all, there is none.
func (v *visit) usage() error {
	q, err := v.query(usageFilters...)
	if err != nil {
		return err
	}
	u, err := parseUsage(q, v.o.Now(), "key", "route", "class")
	if err != nil {
		return err
	}
	if u.to.Sub(u.from)/u.step.Duration() > maxTenantSteps {
		return badRequest("from", "this is too much at once: ask for less time or a longer step")
	}
	if q["format"] == "" {
		u.csv = prefersCSV(v.r.Header)
	}
	if s := q["key"]; s != "" {
		if u.filter.Key, err = usage.ParseKey(s); err != nil {
			u.filter.Key = nobodysKey
		}
	}
	me, err := v.desk.Me(v.r.Context())
	if err != nil {
		return err
	}
	u.filter.Tenant = me.Tenant.ID
	// Another tenant may have had the id before.
	if at := me.Tenant.CreatedAt; at.After(u.from) {
		u.from = at
		u.widen()
	}
	rec, err := recorder(v.o.Recorder)
	if err != nil {
		return err
	}
	body, contentType, err := u.answer(v.r.Context(), rec, maxTenantPoints)
	if err != nil {
		return err
	}
	v.send(http.StatusOK, body, contentType)
	return nil
}

// tenantBalance is what a tenant may know of its credits: notes are the
// operator's.
type tenantBalance struct {
	Limit     *json.Number  `json:"limit"` // null: the plan has no credits
	Used      *json.Number  `json:"used"`
	Remaining *json.Number  `json:"remaining"`
	ResetsAt  *time.Time    `json:"resets_at"`
	Grants    []tenantGrant `json:"grants"`        // that can be spent, in that order
	Quotas    []tenantQuota `json:"quotas"`        // that are enforced
	Key       *KeyCredits   `json:"key,omitempty"` // the calling key's own, if it has some
}

type tenantQuota struct {
	Meter    string     `json:"meter"`
	Per      string     `json:"per"`
	Limit    int64      `json:"limit"`
	Used     int64      `json:"used"` // may be above limit
	ResetsAt *time.Time `json:"resets_at"`
}

type tenantGrant struct {
	ID        string         `json:"id"`
	Amount    access.Credits `json:"amount"`
	Remaining access.Credits `json:"remaining"`
	ExpiresAt *time.Time     `json:"expires_at"`
}

// credits answers with the balance of the caller's tenant, and of the calling
// key if it has credits of its own.
func (v *visit) credits() error {
	if _, err := v.query(); err != nil {
		return err
	}
	me, err := v.desk.Me(v.r.Context())
	if err != nil {
		return err
	}
	var a Account
	if v.o.Account != nil {
		if a, err = v.o.Account(me.Tenant.ID); err != nil {
			return err
		}
	}
	now := v.o.Now().Unix()
	b := showBalance(me.Tenant, a, now)
	out := tenantBalance{b.Limit, b.Used, b.Remaining, b.ResetsAt, []tenantGrant{}, []tenantQuota{}, nil}
	for _, g := range b.Grants {
		if g.ExpiresAt == nil || g.ExpiresAt.Unix() > now {
			out.Grants = append(out.Grants, tenantGrant{g.ID, g.Amount, g.Remaining, g.ExpiresAt})
		}
	}
	for _, q := range b.Quotas {
		if !q.Observe { // the operator's affair, until it refuses something
			out.Quotas = append(out.Quotas, tenantQuota{q.Meter, q.Per, q.Limit, q.Used, q.ResetsAt})
		}
	}
	if v.o.KeyCredits != nil {
		own, err := v.o.KeyCredits(v.caller.Key)
		if err != nil {
			return err
		}
		out.Key = showKeyCredits(own)
	}
	body, err := json.Marshal(out)
	if err != nil {
		return err
	}
	v.send(http.StatusOK, append(body, '\n'), "application/json")
	return nil
}

// prefersCSV reports whether a client takes text/csv and wants JSON no more
// than that. A wildcard stands for JSON alone.
func prefersCSV(h http.Header) bool {
	csv, other := 0.0, 0.0
	for part := range strings.SplitSeq(strings.Join(h.Values("Accept"), ","), ",") {
		name, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(s, 64); err != nil {
				continue
			}
		}
		switch name {
		case "text/csv":
			csv = q
		case "application/json":
			other = q
		}
	}
	return csv > 0 && csv >= other
}
