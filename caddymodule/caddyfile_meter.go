package caddymodule

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// flagWord reads a word that may stand once, without a value. It reports false
// for other words.
func flagWord(d *caddyfile.Dispenser, word string, into *bool) (bool, error) {
	if d.Val() != word {
		return false, nil
	}
	if *into {
		return true, d.Errf("%s is given twice", word)
	}
	*into = true
	return true, nil
}

// perPeriod splits "<n>/<period>".
func perPeriod(d *caddyfile.Dispenser, what string) (amount, kind string, err error) {
	word := d.Val()
	if !d.NextArg() {
		return "", "", d.Errf("%s needs an amount and a period, such as %s", word, what)
	}
	amount, kind, ok := strings.Cut(d.Val(), "/")
	if !ok || amount == "" {
		return "", "", d.Errf("%s %q: want an amount and a period, such as %s", word, d.Val(), what)
	}
	if _, err := period.ParseKind(kind); err != nil {
		return "", "", d.WrapErr(err)
	}
	return amount, kind, nil
}

// parseCredits reads an amount that stays what it is as a number of JSON: Caddy
// keeps the numbers of a configuration as floats.
func parseCredits(d *caddyfile.Dispenser, word, text string) (access.Credits, error) {
	c, err := access.ParseCredits(text)
	if err != nil {
		return 0, d.Errf("%s %s: %v", word, text, err)
	}
	f, _ := strconv.ParseFloat(c.String(), 64)
	if again, err := access.ParseCredits(strconv.FormatFloat(f, 'f', -1, 64)); err != nil || again != c {
		return 0, d.Errf("%s %s: more digits than a configuration keeps: want at most 15", word, text)
	}
	return c, nil
}

// planCredits reads "credits <n>/<period> [overage <n>] [add] [strict]
// [observe]".
func planCredits(d *caddyfile.Dispenser, plan *Plan) error {
	amount, kind, err := perPeriod(d, "1000/month")
	if err != nil {
		return err
	}
	c := &PlanCredits{Period: kind}
	if c.Amount, err = parseCredits(d, "credits", amount); err != nil {
		return err
	}
	for over := false; d.NextArg(); {
		if d.Val() == "overage" {
			if over {
				return d.Err("overage is given twice")
			}
			over = true
			if !d.NextArg() {
				return d.Err("overage needs an amount, such as 100")
			}
			if c.Overage, err = parseCredits(d, "overage", d.Val()); err != nil {
				return err
			}
			continue
		}
		if err := anyFlag(d, "overage <n>, add, strict or observe", map[string]*bool{"add": &c.Add, "strict": &c.Strict, "observe": &c.Observe}); err != nil {
			return err
		}
	}
	plan.Credits = c
	return nil
}

// anyFlag reads one of several words that may each stand once.
func anyFlag(d *caddyfile.Dispenser, want string, flags map[string]*bool) error {
	into, ok := flags[d.Val()]
	if !ok {
		return d.Errf("unexpected %q: want %s", d.Val(), want)
	}
	_, err := flagWord(d, d.Val(), into)
	return err
}

// planQuota reads "quota <n>/<period> [<meter>] [observe]".
func planQuota(d *caddyfile.Dispenser, plan *Plan) error {
	amount, kind, err := perPeriod(d, "1000/day")
	if err != nil {
		return err
	}
	q := PlanQuota{Period: kind}
	for d.NextArg() {
		if observe, err := flagWord(d, "observe", &q.Observe); observe || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		if q.Meter != "" {
			return d.Errf("unexpected %q: a quota has one meter", d.Val())
		}
		if _, err := credit.ParseMeter(d.Val()); err != nil {
			return d.WrapErr(err)
		}
		q.Meter = d.Val()
	}
	if q.Amount, err = quotaAmount(d, amount, strings.HasPrefix(q.Meter, "bytes_")); err != nil {
		return err
	}
	if int64(float64(q.Amount)) != q.Amount { // see parseCredits
		return d.Errf("quota %s: more digits than a configuration keeps: want at most 15", amount)
	}
	if err := checkQuotas(plan.Quotas, q); err != nil {
		return d.WrapErr(err)
	}
	plan.Quotas = append(plan.Quotas, q)
	return nil
}

