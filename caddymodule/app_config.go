package caddymodule

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Prefix is what keys of one kind start with.
type Prefix struct {
	// At most 32 letters, digits and '_', ending with '_'.
	Prefix string `json:"prefix"`
	// What the upstream may be told of keys with this prefix. Default: none.
	Environment string `json:"environment,omitempty"`
}

// Plan is a set of limits that tenants share by name.
type Plan struct {
	// Token buckets of each key; all of them hold. Default: none.
	Rates []Rate `json:"rates,omitempty"`
	// What keys may hold at most, by name or wildcard; an empty list is nothing.
	// Default: no bound.
	Permissions []string `json:"permissions,omitempty"`
	// How many keys that are not revoked a tenant may have. Default: no bound.
	MaxKeys int `json:"max_keys,omitempty"`
	// What its keys may spend. Default: credits are not counted.
	Credits *PlanCredits `json:"credits,omitempty"`
	// What a tenant may use, one for each meter and period; all of them hold.
	// Default: none.
	Quotas []PlanQuota `json:"quotas,omitempty"`
	// Requests at one time, of each key and of the tenant. Default: no bound.
	Concurrent []Concurrent `json:"concurrent,omitempty"`
}

// Tenant is a tenant that is created at start.
type Tenant struct {
	// For people. Default: none.
	Name string `json:"name,omitempty"`
	// The name of a plan. Default: the default plan.
	Plan string `json:"plan,omitempty"`
	// What its keys may hold at most, by name or wildcard; an empty list is
	// nothing. Default: no bound.
	Permissions []string `json:"permissions,omitempty"`
}

// Rate is a token bucket.
type Rate struct {
	// How many requests are gained over each window.
	Requests uint32 `json:"requests"`
	// The window, from 1ms to 366d.
	Window caddy.Duration `json:"window"`
	// How many requests the bucket holds. Default: as many as Requests.
	Burst uint32 `json:"burst,omitempty"`
}

func (r Rate) access() (access.Rate, error) {
	a := access.Rate{Requests: r.Requests, Burst: r.Burst, Window: time.Duration(r.Window)}
	if a.Burst == 0 {
		a.Burst = a.Requests
	}
	return a, a.Validate()
}

// Throttle bounds failed attempts.
type Throttle struct {
	// Turns the throttle off. Default: false.
	Off bool `json:"off,omitempty"`
	Rate
	// The part of an IPv4 address that counts as one client, in bits. Default: 32.
	IPv4Bits int `json:"ipv4_bits,omitempty"`
	// The part of an IPv6 address that counts as one client, in bits. Default: 64.
	IPv6Bits int `json:"ipv6_bits,omitempty"`
}

// GC tunes the garbage collector.
type GC struct {
	// The heap may grow by this percentage before it is collected (GOGC), from
	// 50 to 1000.
	Percent int `json:"percent"`
	// Above this many bytes the collector works harder whatever the percentage
	// (GOMEMLIMIT). Required, so that a burst cannot take all memory.
	MemoryLimit int64 `json:"memory_limit"`
}

func (a *App) provisionKeys() error {
	if len(a.Prefixes) == 0 {
		a.Prefixes = []Prefix{{Prefix: defaultPrefix}}
	}
	texts := make([]string, len(a.Prefixes))
	for i, p := range a.Prefixes {
		texts[i] = p.Prefix
		if err := p.checkEnvironment(); err != nil {
			return err
		}
	}
	var err error
	a.keys, err = token.NewSet(texts...)
	return err
}

func (p Prefix) checkEnvironment() error {
	if access.CheckName(p.Environment) != nil || len(p.Environment) > 32 {
		return fmt.Errorf("environment %q of prefix %s: want at most 32 bytes without control characters", p.Environment, p.Prefix)
	}
	return nil
}

func (a *App) provisionPlans() error {
	a.plans = make(map[string]*access.Plan, len(a.Plans))
	for name, p := range a.Plans {
		if err := access.CheckTenantID(name); err != nil {
			return fmt.Errorf("plan name %q: want letters, digits, '_', '-' or '.'", name)
		}
		if p == nil {
			p = new(Plan)
		}
		plan, err := a.plan(name, p)
		if err != nil {
			return err
		}
		a.plans[name] = plan
	}
	if a.DefaultPlan != "" && a.plans[a.DefaultPlan] == nil {
		return fmt.Errorf("default_plan %s is not defined: add `plan %[1]s { … }` or name one of the plans", a.DefaultPlan)
	}
	return a.provisionTenants()
}

// plan compiles one plan.
func (a *App) plan(name string, p *Plan) (*access.Plan, error) {
	if len(p.Rates) > maxPlanRates {
		return nil, fmt.Errorf("plan %s has %d rates, at most %d are allowed", name, len(p.Rates), maxPlanRates)
	}
	if p.MaxKeys < 0 || p.MaxKeys > maxPlanKeys {
		return nil, fmt.Errorf("plan %s: max_keys %d: want 1 to %d", name, p.MaxKeys, maxPlanKeys)
	}
	if err := checkGranted(a.permissions, p.Permissions); err != nil {
		return nil, fmt.Errorf("plan %s: %w", name, err)
	}
	plan := &access.Plan{Name: name, Permissions: p.Permissions, MaxKeys: p.MaxKeys}
	for _, r := range p.Rates {
		rate, err := r.access()
		if err != nil {
			return nil, fmt.Errorf("plan %s: %w", name, err)
		}
		plan.Rates = append(plan.Rates, rate)
	}
	return plan, nil
}

func (a *App) provisionTenants() error {
	for id, t := range a.Tenants {
		if err := access.CheckTenantID(id); err != nil {
			return err
		}
		if t == nil {
			continue
		}
		if err := access.CheckName(t.Name); err != nil {
			return fmt.Errorf("tenant %s: %w", id, err)
		}
		if err := checkGranted(a.permissions, t.Permissions); err != nil {
			return fmt.Errorf("tenant %s: %w", id, err)
		}
		if t.Plan != "" && a.plans[t.Plan] == nil {
			return fmt.Errorf("tenant %s: plan %s is not defined: add `plan %[2]s { … }` or name one of the plans", id, t.Plan)
		}
	}
	return nil
}

func (a *App) provisionThrottle() error {
	t := a.Throttle
	if t == nil {
		a.throttle.Rate = access.Rate{Requests: 30, Burst: 30, Window: time.Minute}
		return nil
	}
	if t.Off {
		return nil
	}
	rate, err := t.Rate.access()
	if err != nil {
		return fmt.Errorf("throttle_failures: %w", err)
	}
	if t.IPv4Bits < 0 || t.IPv4Bits > 32 || t.IPv6Bits < 0 || t.IPv6Bits > 128 {
		return fmt.Errorf("throttle_failures: want 1 to 32 bits of IPv4 and 1 to 128 bits of IPv6 addresses, not %d and %d", t.IPv4Bits, t.IPv6Bits)
	}
	a.throttle = gate.Throttle{Rate: rate, V4Bits: t.IPv4Bits, V6Bits: t.IPv6Bits}
	return nil
}

func (a *App) registrarPrefixes() []registrar.Prefix {
	ps := make([]registrar.Prefix, len(a.Prefixes))
	for i, p := range a.Prefixes {
		ps[i] = registrar.Prefix{Text: p.Prefix, Environment: p.Environment}
	}
	return ps
}

func (a *App) planNames() []string {
	names := make([]string, 0, len(a.plans))
	for n := range a.plans {
		names = append(names, n)
	}
	return names
}
