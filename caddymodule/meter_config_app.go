package caddymodule

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
	_ "time/tzdata" // for machines that know no time zones

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"
)

// compile checks m. It opens nothing.
func (m *Metering) compile() (c metered, err error) {
	c = metered{anchor: max(m.Anchor, 1), serve: m.OnFailure == "serve"}
	if c.zone, err = loadZone(m.Timezone); err != nil {
		return metered{}, err
	}
	if m.Anchor < 0 || m.Anchor > 31 {
		return metered{}, fmt.Errorf("anchor %d: want a day from 1 to 31", m.Anchor)
	}
	if m.OnFailure != "" && m.OnFailure != "refuse" && m.OnFailure != "serve" {
		return metered{}, fmt.Errorf("on_failure %q: want refuse or serve", m.OnFailure)
	}
	if c.retain, err = m.Retain.compile(); err != nil {
		return metered{}, err
	}
	c.export, err = m.Export.compile()
	return c, err
}

// loadZone finds a time zone. That of the machine is no choice: periods must
// not change with it.
func loadZone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("timezone %q: want an IANA name that this machine knows, such as Europe/Berlin", name)
	}
	return zone, nil
}

// compile fills in defaults. r may be nil.
func (r *UsageRetention) compile() (retention, error) {
	const day = 24 * time.Hour
	c := retention{2 * day, 90 * day, 800 * day}
	if r == nil {
		return c, nil
	}
	for _, step := range []struct {
		name string
		from caddy.Duration
		to   *time.Duration
	}{{"minute", r.Minute, &c.minute}, {"hour", r.Hour, &c.hour}, {"day", r.Day, &c.day}} {
		if d := time.Duration(step.from); d < 0 || d > maxLife || d%time.Second != 0 {
			return c, fmt.Errorf("retain %s %s: want whole seconds, at most ten years", step.name, d)
		} else if d != 0 {
			*step.to = d
		}
	}
	switch {
	case c.minute < retainLeast:
		return c, fmt.Errorf("retain minute %s: want 2h or more", c.minute)
	case c.hour < c.minute+retainApart:
		return c, fmt.Errorf("retain hour %s: want two days more than minute, which is %s", c.hour, c.minute)
	case c.day < c.hour+retainApart:
		return c, fmt.Errorf("retain day %s: want two days more than hour, which is %s", c.day, c.hour)
	}
	return c, nil
}

// check says what is wrong with e before its placeholders are expanded, or nil.
func (e *UsageExport) check() error {
	switch {
	case (e.File == "") == (e.URL == ""):
		return errors.New("export needs a file or a URL: export file <path>, or export http <url>")
	case e.URL == "" && (e.Header != "" || e.Value != ""):
		return errors.New("export: a file has no header")
	case (e.Header == "") != (e.Value == ""):
		return errors.New("export: a header needs a name and a value")
	case e.Header != "" && (!httpguts.ValidHeaderFieldName(e.Header) || !sendable(e.Header)):
		return fmt.Errorf("export: header %q cannot be set", e.Header)
	case e.URL != "" && !strings.Contains(e.URL, "{"):
		return checkExportURL(e.URL)
	}
	return nil
}

// sendable reports whether a header of a post is ours to set.
func sendable(name string) bool {
	for _, n := range []string{"Host", "Connection", "Content-Length", "Content-Type", "Transfer-Encoding", "Upgrade", "Trailer", "Te"} {
		if strings.EqualFold(n, name) {
			return false
		}
	}
	return true
}

func checkExportURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return errors.New("export: want a URL with http:// or https:// and a host")
	}
	if u.User != nil {
		return errors.New("export: put credentials into a header, such as Authorization {env.TOKEN}")
	}
	return nil
}

// compile expands placeholders. Errors never hold what they stand for. e may be
// nil.
func (e *UsageExport) compile() (*exportTarget, error) {
	if e == nil {
		return nil, nil
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	t := &exportTarget{header: e.Header}
	repl := caddy.NewReplacer()
	for _, part := range []struct {
		name, from string
		to         *string
	}{{"file", e.File, &t.file}, {"URL", e.URL, &t.url}, {"value", e.Value, &t.value}} {
		text, err := repl.ReplaceOrErr(part.from, true, true)
		if err != nil {
			return nil, fmt.Errorf("export: the %s has a placeholder that is unknown or empty", part.name)
		}
		*part.to = text
	}
	if !httpguts.ValidHeaderFieldValue(t.value) {
		return nil, errors.New("export: the value of the header holds a character that no header has")
	}
	if t.file != "" {
		return t, nil
	}
	return t, checkExportURL(t.url)
}
