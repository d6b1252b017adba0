package caddymodule

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/access"
)

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
	once := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch d.Val() {
		case "rate", "quota", "concurrent":
		default:
			if once[d.Val()] {
				return d.Errf("%s is given twice", d.Val())
			}
			once[d.Val()] = true
		}
		if err := p.planOption(d, plan); err != nil {
			return err
		}
	}
	if p.app.Plans == nil {
		p.app.Plans = make(map[string]*Plan)
	}
	p.app.Plans[name] = plan
	return nil
}

func (p *appParser) planOption(d *caddyfile.Dispenser, plan *Plan) error {
	switch d.Val() {
	case "rate":
		return planRate(d, plan)
	case "permissions":
		return p.permissions(d, &plan.Permissions)
	case "max_keys":
		var text string
		if err := word1(d, &text); err != nil {
			return err
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPlanKeys {
			return d.Errf("max_keys %s: want a whole number from 1 to %d", text, maxPlanKeys)
		}
		plan.MaxKeys = n
		return nil
	case "credits":
		return planCredits(d, plan)
	case "quota":
		return planQuota(d, plan)
	case "concurrent":
		return planConcurrent(d, plan)
	}
	return unrecognized(d, "rate", "permissions", "max_keys", "credits", "quota", "concurrent")
}

func planRate(d *caddyfile.Dispenser, plan *Plan) error {
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
		if err := p.tenantOption(d, t); err != nil {
			return err
		}
	}
	if p.app.Tenants == nil {
		p.app.Tenants = make(map[string]*Tenant)
	}
	p.app.Tenants[id] = t
	return nil
}

func (p *appParser) tenantOption(d *caddyfile.Dispenser, t *Tenant) error {
	switch d.Val() {
	case "name":
		if err := word1(d, &t.Name); err != nil {
			return err
		}
		if err := access.CheckName(t.Name); err != nil {
			return d.WrapErr(err)
		}
		return nil
	case "plan":
		if err := word1(d, &t.Plan); err != nil {
			return err
		}
		p.plans = append(p.plans, used(d, t.Plan))
		return nil
	case "permissions":
		return p.permissions(d, &t.Permissions)
	}
	return unrecognized(d, "name", "plan", "permissions")
}
