package gate

import (
	"net/http"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Observe returns what a gate would say of a request that another let in: of
// its permits and guards, and then of its limits, from whose buckets it takes
// as if it held them. c is not changed. The gate's plans are no part of it.
func (g *Gate) Observe(s *State, r *http.Request, c *Call) access.Reason {
	own := *c
	if reason := g.authorize(s, r, &own, access.Allowed); reason != access.Allowed {
		return reason
	}
	var asks Asks
	if !g.gatherLimits(s, r, &own, &asks) {
		return access.Unavailable
	}
	if asks.n > 0 && !s.Limiter.Take(c.Started, asks.List()).OK {
		return access.RateLimited
	}
	return access.Allowed
}
