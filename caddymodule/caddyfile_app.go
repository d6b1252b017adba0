package caddymodule

import (
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/dustin/go-humanize"

	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("keytoll", parseApp)
}

// parseApp reads the global option.
//
//	keytoll {
//		storage <backend> { … }               # default: bolt
//		master_key {file.…}|{env.…}           # default: master.key beside the database; a second one is the one before it
//		keys {
//			prefix <prefix> [<environment>]
//			max_expiry <duration>
//			default_expiry <duration>
//			idle_expiry <duration>
//			rotate_grace <duration>
//			rotate_settle <duration>          # default: 1h
//			expiry_notice <duration...>       # default: 30d 7d 1d
//		}
//		permission <name> [<description>] [implies <name...>]
//		plan <name> {
//			rate <n>/<window> [burst <n>]
//			permissions <name...>
//			max_keys <n>
//			credits <n>/<period> [overage <n>] [add] [strict] [observe]
//			quota <n>/<period> [requests|bytes_in|bytes_out|seconds] [observe]
//			concurrent <n> [per key|tenant] [observe]
//		}
//		metering { … }                        # see appParser.metering
//		default_plan <name>
//		tenant <id> {
//			name <text>
//			plan <name>
//			permissions <name...>
//		}
//		dialect <name> [<preset>] { … }       # see parseDialect
//		dialect <name>                        # the default one
//		providers personalabs                 # the ten of that product
//		provider <name> { … }                 # see appParser.provider; without a block as it is shipped
//		kms <module> { … }                    # wraps data keys in place of the master key
//		previous_kms <module> { … }           # wrapped them before, until rekey has run
//		audit {
//			retain <duration>
//		}
//		throttle_failures <n>/<window> [burst <n>] [per <ipv4 bits> <ipv6 bits>]
//		throttle_failures off
//		learn { … }                           # see parseLearn
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
	if err := p.checkNames(); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "keytoll", Value: caddyconfig.JSON(p.app, nil)}, nil
}

// appParser remembers where names were used: they may be defined further down.
type appParser struct {
	app     *App
	plans   []use
	defined []use           // permissions
	implied []use           // by permissions
	granted []use           // to plans and tenants
	spoken  use             // the default dialect
	shipped map[string]bool // providers that came with a set
	once    map[string]bool
}

// use is a name that must be defined, and where it stands.
type use struct {
	name, file string
	line       int
}

func used(d *caddyfile.Dispenser, name string) use { return use{name, d.File(), d.Line()} }

func (p *appParser) checkNames() error {
	for _, u := range p.plans {
		if p.app.Plans[u.name] == nil {
			return fmt.Errorf("plan %s is not defined: add `plan %[1]s { … }` or name one of the plans, at %s:%d", u.name, u.file, u.line)
		}
	}
	if p.app.Dialect != "" {
		if _, err := namedDialect(p.app.Dialect, p.app.Dialects); err != nil {
			return at(err, p.spoken)
		}
	}
	return p.checkGranted()
}

func (p *appParser) option(d *caddyfile.Dispenser) error {
	word := d.Val()
	switch word {
	case "plan", "tenant", "permission", "dialect", "provider", "master_key":
	default:
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
		return p.masterKey(d)
	case "keys":
		return p.keys(d)
	case "plan":
		return p.plan(d)
	case "default_plan":
		if err := word1(d, &p.app.DefaultPlan); err != nil {
			return err
		}
		p.plans = append(p.plans, used(d, p.app.DefaultPlan))
		return nil
	case "tenant":
		return p.tenant(d)
	case "permission":
		return p.permission(d)
	case "dialect":
		return p.dialect(d)
	case "provider":
		return p.provider(d)
	case "providers":
		return p.providers(d)
	case "kms":
		return p.kms(d, &p.app.KMSRaw)
	case "previous_kms":
		return p.kms(d, &p.app.PreviousKMSRaw)
	case "audit":
		return p.audit(d)
	case "metering":
		return p.metering(d)
	case "throttle_failures":
		return p.throttle(d)
	case "gc":
		return p.gc(d)
	case "learn":
		var err error
		p.app.Learn, err = parseLearn(d)
		return err
	}
	return unrecognized(d, "storage", "master_key", "keys", "permission", "plan", "default_plan", "tenant", "dialect", "provider", "providers", "kms", "previous_kms", "audit", "metering", "throttle_failures", "learn", "gc")
}

func (p *appParser) dialect(d *caddyfile.Dispenser) error {
	name, dl, err := parseDialect(d, p.app.Dialects)
	if err != nil {
		return err
	}
	if dl == nil {
		if p.app.Dialect != "" {
			return d.Errf("the default dialect is given twice: it is %s already", p.app.Dialect)
		}
		p.app.Dialect, p.spoken = name, used(d, name)
		return nil
	}
	if p.app.Dialects == nil {
		p.app.Dialects = make(map[string]*dialect.Dialect)
	}
	p.app.Dialects[name] = dl
	return nil
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