// quotaAmount reads a whole number, or a size such as 10GiB if it counts bytes.
func quotaAmount(d *caddyfile.Dispenser, text string, bytes bool) (int64, error) {
	if n, err := strconv.ParseUint(text, 10, 64); err == nil && n <= maxQuota {
		return int64(n), nil
	}
	if !bytes {
		return 0, d.Errf("quota %s: want a whole number from 1 to %d", text, int64(maxQuota))
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > maxQuota {
		return 0, d.Errf("quota %s: want a size such as 10GiB, at most %d bytes", text, int64(maxQuota))
	}
	return int64(n), nil
}

func planConcurrent(d *caddyfile.Dispenser, plan *Plan) error {
	c, err := concurrent(d)
	if err != nil {
		return err
	}
	for _, before := range plan.Concurrent {
		if before.sameFlight(c) {
			return d.Errf("concurrent is given twice per %s", flightRule{tenant: c.Per == "tenant"})
		}
	}
	plan.Concurrent = append(plan.Concurrent, c)
	return nil
}

// metering reads the block metering of the global option.
//
//	metering {
//		timezone <name>                   # default: UTC
//		anchor <day>                      # of months; default: 1
//		on_failure refuse|serve           # default: refuse
//		retain minute|hour|day <duration> # default: 2d, 90d and 800d
//		export file <path>
//		export http <url> [<Header> <value>]
//	}
func (p *appParser) metering(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	m := new(Metering)
	once := make(map[string]bool)
	var retained use
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if once[word] && word != "retain" {
			return d.Errf("%s is given twice", word)
		}
		once[word] = true
		if word == "retain" {
			retained = used(d, word)
		}
		if err := m.option(d, word); err != nil {
			return err
		}
	}
	if _, err := m.Retain.compile(); err != nil {
		return at(err, retained)
	}
	p.app.Metering = m
	return nil
}

func (m *Metering) option(d *caddyfile.Dispenser, word string) error {
	switch word {
	case "timezone":
		if err := word1(d, &m.Timezone); err != nil {
			return err
		}
		if _, err := loadZone(m.Timezone); err != nil || m.Timezone == "" {
			return d.Errf("timezone %q: want an IANA name that this machine knows, such as Europe/Berlin", m.Timezone)
		}
		return nil
	case "anchor":
		var text string
		if err := word1(d, &text); err != nil {
			return err
		}
		day, err := strconv.Atoi(text)
		if err != nil || day < 1 || day > 31 {
			return d.Errf("anchor %s: want a day from 1 to 31", text)
		}
		m.Anchor = day
		return nil
	case "on_failure":
		if err := word1(d, &m.OnFailure); err != nil {
			return err
		}
		if m.OnFailure != "refuse" && m.OnFailure != "serve" {
			return d.Errf("on_failure %q: want refuse or serve", m.OnFailure)
		}
		return nil
	case "retain":
		return m.retain(d)
	case "export":
		return m.export(d)
	}
	return unrecognized(d, "timezone", "anchor", "on_failure", "retain", "export")
}

func (m *Metering) retain(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("retain needs minute, hour or day, and how long: retain hour 90d")
	}
	if m.Retain == nil {
		m.Retain = new(UsageRetention)
	}
	into := map[string]*caddy.Duration{"minute": &m.Retain.Minute, "hour": &m.Retain.Hour, "day": &m.Retain.Day}[args[0]]
	if into == nil {
		return d.Errf("retain %q: want minute, hour or day", args[0])
	}
	if *into != 0 {
		return d.Errf("retain %s is given twice", args[0])
	}
	v, err := parseLife(args[1])
	if err != nil || v == 0 {
		return d.Errf("retain %s %q: want a duration of at most ten years, such as 90d", args[0], args[1])
	}
	*into = v
	return nil
}

func (m *Metering) export(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	e := new(UsageExport)
	switch {
	case len(args) == 2 && args[0] == "file":
		e.File = args[1]
	case len(args) == 2 && args[0] == "http":
		e.URL = args[1]
	case len(args) == 4 && args[0] == "http":
		e.URL, e.Header, e.Value = args[1], args[2], args[3]
	default:
		return d.Err("export needs a file, or a URL and maybe a header: export file <path>, or export http <url> [<Header> <value>]")
	}
	if err := e.check(); err != nil {
		return d.WrapErr(err)
	}
	m.Export = e
	return nil
}
