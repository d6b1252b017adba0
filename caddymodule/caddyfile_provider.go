package caddymodule

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
)

// provider reads a provider. Of one that keytoll knows, what is not said stays
// as it is shipped.
//
//	provider <name> {
//		header <Field>                        # in which callers send their key
//		inject <Header> <value>               # how the API wants it; several may be set
//		verify <method> <url> [<header> <value>]...
//		allow_private                         # verify may go to private addresses, and over http
//	}
func (p *appParser) provider(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Err("provider needs a name, such as provider openai; put what is said of it into a block")
	}
	name := args[0]
	if err := access.CheckProvider(name); err != nil {
		return d.WrapErr(err)
	}
	if _, known := p.app.Providers[name]; known && !p.shipped[name] {
		return d.Errf("provider %s is given twice", name)
	}
	delete(p.shipped, name)
	def, changed := provider.Definition{}, false
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if !changed {
			def, _ = provider.Preset(name)
			changed = true
		}
		if err := p.providerOption(d, &def); err != nil {
			return err
		}
	}
	if err := p.addProvider(name, &def); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// addProvider adds one that can be compiled.
func (p *appParser) addProvider(name string, def *provider.Definition) error {
	full, err := definition(name, def)
	if err == nil {
		_, err = provider.Compile(name, full)
	}
	if err != nil {
		return err
	}
	if p.app.Providers == nil {
		p.app.Providers = make(map[string]*provider.Definition)
	}
	p.app.Providers[name] = def
	return nil
}

func (p *appParser) providerOption(d *caddyfile.Dispenser, def *provider.Definition) error {
	word := d.Val()
	args := d.RemainingArgs()
	switch word {
	case "header":
		if len(args) != 1 {
			return d.Err("header needs the name of the request header in which callers send their key")
		}
		def.Header = args[0]
	case "inject":
		if len(args) != 2 {
			return d.Errf(`inject needs a header and a value: inject Authorization "Bearer %s"`, provider.Placeholder)
		}
		def.Inject = append(def.Inject, provider.Header{Name: args[0], Value: args[1]})
	case "verify":
		if len(args) < 2 || len(args)%2 != 0 {
			return d.Errf(`verify needs a method and a URL, and headers with their values: verify GET https://api.example.com/me Authorization "Bearer %s"`, provider.Placeholder)
		}
		private := def.Verify != nil && def.Verify.AllowPrivate
		def.Verify = &provider.Check{Method: args[0], URL: args[1], AllowPrivate: private}
		for i := 2; i < len(args); i += 2 {
			def.Verify.Headers = append(def.Verify.Headers, provider.Header{Name: args[i], Value: args[i+1]})
		}
	case "allow_private":
		if len(args) > 0 {
			return d.Errf("allow_private takes no argument, not %q", args[0])
		}
		if def.Verify == nil {
			return d.Err("allow_private is about verify, which must stand before it")
		}
		def.Verify.AllowPrivate = true
	default:
		return unrecognized(d, "header", "inject", "verify", "allow_private")
	}
	return nil
}

// providerSets are the sets of providers that can be taken by one name.
var providerSets = map[string]func() []string{"personalabs": provider.Presets}

