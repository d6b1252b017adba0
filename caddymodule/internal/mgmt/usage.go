package mgmt

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

const csvType = "text/csv; charset=utf-8"

// usageFilters are the parameters of usage that both doors have.
var usageFilters = []string{"key", "route", "class", "from", "to", "step", "by", "format"}

// usageGroups are what usage can be kept apart by: a tenant cannot by tenant,
// and what is only observed is the operator's to know.
var usageGroups = map[string]usage.Group{"tenant": usage.ByTenant, "key": usage.ByKey, "route": usage.ByRoute,
	"class": usage.ByClass, "flags": usage.ByFlags}

// usageSpans are how far back usage goes if nothing else is asked for.
var usageSpans = map[usage.Step]time.Duration{usage.Minute: time.Hour, usage.Hour: 24 * time.Hour, usage.Day: 30 * 24 * time.Hour}

// usageRequest is what usage is asked for.
type usageRequest struct {
	filter   usage.Filter
	from, to time.Time // whole steps
	step     usage.Step
	by       usage.Group
	csv      bool
}

// parseUsage reads the parameters of usage but for those that tell whose it is.
func parseUsage(q map[string]string, now time.Time, groups ...string) (u usageRequest, err error) {
	u.step = usage.Hour
	if s := q["step"]; s != "" {
		if u.step, err = usage.ParseStep(s); err != nil {
			return u, badRequest("step", "step %q: want minute, hour or day", clip(s))
		}
	}
	if err := u.parseRange(q, now); err != nil {
		return u, err
	}
	if s := q["class"]; s != "" {
		if u.filter.Class, err = usage.ParseClass(s); err != nil {
			return u, badRequest("class", "class %q: want 1xx, 2xx, 3xx, 4xx, 5xx or refused", clip(s))
		}
	}
	u.filter.Route = q["route"]
	if err := u.parseBy(q["by"], groups); err != nil {
		return u, err
	}
	switch q["format"] {
	case "", "json":
	case "csv":
		u.csv = true
	default:
		return u, badRequest("format", "format %q: want json or csv", clip(q["format"]))
	}
	return u, nil
}

// parseRange reads from and to.
func (u *usageRequest) parseRange(q map[string]string, now time.Time) (err error) {
	if u.from, err = usageTime(q, "from"); err != nil {
		return err
	}
	if u.to, err = usageTime(q, "to"); err != nil {
		return err
	}
	if u.to.IsZero() {
		u.to = now
	}
	if u.from.IsZero() {
		u.from = u.to.Add(-usageSpans[u.step])
	}
	if !u.from.Before(u.to) {
		return badRequest("from", "from is not before to")
	}
	u.widen()
	return nil
}

func usageTime(q map[string]string, name string) (time.Time, error) {
	t, err := instant(name, q[name])
	if err == nil && q[name] != "" && (t.Unix() < 0 || t.Year() > 9998) {
		err = badRequest(name, "%s: want a time from 1970 to 9998", name)
	}
	return t, err
}

// widen makes from and to whole steps.
func (u *usageRequest) widen() {
	d := u.step.Duration()
	u.from, u.to = u.from.UTC().Truncate(d), u.to.Add(d-1).UTC().Truncate(d)
}

func (u *usageRequest) parseBy(s string, groups []string) error {
	if s == "" {
		return nil
	}
	for word := range strings.SplitSeq(s, ",") {
		ok := false
		for _, g := range groups {
			ok = ok || g == word
		}
		if !ok {
			return badRequest("by", "by %q: want a list of %s", clip(word), strings.Join(groups, ", "))
		}
		u.by |= usageGroups[word]
	}
	return nil
}

// answer returns the body and its type. With most above 0, more points than
// that are too many.
func (u *usageRequest) answer(ctx context.Context, rec *usage.Recorder, most int) ([]byte, string, error) {
	points, err := rec.Query(ctx, u.filter, u.from, u.to, u.step, u.by)
	if err == nil && most > 0 && len(points) > most {
		err = usage.ErrTooMuch
	}
	if errors.Is(err, usage.ErrTooMuch) {
		return nil, "", badRequest("from", "this is too much at once: ask for less time, a longer step or fewer groups")
	}
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	if u.csv {
		err = usage.WriteCSV(&b, points)
		return b.Bytes(), csvType, err
	}
	err = usage.WriteJSON(&b, u.from, u.to, u.step, points)
	return b.Bytes(), "application/json", err
}

// usage serves what all tenants used.
func (h *Handler) usage(w http.ResponseWriter, r *http.Request) {
	body, contentType, err := h.usageBody(w, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body) // a client that has gone needs no answer
}

func (h *Handler) usageBody(w http.ResponseWriter, r *http.Request) ([]byte, string, error) {
	c, err := h.open(w, r)
	if err != nil {
		return nil, "", err
	}
	q, err := c.parameters(append([]string{"tenant"}, usageFilters...)...)
	if err != nil {
		return nil, "", err
	}
	u, err := parseUsage(q, time.Now(), "tenant", "key", "route", "class", "flags")
	if err != nil {
		return nil, "", err
	}
	if u.filter.Tenant = q["tenant"]; u.filter.Tenant != "" && u.filter.Tenant != usage.OtherTenant {
		if err := access.CheckTenantID(u.filter.Tenant); err != nil {
			return nil, "", badRequest("tenant", "%s", err)
		}
	}
	if s := q["key"]; s != "" {
		if u.filter.Key, err = usage.ParseKey(s); err != nil {
			return nil, "", badRequest("key", "key: %s", err)
		}
	}
	rec, err := recorder(h.Usage)
	if err != nil {
		return nil, "", err
	}
	return u.answer(r.Context(), rec, 0)
}

// recorder asks a hook for what counts requests.
func recorder(hook func() (*usage.Recorder, error)) (*usage.Recorder, error) {
	if hook == nil {
		return nil, &registrar.Error{Code: registrar.Unavailable, Message: "nothing is counted here"}
	}
	return hook()
}
