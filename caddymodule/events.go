package caddymodule

import (
	"net/netip"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

// classEvents are the buckets that thin out events: a client that keeps
// running into its limit is reported once a minute.
const classEvents uint64 = 2

var eventRate = access.Rate{Requests: 1, Burst: 1, Window: time.Minute}

// throttleEvent reports a key at its rate limit, or a network at its limit of
// failed attempts. It costs next to nothing if nobody listens.
func (a *App) throttleEvent(c *gate.Call, client netip.Addr) {
	name, data := "auth_failures_throttled", map[string]any(nil)
	subject := limit.AddrSubject(client, 32, 64)
	if c.Reason == access.RateLimited {
		if c.Record == nil {
			return // an anonymous request: no key to report
		}
		name, subject = "api_key_throttled", limit.Subject(c.Record.ID)
	}
	if !a.events.ShouldEmit(name) {
		return
	}
	e := a.engine.Load()
	ask := [1]limit.Ask{{Class: classEvents, Subject: subject, Rate: eventRate}}
	if e == nil || !e.Limiter.Take(c.Started, ask[:]).OK {
		return
	}
	if c.Reason == access.RateLimited {
		data = map[string]any{"key": c.Record.ID.String(), "limit": c.Result.Limit, "retry_after": wholeSeconds(c.Result.Retry)}
		if c.Tenant != nil {
			data["tenant"] = c.Tenant.ID
		}
	} else {
		data = map[string]any{"client_ip": client.String()}
	}
	a.emit(name, data)
}
