package importer

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// column is one column or member. text, list and pairs take what the file says;
// their errors never hold it.
type column struct {
	name   string
	bit    uint32
	number bool // JSON numbers are read as text
	text   func(*draft, string) error
	list   func(*draft, []string) error
	pairs  func(*draft, map[string]string) error
}

// wrong returns the error for a column that is what it says.
func (c *column) wrong(is string) error { return &fieldError{c.name, is} }

// columns is all there are, in the order in which messages list them.
var columns []*column

// They are filled in here because metadata looks its own column up.
func init() {
	columns = []*column{
		{name: "key", text: (*draft).secret},
		{name: "sha256", text: (*draft).sum},
		{name: "hash", text: (*draft).hash},
		checkedColumn("hint", "want at most 64 visible ASCII characters", func(d *draft, s string) error {
			d.key.Hint = s
			return visible(s, 64)
		}),
		checkedColumn("tenant", "want 1 to 64 letters, digits, '_', '-' or '.', starting with a letter or digit", func(d *draft, s string) error {
			d.key.Tenant = s
			return access.CheckTenantID(s)
		}),
		checkedColumn("name", "want at most 200 bytes without control characters", func(d *draft, s string) error {
			d.key.Name = s
			return access.CheckName(s)
		}),
		checkedColumn("description", "want at most 1000 bytes without control characters", func(d *draft, s string) error {
			d.key.Description = s
			return access.CheckDescription(s)
		}),
		listColumn("permissions", "want at most 64 permissions with spaces between them, each of 1 to 64 visible ASCII characters without quotes and backslash", setPermissions),
		listColumn("addresses", "want at most 64 networks with spaces between them, such as 192.0.2.0/24 2001:db8::1", setAddresses),
		checkedColumn("rate", "want <requests>/<window>, such as 100/1m, and maybe burst <n>", setRate),
		timeColumn("expires_at", func(d *draft) *time.Time { return &d.key.Expires }),
		timeColumn("created_at", func(d *draft) *time.Time { return &d.key.Created }),
		timeColumn("last_used_at", func(d *draft) *time.Time { return &d.key.LastUsed }),
		metadataColumn(),
		checkedColumn("environment", "want at most 32 bytes without control characters", func(d *draft, s string) error {
			d.key.Environment = s
			if len(s) > 32 {
				return errors.ErrUnsupported
			}
			return access.CheckName(s)
		}),
		checkedColumn("disabled", "want true or false", setDisabled),
		checkedColumn("id", "want an id of ours, key_ and 16 letters or digits; leave it out for a new one", func(d *draft, s string) error {
			d.key.ID = s
			_, err := access.ParseKeyID(s)
			return err
		}),
	}
	for i, c := range columns {
		c.bit = 1 << i
	}
}

// checkedColumn makes a column whose errors all read the same, whatever set
// returns.
func checkedColumn(name, want string, set func(*draft, string) error) *column {
	c := &column{name: name}
	c.text = func(d *draft, s string) error {
		if set(d, s) != nil {
			return c.wrong(want)
		}
		return nil
	}
	return c
}

// listColumn makes a column of texts between spaces, '|' or, in CSV within
// quotes, commas.
func listColumn(name, want string, set func(*draft, []string) error) *column {
	c := &column{name: name}
	c.list = func(d *draft, values []string) error {
		if set(d, values) != nil {
			return c.wrong(want)
		}
		return nil
	}
	c.text = func(d *draft, s string) error {
		return c.list(d, strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" |,", r) }))
	}
	return c
}

func timeColumn(name string, of func(*draft) *time.Time) *column {
	c := checkedColumn(name, "want a time such as 2030-01-31T00:00:00Z, a date or unix seconds", func(d *draft, s string) (err error) {
		*of(d), err = parseTime(s)
		return err
	})
	c.number = true
	return c
}

func metadataColumn() *column {
	const want = "want a JSON object of texts or k=v;k=v, of at most 16 pairs"
	c := checkedColumn("metadata", want, func(d *draft, s string) error {
		m, err := parseMetadata(s)
		if err != nil {
			return err
		}
		d.key.Metadata = m
		return access.CheckMetadata(m)
	})
	c.pairs = func(d *draft, m map[string]string) error {
		if access.CheckMetadata(m) != nil {
			return c.wrong(want)
		}
		d.key.Metadata = m
		return nil
	}
	return c
}

func setPermissions(d *draft, values []string) error {
	if len(values) > access.MaxPermissions {
		return errors.ErrUnsupported
	}
	for _, v := range values {
		if err := access.CheckPermission(v); err != nil {
			return err
		}
	}
	d.key.Permissions = values
	return nil
}

func setAddresses(d *draft, values []string) error {
	if len(values) > access.MaxAddresses {
		return errors.ErrUnsupported
	}
	for _, v := range values {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			a, err := netip.ParseAddr(v)
			if err != nil || a.Zone() != "" {
				return errors.ErrUnsupported
			}
			a = a.Unmap()
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Addr().Is4In6() {
			return errors.ErrUnsupported
		}
		d.key.Addresses = append(d.key.Addresses, p.Masked())
	}
	return nil
}

func setRate(d *draft, s string) error {
	text, burst, more := strings.Cut(s, " burst ")
	r, err := access.ParseRate(text)
	if err == nil && more {
		r, err = r.WithBurst(burst)
	}
	d.key.Rate = &r
	return err
}

func setDisabled(d *draft, s string) error {
	switch strings.ToLower(s) {
	case "true", "yes", "1":
		d.key.Disabled = true
	case "false", "no", "0":
	default:
		return errors.ErrUnsupported
	}
	return nil
}

// parseTime reads RFC 3339, a date, which is its start in UTC, or unix seconds.
// The result is in whole seconds, between the years 1971 and 9999.
func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t, err = time.Parse(time.DateOnly, s)
	}
	if err != nil {
		n, err := strconv.ParseUint(s, 10, 38)
		if err != nil {
			return t, err
		}
		t = time.Unix(int64(n), 0)
	}
	t = t.UTC().Truncate(time.Second)
	if t.Year() < 1971 || t.Year() > 9999 {
		return t, errors.ErrUnsupported
	}
	return t, nil
}

func visible(s string, limit int) error {
	if len(s) > limit {
		return errors.ErrUnsupported
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return errors.ErrUnsupported
		}
	}
	return nil
}
