package caddymodule

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/internal/gate"
)

// Limit is a rate limit of a gate.
type Limit struct {
	// Which requests it is about. Default: all.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
	Rate
	// What each bucket is for: `key`, `tenant` or `address`. Default: `key`.
	Per string `json:"per,omitempty"`
	// Names the limit in RateLimit fields. Limits of one name and rate share
	// their buckets and keep them when a reload brings another rate. Those without
	// a name share them if match, rate and per are the same. Default: the value of
	// per, in the fields alone.
	Name string `json:"name,omitempty"`
	// Count what would have been refused and refuse nothing. Default: false.
	Observe bool `json:"observe,omitempty"`
}

func (h *Handler) provisionLimits(ctx caddy.Context) error {
	if len(h.Limits) > maxGateLimits {
		return fmt.Errorf("a gate has at most %d limits, not %d", maxGateLimits, len(h.Limits))
	}
	for i, l := range h.Limits {
		if l == nil {
			return fmt.Errorf("limit %d is null", i+1)
		}
		if err := h.provisionLimit(ctx, l); err != nil {
			return fmt.Errorf("limit %d: %w", i+1, err)
		}
	}
	return nil
}

func (h *Handler) provisionLimit(ctx caddy.Context, l *Limit) error {
	if l.Per == "" {
		l.Per = "key"
	}
	per, ok := gate.ParsePer(l.Per)
	if !ok {
		return fmt.Errorf("per %q: want key, tenant or address", l.Per)
	}
	rate, err := l.access()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(l.MatchRaw)
	if err != nil {
		return err
	}
	match, err := loadMatch(ctx, l, "MatchRaw", l.MatchRaw)
	if err != nil {
		return err
	}
	name := l.Name
	if name == "" {
		name = l.Per
		raw = append(raw, rate.String()...)
	} else if raw, err = h.app.nameLimit(l.Name, per, rate); err != nil {
		return err
	}
	if err := checkPolicyName(name); err != nil {
		return err
	}
	into := &h.gate.Limits
	if l.Observe {
		into, raw = &h.shadow.limits, append(raw, " observed"...)
	}
	*into = append(*into, gate.Limit{
		Match: match, Per: per, Rate: rate, Name: name, Class: limitClass(l.Per, raw),
	})
	return nil
}
