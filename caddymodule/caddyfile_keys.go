package caddymodule

import (
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func (p *appParser) keys(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	once := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() == "prefix" {
			if err := p.prefix(d); err != nil {
				return err
			}
			continue
		}
		if once[d.Val()] {
			return d.Errf("%s is given twice", d.Val())
		}
		once[d.Val()] = true
		if p.app.KeyPolicy == nil {
			p.app.KeyPolicy = new(KeyPolicy)
		}
		if err := policyOption(d, p.app.KeyPolicy); err != nil {
			return err
		}
	}
	return nil
}

func (p *appParser) prefix(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return d.Err("prefix needs the prefix and may name an environment: prefix ak_live_ live")
	}
	if err := token.CheckPrefix(args[0]); err != nil {
		return d.WrapErr(err)
	}
	for _, q := range p.app.Prefixes {
		if q.Prefix == args[0] {
			return d.Errf("key prefix %s is listed twice", args[0])
		}
	}
	prefix := Prefix{Prefix: args[0]}
	if len(args) == 2 {
		prefix.Environment = args[1]
		if err := prefix.checkEnvironment(); err != nil {
			return d.WrapErr(err)
		}
	}
	p.app.Prefixes = append(p.app.Prefixes, prefix)
	return nil
}

func policyOption(d *caddyfile.Dispenser, k *KeyPolicy) error {
	var err error
	switch d.Val() {
	case "max_expiry":
		err = duration(d, &k.MaxExpiry)
	case "default_expiry":
		err = duration(d, &k.DefaultExpiry)
	case "idle_expiry":
		err = duration(d, &k.IdleExpiry)
	case "rotate_grace":
		err = duration(d, &k.RotateGrace)
	case "rotate_settle":
		k.RotateSettle = new(caddy.Duration)
		err = duration(d, k.RotateSettle)
	case "expiry_notice":
		err = notices(d, k)
	default:
		return unrecognized(d, "prefix", "max_expiry", "default_expiry", "idle_expiry", "rotate_grace", "rotate_settle", "expiry_notice")
	}
	if err != nil {
		return err
	}
	if err := k.validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// duration reads exactly one argument, a duration of which the unit d is a day.
func duration(d *caddyfile.Dispenser, into *caddy.Duration) error {
	word, text := d.Val(), ""
	if err := word1(d, &text); err != nil {
		return err
	}
	v, err := parseLife(text)
	if err != nil {
		return d.Errf("%s: %v", word, err)
	}
	*into = v
	return nil
}

func parseLife(text string) (caddy.Duration, error) {
	v, err := caddy.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: want a number and one of s, m, h, d, such as 90d", text)
	}
	if v < 0 || v > maxLife {
		return 0, fmt.Errorf("%q: want at most ten years, and no less than nothing", text)
	}
	return caddy.Duration(v), nil
}

func notices(d *caddyfile.Dispenser, k *KeyPolicy) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("expiry_notice needs durations, the longest first, such as 30d 7d 1d")
	}
	for _, a := range args {
		v, err := parseLife(a)
		if err != nil {
			return d.Errf("expiry_notice: %v", err)
		}
		k.ExpiryNotice = append(k.ExpiryNotice, v)
	}
	return nil
}

func (p *appParser) permission(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err(`permission needs a name: permission rules:write "Change rules" implies rules:read`)
	}
	name, perm := args[0], new(Permission)
	if p.app.Permissions[name] != nil {
		return d.Errf("permission %s is defined twice", name)
	}
	rest := args[1:]
	if len(rest) > 0 && rest[0] != "implies" {
		perm.Description, rest = rest[0], rest[1:]
		if err := access.CheckDescription(perm.Description); err != nil {
			return d.WrapErr(err)
		}
	}
	if len(rest) > 0 {
		if rest[0] != "implies" || len(rest) == 1 {
			return d.Errf("permission %s: want a description, in quotes if it has spaces, and then implies <name...>", name)
		}
		perm.Implies = rest[1:]
	}
	if _, err := access.NewPermissions([]access.Permission{{Name: name}}); err != nil {
		return d.WrapErr(err)
	}
	for i, n := range perm.Implies {
		if slices.Contains(perm.Implies[:i], n) {
			return d.Errf("permission %s implies %s twice", name, n)
		}
		p.implied = append(p.implied, used(d, n))
	}
	if p.app.Permissions == nil {
		p.app.Permissions = make(map[string]*Permission)
	}
	p.app.Permissions[name] = perm
	p.defined = append(p.defined, used(d, name))
	return nil
}

// permissions reads a list of permissions that a plan or a tenant is bounded
// by.
func (p *appParser) permissions(d *caddyfile.Dispenser, into *[]string) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Err("permissions needs names, such as rules:read, or wildcards, such as rules:*")
	}
	var none *access.Permissions
	if err := checkGranted(none, args); err != nil {
		return d.WrapErr(err)
	}
	for _, a := range args {
		p.granted = append(p.granted, used(d, a))
	}
	*into = args
	return nil
}

// checkGranted checks the permissions with each other, now that all are known.
func (p *appParser) checkGranted() error {
	if len(p.app.Permissions) == 0 {
		return nil
	}
	list := make([]access.Permission, 0, len(p.defined))
	for _, u := range p.defined {
		list = append(list, access.Permission{Name: u.name})
	}
	known, err := access.NewPermissions(list) // without implication
	if err != nil {
		return err
	}
	for _, u := range p.implied {
		if p.app.Permissions[u.name] == nil {
			return at(unknownPermission(known, u.name), u)
		}
	}
	for _, u := range p.defined {
		if p.reaches(u.name, u.name, make(map[string]bool)) {
			return at(fmt.Errorf("permission %s implies itself", u.name), u)
		}
	}
	for _, u := range p.granted {
		if !known.Known(u.name) {
			return at(unknownPermission(known, u.name), u)
		}
	}
	return nil
}

// reaches reports whether a permission implies another, by whatever way.
func (p *appParser) reaches(from, to string, seen map[string]bool) bool {
	if seen[from] {
		return false
	}
	seen[from] = true
	for _, n := range p.app.Permissions[from].Implies {
		if n == to || p.reaches(n, to, seen) {
			return true
		}
	}
	return false
}

func at(err error, u use) error { return fmt.Errorf("%w, at %s:%d", err, u.file, u.line) }

func (p *appParser) audit(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	p.app.Audit = new(Audit)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "retain" {
			return unrecognized(d, "retain")
		}
		if p.app.Audit.Retain != 0 {
			return d.Err("retain is given twice")
		}
		if err := duration(d, &p.app.Audit.Retain); err != nil {
			return err
		}
		if p.app.Audit.Retain == 0 {
			return d.Errf("retain: want from 1d to ten years; without it everything is kept")
		}
		if err := p.app.Audit.validate(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}
