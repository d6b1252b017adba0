package caddymodule

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// PlanCredits is the credits that a tenant gets for each period.
type PlanCredits struct {
	// How many: a number from 0 to 1e12 with at most 6 decimals. With 0 there are
	// grants alone. Default: 0.
	Amount access.Credits `json:"amount"`
	// How often: `hour`, `day`, `week` or `month`. Required.
	Period string `json:"period"`
	// How many may be used beyond those and grants. Default: 0.
	Overage access.Credits `json:"overage,omitempty"`
	// Credits that a period leaves unused go over into the next. Default: false.
	Add bool `json:"add,omitempty"`
	// Never sold twice, also by a power cut. Default: false.
	Strict bool `json:"strict,omitempty"`
	// Count what would have been refused and refuse nothing. Default: false.
	Observe bool `json:"observe,omitempty"`
}

// PlanQuota bounds what a tenant uses in each period.
type PlanQuota struct {
	// How many units, from 1 to 1e18. Required.
	Amount int64 `json:"amount"`
	// How often it starts anew: `hour`, `day`, `week` or `month`. Required.
	Period string `json:"period"`
	// What is counted: `requests`, `bytes_in`, `bytes_out` or `seconds`. Default:
	// `requests`.
	Meter string `json:"meter,omitempty"`
	// Count what would have been refused and refuse nothing. Default: false.
	Observe bool `json:"observe,omitempty"`
}

// Concurrent bounds requests at one time.
type Concurrent struct {
	// How many, from 1 to 1,000,000. Required.
	Requests uint32 `json:"requests"`
	// Whose: `key` or `tenant`. Default: `key`.
	Per string `json:"per,omitempty"`
	// Count what would have been refused and refuse nothing. Default: false.
	Observe bool `json:"observe,omitempty"`
}

// Metering is how credits, quotas and usage are counted.
type Metering struct {
	// The IANA name of the time zone of periods. Default: UTC.
	Timezone string `json:"timezone,omitempty"`
	// The day that months start on, 1 to 31; the last one where a month is
	// shorter. Default: 1.
	Anchor int `json:"anchor,omitempty"`
	// What becomes of requests while counts cannot be written: `refuse` or `serve`.
	// Default: `refuse`.
	OnFailure string `json:"on_failure,omitempty"`
	// How long usage is kept.
	Retain *UsageRetention `json:"retain,omitempty"`
	// Where usage goes as CloudEvents. Default: nowhere.
	Export *UsageExport `json:"export,omitempty"`
}

// UsageRetention is how long usage is kept, in whole seconds and at most ten
// years. Each must be two days longer than the one before.
type UsageRetention struct {
	// Counts of each minute, from 2h on. Default: 2d.
	Minute caddy.Duration `json:"minute,omitempty"`
	// Counts of each hour. Default: 90d.
	Hour caddy.Duration `json:"hour,omitempty"`
	// Counts of each day. Default: 800d.
	Day caddy.Duration `json:"day,omitempty"`
}

// UsageExport is where usage goes: a file or a URL, not both. Placeholders are
// expanded when the configuration is loaded.
type UsageExport struct {
	// A file that events are appended to, one a line.
	File string `json:"file,omitempty"`
	// An http or https URL that events are posted to.
	URL string `json:"url,omitempty"`
	// A header of the posts, with Value. Default: none.
	Header string `json:"header,omitempty"`
	// Its value. A placeholder such as {env.TOKEN} or {file./etc/token} keeps a
	// secret out of dumps of the configuration.
	Value string `json:"value,omitempty"`
}

// Bounds of metering.
const (
	maxQuota      = 1_000_000_000_000_000_000
	maxConcurrent = 1_000_000
	retainApart   = 48 * time.Hour // each retention from the one before
	retainLeast   = 2 * time.Hour
)

// metered is what App.Metering and the plans are compiled into.
type metered struct {
	meterPlans map[string]*meterPlan // of plans with credits, quotas or concurrency
	zone       *time.Location
	anchor     int
	serve      bool // requests, while counts cannot be written
	retain     retention
	export     *exportTarget // nil: no export
}

// retention is how long usage is kept, by the length of its steps.
type retention struct{ minute, hour, day time.Duration }

// exportTarget is where usage goes, with the secrets of its header.
type exportTarget struct{ file, url, header, value string }

