package caddymodule

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
)

// presetFiles are the presets: each the inside of a dialect block.
//
//go:embed presets/*.caddyfile
var presetFiles embed.FS

// presetNames returns the names of the presets, sorted.
func presetNames() []string {
	entries, _ := presetFiles.ReadDir("presets") // embedded: cannot fail
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".caddyfile"))
	}
	return names
}

// presetDialect returns a preset, which is the caller's to change.
func presetDialect(name string) (*dialect.Dialect, error) {
	if !slices.Contains(presetNames(), name) {
		return nil, fmt.Errorf("there is no dialect %s: want a preset (%s) or one that is defined by `dialect %[1]s { … }`",
			name, strings.Join(presetNames(), ", "))
	}
	file := path.Join("presets", name+".caddyfile")
	text, err := presetFiles.ReadFile(file)
	if err != nil {
		return nil, err
	}
	tokens, err := caddyfile.Tokenize(slices.Concat([]byte("dialect {\n"), text, []byte("\n}\n")), file)
	if err != nil {
		return nil, err
	}
	d := caddyfile.NewDispenser(tokens)
	d.Next()
	p := dialectParser{dl: new(dialect.Dialect)}
	if _, err := p.block(d); err != nil {
		return nil, err
	}
	return p.dl, nil
}

// namedDialect returns the dialect of a name: one of the known ones, or a
// preset.
func namedDialect(name string, known map[string]*dialect.Dialect) (*dialect.Dialect, error) {
	if dl := known[name]; dl != nil {
		return dl, nil
	}
	return presetDialect(name)
}

// parseDialect reads the option dialect. Without a block and a preset it only
// names the default of all gates, and the dialect is nil.
//
//	dialect <name>
//	dialect <name> [<preset>] {
//		errors standard|success|problem|flat
//		codes lower|upper
//		fields snake|camel
//		time rfc3339|unix|unix_ms
//		foreign 403|404
//		unknown refuse|ignore
//		realm <text>
//		reset epoch|seconds|iso|off
//		rate_headers x|draft|both|off
//		name <field> <name>
//		error <reason...> { … }
//		create|list|get|update|rotate|revoke|me { … }
//	}
func parseDialect(d *caddyfile.Dispenser, known map[string]*dialect.Dialect) (string, *dialect.Dialect, error) {
	args := d.RemainingArgs()
	if len(args) != 1 && len(args) != 2 {
		return "", nil, d.Err("dialect needs a name and may name a preset to start from: dialect mine audiopod { … }")
	}
	name := args[0]
	if access.CheckTenantID(name) != nil {
		return "", nil, d.Errf("dialect name %q: want letters, digits, '_', '-' or '.'", name)
	}
	file, line := d.File(), d.Line()
	p := dialectParser{dl: new(dialect.Dialect)}
	if len(args) == 2 {
		base, err := namedDialect(args[1], known)
		if err != nil {
			return "", nil, d.WrapErr(err)
		}
		p.dl = base.Clone()
	}
	block, err := p.block(d)
	at := func(format string, args ...any) error {
		return fmt.Errorf("%s, at %s:%d", fmt.Sprintf(format, args...), file, line)
	}
	switch {
	case err != nil:
		return "", nil, err
	case !block && len(args) == 1:
		return name, nil, nil
	case known[name] != nil:
		return "", nil, at("dialect %s is defined twice", name)
	case len(args) == 1 && slices.Contains(presetNames(), name):
		return "", nil, at("%s is a preset: write `dialect %[1]s %[1]s { … }` to change it, or choose another name", name)
	}
	return name, p.dl, nil
}

// dialectParser reads the inside of a dialect block. What is wrong only as a
// whole is told with the line after which it was.
type dialectParser struct {
	dl   *dialect.Dialect
	once map[string]bool
	bad  bool
	file string
	line int
}

// block reads the block, if there is one.
func (p *dialectParser) block(d *caddyfile.Dispenser) (found bool, err error) {
	p.once = make(map[string]bool)
	nesting := d.Nesting()
	for d.NextBlock(nesting) {
		found = true
		if err := p.option(d); err != nil {
			return true, err
		}
		p.mark(d)
	}
	if err := p.dl.Check(); err != nil {
		return found, fmt.Errorf("dialect: %w, at %s:%d", err, p.file, p.line)
	}
	return found || d.Val() == "}", nil
}

// mark remembers the line that made the dialect wrong.
func (p *dialectParser) mark(d *caddyfile.Dispenser) {
	bad := p.dl.Check() != nil
	if bad && !p.bad {
		p.file, p.line = d.File(), d.Line()
	}
	p.bad = bad
}

// single refuses an option that was given before.
func single(d *caddyfile.Dispenser, once map[string]bool, word string) error {
	if once[word] {
		return d.Errf("%s is given twice", word)
	}
	once[word] = true
	return nil
}

func (p *dialectParser) option(d *caddyfile.Dispenser) error {
	word := d.Val()
	switch word {
	case "name":
		return p.name(d)
	case "error":
		return p.reasons(d)
	}
	if err := single(d, p.once, word); err != nil {
		return err
	}
	words := map[string]*string{
		"errors": &p.dl.Errors, "codes": &p.dl.Codes, "fields": &p.dl.Fields, "time": &p.dl.Time, "unknown": &p.dl.Unknown,
		"realm": &p.dl.Realm, "reset": &p.dl.Reset, "rate_headers": &p.dl.RateHeaders,
	}
	if into := words[word]; into != nil {
		return word1(d, into)
	}
	if word == "foreign" {
		return number(d, &p.dl.Foreign)
	}
	if slices.Contains(dialect.Actions(), word) {
		return p.shape(d, word)
	}
	return unrecognized(d, slices.Concat([]string{"errors", "codes", "fields", "time", "foreign", "unknown", "realm", "reset",
		"rate_headers", "name", "error"}, dialect.Actions())...)
}

// number reads exactly one whole number.
func number(d *caddyfile.Dispenser, into *int) error {
	word := d.Val()
	var text string
	if err := word1(d, &text); err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return d.Errf("%s: %q is not a whole number", word, text)
	}
	*into = n
	return nil
}

func (p *dialectParser) name(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.Err("name needs a field and the product's name of it: name rate_per_minute rate_limit")
	}
	if err := single(d, p.once, "name "+args[0]); err != nil {
		return err
	}
	if p.dl.Names == nil {
		p.dl.Names = make(map[string]string)
	}
	p.dl.Names[args[0]] = args[1]
	return nil
}
