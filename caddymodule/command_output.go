package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// Rules of the output: results go to standard output and are all that goes
// there. Everything else goes to standard error as lines "keytoll: …", lower
// case, no full stop. A hint has its own line. A secret is printed once.

const exitUsage = 2

// failure is an error with the next steps.
type failure struct {
	code    int // exitUsage, or 0 for the ordinary 1
	message string
	hints   []string
}

func (f *failure) Error() string { return f.message }

func usage(format string, args ...any) *failure {
	return &failure{code: exitUsage, message: fmt.Sprintf(format, args...)}
}

// report writes err and its hints; help is the hint of an error without any.
func report(w io.Writer, err error, help string) {
	message, hints := err.Error(), []string(nil)
	if f, ok := errors.AsType[*failure](err); ok {
		hints = f.hints
	} else if e, ok := errors.AsType[*mgmt.Error](err); ok && e.Hint != "" {
		hints = []string{e.Hint}
	} else if e, ok := errors.AsType[*registrar.Error](err); ok && e.Hint != "" {
		hints = []string{e.Hint}
	}
	if e, ok := errors.AsType[*mgmt.Error](err); ok && len(hints) == 0 && e.Field == "permissions" {
		hints = []string{"caddy keytoll status shows the permissions of the configuration"}
	}
	if len(hints) == 0 {
		hints = []string{help}
	}
	note(w, "%s", message)
	for _, h := range hints {
		note(w, "hint: %s", h)
	}
}

// note writes one line that is no result.
func note(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, "keytoll: "+format+"\n", args...)
}

// refused gives back the response that caddycmd.AdminAPIRequest made an error
// of. It keeps status and body only in its text, "caddy responded with error:
// HTTP 404: …", and what the server wrote is the better message.
func refused(err error) *http.Response {
	rest, ok := strings.CutPrefix(err.Error(), "caddy responded with error: HTTP ")
	if !ok {
		return nil
	}
	code, body, _ := strings.Cut(rest, ": ")
	status, err := strconv.Atoi(code)
	if err != nil || status < 400 || status > 599 {
		return nil
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body))}
}

func unreachable(address string, err error) error {
	if _, _, e := net.SplitHostPort(address); e != nil && !strings.Contains(address, "/") {
		return &failure{message: fmt.Sprintf("%q is no admin address: %v", address, err),
			hints: []string{"name it with a port, such as --address localhost:2019"}}
	}
	return &failure{message: fmt.Sprintf("no caddy answers at %s: %v", address, err), hints: []string{
		"start it: caddy run --config Caddyfile",
		"or name its admin endpoint with --address, or its configuration with --config",
		"without a server: caddy keytoll init makes a database with a first key",
	}}
}

func (s *session) printJSON(v any) error {
	enc := json.NewEncoder(s.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printStatus shows the fields in the order in which the server sent them.
func (s *session) printStatus(status json.RawMessage) error {
	if s.json() {
		return s.printJSON(status)
	}
	dec := json.NewDecoder(bytes.NewReader(status))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errors.New("the status is not a JSON object")
	}
	tw := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		fmt.Fprintf(tw, "%s\t%s\n", name, dash(plain(value)))
	}
	return tw.Flush()
}

// plain writes a JSON value for people: "active 3, revoked 1" for an object of
// numbers, and the values of a list with commas between them.
func plain(value json.RawMessage) string {
	var text string
	if json.Unmarshal(value, &text) == nil {
		return text
	}
	var parts []string
	var list []json.RawMessage
	var counts map[string]uint64
	var named map[string]string
	switch {
	case json.Unmarshal(value, &list) == nil:
		for _, v := range list {
			parts = append(parts, plain(v))
		}
	case json.Unmarshal(value, &counts) == nil:
		for _, k := range slices.Sorted(maps.Keys(counts)) {
			parts = append(parts, fmt.Sprintf("%s %d", k, counts[k]))
		}
	case json.Unmarshal(value, &named) == nil: // such as a prefix and its environment
		for _, k := range slices.Backward(slices.Sorted(maps.Keys(named))) {
			if named[k] != "" {
				parts = append(parts, named[k])
			}
		}
		return strings.Join(parts, " ")
	default:
		return string(value)
	}
	return strings.Join(parts, ", ")
}

type row [2]string

// printRows writes names and values in two columns.
func (s *session) printRows(rows ...row) error {
	tw := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(tw, "%s\t%s\n", r[0], dash(r[1]))
	}
	return tw.Flush()
}

func (s *session) printTenant(t mgmt.Tenant) error {
	if s.json() {
		return s.printJSON(t)
	}
	return s.printRows(row{"id", t.ID}, row{"name", t.Name}, row{"plan", t.Plan}, row{"override", overrideText(t.Override)},
		row{"status", t.Status}, row{"permissions", boundText(t.Permissions)}, row{"metadata", pairs(t.Metadata)},
		row{"created", stamp(&t.CreatedAt)})
}

func (s *session) printKey(k mgmt.Key) error {
	if s.json() {
		return s.printJSON(k)
	}
	rows := []row{{"id", k.ID}, {"tenant", k.Tenant}, {"name", k.Name}, {"description", k.Description}, {"prefix", k.Prefix},
		{"environment", k.Environment}, {"status", statusText(k)}, {"rate", rateText(k.Rate)},
		{"override", overrideText(k.Override)}}
	if c := k.Credits; c != nil {
		rows = append(rows, row{"credits", fmt.Sprintf("limit %s, used %s, remaining %s, resets %s", c.Limit, c.Used, c.Remaining, stamp(c.ResetsAt))})
	}
	rows = append(rows, row{"permissions", strings.Join(k.Permissions, ", ")}, row{"addresses", strings.Join(k.Addresses, ", ")},
		row{"metadata", pairs(k.Metadata)}, row{"created", stamp(&k.CreatedAt)}, row{"expires", stamp(k.ExpiresAt)},
		row{"rotated", stamp(k.RotatedAt)})
	if k.PreviousExpiresAt != nil {
		rows = append(rows, row{"old secret until", stamp(k.PreviousExpiresAt)})
	}
	rows = append(rows, row{"revoked", stamp(k.RevokedAt)}, row{"last used", stamp(k.LastUsedAt)})
	if k.LastUsedAt != nil {
		rows = append(rows, row{"from address", k.LastUsedAddress}, row{"user agent", k.LastUsedAgent})
	}
	return s.printRows(rows...)
}

// printNewKey shows a secret, the one time that it is there to be shown.
func (s *session) printNewKey(k mgmt.Key) error {
	if s.json() {
		if err := s.printJSON(k); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(s.out, k.Key); err != nil {
		return err
	}
	note(s.err, "this key is shown once: keep it now")
	note(s.err, "%s of tenant %s, expires %s", k.ID, k.Tenant, stamp(k.ExpiresAt))
	return nil
}

// statusText is the status for people: a key past its expiry is refused,
// whatever its status.
func statusText(k mgmt.Key) string {
	if k.Status == "active" && k.ExpiresAt != nil && !k.ExpiresAt.After(time.Now()) {
		return "expired"
	}
	return k.Status
}

func rateText(r *mgmt.Rate) string {
	if r == nil {
		return "as the plan"
	}
	text := fmt.Sprintf("%d/%s", r.Requests, r.Window)
	if r.Burst != r.Requests {
		text += fmt.Sprintf(" burst %d", r.Burst)
	}
	return text
}

func pairs(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ", ")
}

func stamp(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
