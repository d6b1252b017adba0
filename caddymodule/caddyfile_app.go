package caddymodule

import (
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/dustin/go-humanize"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("keytoll", parseApp)
}

// parseApp reads the global option.
//
//	keytoll {
//		storage <backend> { … }               # default: bolt
//		master_key {file.…}|{env.…}           # default: master.key beside the database
//		keys {
//			prefix <prefix> [<environment>]
//		}
//		plan <name> {
//			rate <n>/<window> [burst <n>]
//		}
//		default_plan <name>
//		tenant <id> {
//			name <text>
//			plan <name>
//		}
//		throttle_failures <n>/<window> [burst <n>] [per <ipv4 bits> <ipv6 bits>]
//		throttle_failures off
//		gc <percent> <memory limit>
//	}
func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next()
	if existing != nil {
		return nil, d.Err("the keytoll global option is given twice; put everything into one block")
	}
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	p := appParser{app: new(App)}
	for d.NextBlock(0) {
		if err := p.option(d); err != nil {
			return nil, err
		}
	}
	if err := p.checkPlans(); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "keytoll", Value: caddyconfig.JSON(p.app, nil)}, nil
}

// appParser remembers where plans were named: they may be defined further down.
type appParser struct {
	app   *App
	named []planUse
	once  map[string]bool
}

type planUse struct {
	plan, file string
	line       int
}

func (p *appParser) use(d *caddyfile.Dispenser, plan string) {
	p.named = append(p.named, planUse{plan, d.File(), d.Line()})
}

func (p *appParser) checkPlans() error {
	for _, u := range p.named {
		if p.app.Plans[u.plan] == nil {
			return fmt.Errorf("plan %s is not defined: add `plan %[1]s { … }` or name one of the plans, at %s:%d", u.plan, u.file, u.line)
		}
	}
	return nil
}

func (p *appParser) option(d *caddyfile.Dispenser) error {
	word := d.Val()
	if word != "plan" && word != "tenant" {
		if p.once[word] {
			return d.Errf("%s is given twice", word)
		}
		if p.once == nil {
			p.once = make(map[string]bool)
		}
		p.once[word] = true
	}
	switch word {
	case "storage":
		return p.storage(d)
	case "master_key":
		if err := word1(d, &p.app.MasterKey); err != nil {
			return err
		}
		return checkMasterText(d, p.app.MasterKey)
	case "keys":
		return p.keys(d)
	case "plan":
		return p.plan(d)
	case "default_plan":
		if err := word1(d, &p.app.DefaultPlan); err != nil {
			return err
		}
		p.use(d, p.app.DefaultPlan)
		return nil
	case "tenant":
		return p.tenant(d)
	case "throttle_failures":
		return p.throttle(d)
	case "gc":
		return p.gc(d)
	}
	return unrecognized(d, "storage", "master_key", "keys", "plan", "default_plan", "tenant", "throttle_failures", "gc")
}

func (p *appParser) storage(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("storage needs the name of a backend, such as bolt")
	}
	name := d.Val()
	mod, err := caddyfile.UnmarshalModule(d, "keytoll.storage."+name)
	if err != nil {
		return err
	}
	p.app.StorageRaw = caddyconfig.JSONModuleObject(mod, "backend", name, nil)
	return nil
}

func (p *appParser) keys(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "prefix" {
			return unrecognized(d, "prefix")
		}
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
	}
	return nil
}

func (p *appParser) plan(d *caddyfile.Dispenser) error {
	var name string
	if !d.AllArgs(&name) {
		return d.Err("plan needs a name: plan free { rate 100/1m }")
	}
	if access.CheckTenantID(name) != nil {
		return d.Errf("plan name %q: want letters, digits, '_', '-' or '.'", name)
	}
	if p.app.Plans[name] != nil {
		return d.Errf("plan %s is defined twice", name)
	}
	plan := new(Plan)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "rate" {
			return unrecognized(d, "rate")
		}
		if !d.NextArg() {
			return d.Err("rate needs a value, such as 100/1m")
		}
		var r Rate
		if err := rateArgs(d, &r, func(word string) error {
			return d.Errf("unexpected %q after the rate: want burst <n>", word)
		}); err != nil {
			return err
		}
		if len(plan.Rates) == maxPlanRates {
			return d.Errf("a plan has at most %d rates", maxPlanRates)
		}
		plan.Rates = append(plan.Rates, r)
	}
	if p.app.Plans == nil {
		p.app.Plans = make(map[string]*Plan)
	}
	p.app.Plans[name] = plan
	return nil
}

func (p *appParser) tenant(d *caddyfile.Dispenser) error {
	var id string
	if !d.AllArgs(&id) {
		return d.Err("tenant needs an id: tenant acme { plan free }")
	}
	if err := access.CheckTenantID(id); err != nil {
		return d.WrapErr(err)
	}
	if p.app.Tenants[id] != nil {
		return d.Errf("tenant %s is defined twice", id)
	}
	t := new(Tenant)
	once := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if once[d.Val()] {
			return d.Errf("%s is given twice", d.Val())
		}
		once[d.Val()] = true
		switch d.Val() {
		case "name":
			if err := word1(d, &t.Name); err != nil {
				return err
			}
			if err := access.CheckName(t.Name); err != nil {
				return d.WrapErr(err)
			}
		case "plan":
			if err := word1(d, &t.Plan); err != nil {
				return err
			}
			p.use(d, t.Plan)
		default:
			return unrecognized(d, "name", "plan")
		}
	}
	if p.app.Tenants == nil {
		p.app.Tenants = make(map[string]*Tenant)
	}
	p.app.Tenants[id] = t
	return nil
}

func (p *appParser) throttle(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("throttle_failures needs a rate, such as 30/1m, or off")
	}
	p.app.Throttle = new(Throttle)
	if d.Val() == "off" {
		p.app.Throttle.Off = true
		if d.NextArg() {
			return d.ArgErr()
		}
		return nil
	}
	t := p.app.Throttle
	return rateArgs(d, &t.Rate, func(word string) error {
		if word != "per" {
			return d.Errf("unexpected %q after the rate: want burst <n> or per <ipv4 bits> <ipv6 bits>", word)
		}
		v4, err4 := strconv.Atoi(d.Val())
		if !d.NextArg() {
			return d.Err("per needs the bits of IPv4 and of IPv6 addresses, such as per 32 64")
		}
		v6, err6 := strconv.Atoi(d.Val())
		if err4 != nil || err6 != nil || v4 < 1 || v4 > 32 || v6 < 1 || v6 > 128 {
			return d.Err("per: want 1 to 32 bits of IPv4 and 1 to 128 bits of IPv6 addresses")
		}
		t.IPv4Bits, t.IPv6Bits = v4, v6
		return nil
	})
}

func (p *appParser) gc(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("gc needs a percentage and a memory limit: gc 400 1GiB")
	}
	percent, err := strconv.Atoi(args[0])
	if err != nil {
		return d.Errf("gc: %q is not a whole percentage", args[0])
	}
	limit, err := humanize.ParseBytes(args[1])
	if err != nil || limit > 1<<50 {
		return d.Errf("gc: %q is not a size, such as 1GiB", args[1])
	}
	p.app.GC = &GC{Percent: percent, MemoryLimit: int64(limit)}
	if err := p.app.GC.validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
