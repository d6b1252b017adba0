package gate

import (
	"net/http"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

// gather collects the limits that are about the request. It reports false if a
// matcher failed, or too many limits hold: then the request must not pass.
func (g *Gate) gather(s *State, r *http.Request, c *Call, asks *Asks) bool {
	if c.Record != nil {
		g.gatherKey(s, c, asks)
	}
	return g.gatherLimits(s, r, c, asks)
}

// gatherLimits collects the gate's own.
func (g *Gate) gatherLimits(s *State, r *http.Request, c *Call, asks *Asks) bool {
	for i := range g.Limits {
		l := &g.Limits[i]
		if l.Per != PerAddress && c.Record == nil {
			continue
		}
		if l.Match != nil {
			ok, err := l.Match(r)
			if err != nil {
				return false
			}
			if !ok {
				continue
			}
		}
		if asks.n == MaxLimits {
			return false
		}
		asks.add(limit.Ask{Class: l.Class, Subject: g.subject(l.Per, r, c), Rate: l.Rate, Name: l.Name})
	}
	return true
}

// gatherKey asks for the key's own rate or else those of its plan. The first is
// kept in the key's record, where it costs least.
func (g *Gate) gatherKey(s *State, c *Call, asks *Asks) {
	if rate := g.ownRate(s, c); !rate.IsZero() {
		asks.add(limit.Ask{Slot: &c.Record.Bucket, Rate: rate, Name: "key"})
		return
	}
	plan := g.Plan(c.Tenant)
	if plan == nil {
		return
	}
	for i, rate := range plan.Rates {
		a := limit.Ask{Rate: rate, Name: plan.Name}
		if i == 0 {
			a.Slot = &c.Record.Bucket
		} else {
			a.Class, a.Subject = classPlan+uint64(i), limit.Subject(c.Record.ID)
		}
		asks.add(a)
	}
}

// ownRate returns the rate that is the key's in place of its plan's: by an
// override that is not over, its own, or by an override of its tenant.
func (g *Gate) ownRate(s *State, c *Call) access.Rate {
	own, tenant := s.Index.Override(c.Record), (*access.Override)(nil)
	if c.Tenant != nil {
		tenant = c.Tenant.Override
	}
	if own != nil || tenant != nil {
		now := g.now().Unix()
		if own.In(now) && !own.Rate.IsZero() {
			return own.Rate
		}
		if rate := s.Index.Rate(c.Record); !rate.IsZero() || !tenant.In(now) {
			return rate
		}
		return tenant.Rate
	}
	return s.Index.Rate(c.Record)
}

func (a *Asks) add(ask limit.Ask) {
	a.list[a.n] = ask
	a.n++
}

func (g *Gate) subject(per Per, r *http.Request, c *Call) limit.Subject {
	switch per {
	case PerTenant:
		return limit.Subject(c.Tenant.Subject)
	case PerAddress:
		return limit.AddrSubject(g.Address(r, c), g.Throttle.v4(), g.Throttle.v6())
	}
	return limit.Subject(c.Record.ID)
}

// throttled reports whether the client's network has failed too often.
func (g *Gate) throttled(s *State, r *http.Request, c *Call) bool {
	last := s.lastFailure.Load()
	if g.Throttle.Rate.IsZero() || last == 0 {
		return false
	}
	span := int64(g.Throttle.Rate.Interval()) * int64(g.Throttle.Rate.Burst)
	if c.Started-last > span {
		return false // every bucket of failures is full again
	}
	if !g.Address(r, c).IsValid() {
		return false
	}
	retry, ok := s.Limiter.Peek(c.Started, g.failures(c))
	c.Retry = retry
	return !ok
}

// fail books a failed attempt.
func (g *Gate) fail(s *State, r *http.Request, c *Call) {
	if g.Throttle.Rate.IsZero() || !g.Address(r, c).IsValid() {
		return
	}
	s.lastFailure.Store(c.Started + 1)
	ask := [1]limit.Ask{g.failures(c)}
	res := s.Limiter.Take(c.Started, ask[:])
	c.Throttled = res.OK && res.Remaining == 0
}

func (g *Gate) failures(c *Call) limit.Ask {
	return limit.Ask{
		Class:   classFailures,
		Subject: limit.AddrSubject(c.address, g.Throttle.v4(), g.Throttle.v6()),
		Rate:    g.Throttle.Rate,
	}
}

func (t Throttle) v4() int {
	if t.V4Bits == 0 {
		return 32
	}
	return t.V4Bits
}

func (t Throttle) v6() int {
	if t.V6Bits == 0 {
		return 64
	}
	return t.V6Bits
}
