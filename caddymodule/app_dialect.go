package caddymodule

import (
	"fmt"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// provisionDialects compiles the configured dialects and finds the default one.
func (a *App) provisionDialects() error {
	a.compiled = make(map[string]*dialect.Compiled)
	for name, d := range a.Dialects {
		if d == nil {
			return fmt.Errorf("dialect %s is null", name)
		}
		c, err := d.Compile()
		if err != nil {
			return fmt.Errorf("dialect %s: %w", name, err)
		}
		a.compiled[name] = c
	}
	own, err := new(dialect.Dialect).Compile()
	if err != nil {
		return err
	}
	a.compiled[""] = own
	if a.Dialect != "" {
		if a.compiled[""], err = a.dialect(a.Dialect); err != nil {
			return err
		}
	}
	return nil
}

// dialect returns the compiled dialect of a name: a configured one or a
// preset; the default one for "". It is for Provision alone.
func (a *App) dialect(name string) (*dialect.Compiled, error) {
	if c := a.compiled[name]; c != nil {
		return c, nil
	}
	d, err := presetDialect(name)
	if err != nil {
		return nil, err
	}
	c, err := d.Compile()
	if err != nil {
		return nil, fmt.Errorf("dialect %s: %w", name, err)
	}
	a.compiled[name] = c
	return c, nil
}

// policy returns the rules for keys that the configuration sets.
func (a *App) policy() registrar.Policy {
	p := registrar.Policy{RotateSettle: defaultSettle, Notice: a.KeyPolicy.notice()}
	if k := a.KeyPolicy; k != nil {
		p.MaxExpiry, p.DefaultExpiry = time.Duration(k.MaxExpiry), time.Duration(k.DefaultExpiry)
		p.IdleExpiry, p.RotateGrace = time.Duration(k.IdleExpiry), time.Duration(k.RotateGrace)
		if p.DefaultExpiry == 0 {
			p.DefaultExpiry = p.MaxExpiry
		}
		if k.RotateSettle != nil {
			p.RotateSettle = time.Duration(*k.RotateSettle)
		}
	}
	if a.Audit != nil {
		p.AuditRetain = time.Duration(a.Audit.Retain)
	}
	return p
}