// providers takes a whole set of those that keytoll knows. What is said of one
// of them elsewhere stands.
func (p *appParser) providers(d *caddyfile.Dispenser) error {
	var name string
	if err := word1(d, &name); err != nil {
		return err
	}
	set := providerSets[name]
	if set == nil {
		return d.Errf("there is no set of providers %q: want personalabs, or provider <name> for each", name)
	}
	for _, of := range set() {
		if _, known := p.app.Providers[of]; known {
			continue
		}
		if p.shipped == nil {
			p.shipped = make(map[string]bool)
		}
		p.shipped[of] = true
		if err := p.addProvider(of, new(provider.Definition)); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// kms reads a guest that wraps data keys.
func (p *appParser) kms(d *caddyfile.Dispenser, into *json.RawMessage) error {
	word := d.Val()
	if *into != nil {
		return d.Errf("%s is given twice", word)
	}
	if !d.NextArg() {
		return d.Err(word + " needs the name of a key management service, which is a plugin in the namespace keytoll.kms")
	}
	name := d.Val()
	mod, err := caddyfile.UnmarshalModule(d, "keytoll.kms."+name)
	if err != nil {
		return err
	}
	*into = caddyconfig.JSONModuleObject(mod, "service", name, nil)
	return nil
}

// masterKey reads the master key, or the second time the one before it.
func (p *appParser) masterKey(d *caddyfile.Dispenser) error {
	into := &p.app.MasterKey
	switch {
	case p.app.PreviousMasterKey != "":
		return d.Err("master_key is given three times: the first is the present one, the second the one before it")
	case p.app.MasterKey != "":
		into = &p.app.PreviousMasterKey
	}
	if err := word1(d, into); err != nil {
		return err
	}
	if p.app.MasterKey == p.app.PreviousMasterKey {
		return d.Err("master_key is given twice and the same: the first is the present one, the second the one before it")
	}
	return checkMasterText(d, *into)
}

// parseBYOK reads
//
//	byok [<provider...>] {
//		for <matcher> <provider>
//		from <placeholder>
//		unknown pass|refuse
//	}
func (g *Handler) parseBYOK(h httpcaddyfile.Helper) error {
	b := &BYOK{Providers: h.RemainingArgs()}
	app, err := globalApp(h)
	if err != nil {
		return err
	}
	if len(app.Providers) == 0 {
		return h.WrapErr(errNoProviders)
	}
	for i, name := range b.Providers {
		if _, ok := app.Providers[name]; !ok {
			return h.Errf("byok: provider %s is not defined: add `provider %[1]s` to the global keytoll options", name)
		}
		for _, before := range b.Providers[:i] {
			if before == name {
				return h.Errf("byok: provider %s is named twice", name)
			}
		}
	}
	of := b.Providers
	if len(of) == 0 {
		of = slices.Sorted(maps.Keys(app.Providers))
	}
	for nesting := h.Nesting(); h.NextBlock(nesting); {
		if err := b.parseOption(h, of); err != nil {
			return err
		}
	}
	g.BYOK = b
	return nil
}

// parseOption reads an option; the gate has the providers of.
func (b *BYOK) parseOption(h httpcaddyfile.Helper, of []string) error {
	switch word := h.Val(); word {
	case "for":
		return b.parseFor(h, of)
	case "from":
		if b.From != "" {
			return h.Err("from is given twice")
		}
		if err := word1(h.Dispenser, &b.From); err != nil {
			return err
		}
		if err := checkPlaceholder(b.From); err != nil {
			return h.WrapErr(err)
		}
		return nil
	case "unknown":
		if b.Unknown != "" {
			return h.Err("unknown is given twice")
		}
		if err := word1(h.Dispenser, &b.Unknown); err != nil {
			return err
		}
		if b.Unknown == "" || checkUnknown(b.Unknown) != nil {
			return h.Errf("unknown %q: want pass or refuse", b.Unknown)
		}
		return nil
	}
	return unrecognized(h.Dispenser, "for", "from", "unknown")
}

func (b *BYOK) parseFor(h httpcaddyfile.Helper, of []string) error {
	m, isMatcher, err := h.MatcherToken()
	if err != nil {
		return h.WrapErr(err)
	}
	args := h.RemainingArgs()
	if !isMatcher || len(args) != 1 {
		return h.Err("for needs a matcher and a provider: for /v1/chat* openai")
	}
	if len(b.For) == maxRules {
		return h.Errf("byok has at most %d rules", maxRules)
	}
	rule := &ProviderRule{Provider: args[0]}
	if !slices.Contains(of, args[0]) {
		return h.Errf("for … %s: the gate has no such provider; it has %s", args[0], strings.Join(of, ", "))
	}
	if len(m) > 0 {
		rule.MatchRaw = caddyhttp.RawMatcherSets{caddy.ModuleMap(m)}
	}
	b.For = append(b.For, rule)
	return nil
}