// meterPlan is what a plan says about metering.
type meterPlan struct {
	credits        *credit.Allowance // nil: credits are not counted
	creditsObserve bool
	quotas         []credit.Quota
	quotasObserve  []bool // of each quota
	perKey         flightLimit
	perTenant      flightLimit
}

// flightLimit bounds requests at one time. The zero value bounds nothing.
type flightLimit struct {
	most    uint32
	observe bool
}

// provisionMetering compiles App.Metering and what plans say about metering.
func (a *App) provisionMetering() error {
	a.config = configs.Add(1)
	m := a.Metering
	if m == nil {
		m = new(Metering)
	}
	var err error
	if a.metered, err = m.compile(); err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	a.meterPlans = make(map[string]*meterPlan)
	for name, p := range a.Plans {
		if p == nil || p.Credits == nil && len(p.Quotas) == 0 && len(p.Concurrent) == 0 {
			continue
		}
		if a.meterPlans[name], err = a.meterPlan(p); err != nil {
			return fmt.Errorf("plan %s: %w", name, err)
		}
	}
	return nil
}

func (a *App) meterPlan(p *Plan) (*meterPlan, error) {
	m := new(meterPlan)
	if c := p.Credits; c != nil {
		if err := c.check(); err != nil {
			return nil, err
		}
		m.credits = &credit.Allowance{Amount: c.Amount, Period: a.period(c.Period), Overage: c.Overage, Add: c.Add, Strict: c.Strict}
		m.creditsObserve = c.Observe
	}
	for i, q := range p.Quotas {
		if err := checkQuotas(p.Quotas[:i], q); err != nil {
			return nil, err
		}
		meter, _ := q.meter()
		m.quotas = append(m.quotas, credit.Quota{Meter: meter, Amount: q.Amount, Period: a.period(q.Period)})
		m.quotasObserve = append(m.quotasObserve, q.Observe)
	}
	for _, c := range p.Concurrent {
		per, err := c.compile()
		if err != nil {
			return nil, err
		}
		into := &m.perKey
		if per.tenant {
			into = &m.perTenant
		}
		if into.most != 0 {
			return nil, fmt.Errorf("concurrent is given twice per %s", per)
		}
		*into = per.flightLimit
	}
	return m, nil
}

// period returns the period of a word that was checked.
func (a *App) period(word string) period.Period {
	kind, _ := period.ParseKind(word)
	p := period.Period{Kind: kind, Zone: a.zone}
	if kind == period.Month {
		p.Anchor = a.anchor
	}
	return p
}

func (c *PlanCredits) check() error {
	if c.Amount < 0 || c.Amount > access.MaxCredits || c.Overage < 0 || c.Overage > access.MaxCredits {
		return fmt.Errorf("credits: %w", access.ErrCredits)
	}
	if _, err := period.ParseKind(c.Period); err != nil {
		return fmt.Errorf("credits: %w", err)
	}
	return nil
}

func (q PlanQuota) meter() (credit.Meter, error) {
	if q.Meter == "" {
		return credit.Requests, nil
	}
	return credit.ParseMeter(q.Meter)
}

// checkQuotas says what is wrong with a quota after others, or nil.
func checkQuotas(before []PlanQuota, q PlanQuota) error {
	if q.Amount < 1 || q.Amount > maxQuota {
		return fmt.Errorf("quota %d: want a whole number from 1 to %d", q.Amount, int64(maxQuota))
	}
	if _, err := period.ParseKind(q.Period); err != nil {
		return fmt.Errorf("quota: %w", err)
	}
	meter, err := q.meter()
	if err != nil {
		return fmt.Errorf("quota: %w", err)
	}
	for _, b := range before {
		if m, _ := b.meter(); m == meter && b.Period == q.Period {
			return fmt.Errorf("quota of %s for each %s is given twice", meter, q.Period)
		}
	}
	return nil
}

// compile checks c and names whose requests it is about.
func (c Concurrent) compile() (flightRule, error) {
	if c.Requests < 1 || c.Requests > maxConcurrent {
		return flightRule{}, fmt.Errorf("concurrent %d: want a whole number from 1 to %d", c.Requests, maxConcurrent)
	}
	if c.Per != "" && c.Per != "key" && c.Per != "tenant" {
		return flightRule{}, fmt.Errorf("concurrent per %q: want key or tenant", c.Per)
	}
	return flightRule{flightLimit{c.Requests, c.Observe}, c.Per == "tenant"}, nil
}
