package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// brought is what a request has of provider keys. A nil brought has none.
type brought struct {
	b      *byok
	named  int // place of the provider that the request is for, notOurs or notKnown
	keys   []providerKey
	few    [2]providerKey
	known  bool // who the caller is
	used   int  // as named, once it is answered
	bypass bool // likewise: a key of the caller's was used, and no credits are taken
}

// providerKey is one key that goes along.
type providerKey struct {
	place  int
	text   string
	stored bool // and not of the request
}

// bring finds the provider keys of a request that was let in: those it carries,
// and those its tenant has stored. It returns nil if there are none.
func (h *Handler) bring(e *engine.Engine, r *http.Request, c *gate.Call) (*brought, access.Reason) {
	if h.byok.bare && !h.KeepCredential {
		delete(r.Header, "Authorization") // the gate has read it, and may set another
	}
	x := &brought{b: h.byok, known: c.Record != nil}
	x.keys = x.few[:0]
	if reason := x.fromRequest(r.Header); reason != access.Allowed {
		return nil, reason
	}
	var stored []*index.ProviderKey
	if c.Record != nil && c.Tenant != nil {
		stored = c.Tenant.ProviderKeys()
	}
	if len(x.keys) == 0 && len(stored) == 0 && !h.byok.explicit {
		return nil, access.Allowed
	}
	var reason access.Reason
	if x.named, reason = h.byok.named(r); reason != access.Allowed {
		return nil, reason
	}
	for _, ref := range stored {
		place, ours := h.byok.place(ref.Provider)
		if !ours || x.named != notKnown && x.named != place || x.has(place) {
			continue
		}
		text, ref, err := h.app.present(r.Context(), e, c.Tenant.ID, ref, c.Started)
		switch {
		case errors.Is(err, errKeyReplaced):
			continue // it was deleted a moment ago
		case err != nil:
			return nil, access.Unavailable
		}
		if at := e.Unix(c.Started); ref.Touch(engine.MinuteOf(at)) {
			h.app.providerUses.add(registrar.ProviderUse{Tenant: c.Tenant.ID, Provider: ref.Provider, ID: ref.ID, At: at})
		}
		x.keys = append(x.keys, providerKey{place, text, true})
	}
	if h.byok.clashing && len(x.keys) > 0 {
		x.part()
	}
	return x, access.Allowed
}

// part leaves out keys that have no header of their own: of providers that the
// API gets the key of in the same one, the named one has it, else the first.
func (x *brought) part() {
	slices.SortFunc(x.keys, func(a, b providerKey) int { return a.place - b.place })
	var taken uint64
	if x.named >= 0 {
		taken = x.b.clash[x.named]
	}
	kept := x.keys[:0]
	for _, k := range x.keys {
		if k.place != x.named {
			if taken&(1<<k.place) != 0 {
				continue
			}
			taken |= x.b.clash[k.place]
		}
		kept = append(kept, k)
	}
	x.keys = kept
}

// present opens a stored provider key or, if that was replaced a moment ago, the
// one that took its place: who has a key of his own is not charged meanwhile.
func (a *App) present(ctx context.Context, e *engine.Engine, tenant string, ref *index.ProviderKey, started int64) (string, *index.ProviderKey, error) {
	for {
		text, err := a.unsealed(ctx, e, tenant, ref, started)
		if !errors.Is(err, errKeyReplaced) {
			return text, ref, err
		}
		reg, err := a.activeRegistrar()
		if err != nil {
			return "", nil, err
		}
		k, err := reg.ProviderKey(ctx, tenant, ref.Provider)
		switch {
		case err != nil && forgotten(err):
			return "", nil, errKeyReplaced // it was deleted
		case err != nil:
			return "", nil, err
		}
		ref = &index.ProviderKey{Provider: k.Provider, ID: k.ID}
	}
}

// fromRequest takes the keys that the request carries.
func (x *brought) fromRequest(header http.Header) access.Reason {
	for name, values := range header {
		if x.b.lengths&(1<<(len(name)&63)) != 0 {
			if place, ours := x.b.headers[name]; ours {
				if len(values) != 1 || provider.CheckKey(values[0]) != nil {
					return access.BadProviderKey
				}
				x.keys = append(x.keys, providerKey{place, values[0], false})
				continue
			}
		}
		if x.b.refuse && len(name) >= len(unknownPrefix) && equalFolded(name[:len(unknownPrefix)], unknownPrefix) {
			return access.BadProviderKey
		}
	}
	return access.Allowed
}

func (x *brought) has(place int) bool {
	for i := range x.keys {
		if x.keys[i].place == place {
			return true
		}
	}
	return false
}

// presumed reports whether the request is likely to go without credits. It is
// sure if the provider is named.
func (x *brought) presumed() (likely, sure bool) {
	switch {
	case x == nil || !x.known:
		return false, true
	case x.named != notKnown:
		return x.has(x.named), true
	}
	return len(x.keys) > 0, false
}

// give puts the keys into a request that was cleaned.
func (x *brought) give(header http.Header) {
	for i := range x.keys {
		k := &x.keys[i]
		inject := x.b.providers[k.place].Inject()
		for j := range inject {
			header[inject[j].Name] = []string{inject[j].Value(k.text)}
		}
	}
}

// answered finds out from the final headers of the answer which provider
// handled the request, and with it whether the caller's own key was used, and
// tells the client. The API knows best. Without its word it is the provider that
// was named; else a key that the request carries counts as used, and one that is
// stored does not. None does if the request was ended because its credits were
// spent: nobody has answered, and what was reported is owed.
func (x *brought) answered(header http.Header, usageHeaders string, spent bool) {
	delete(header, headerBypassed)
	if x == nil {
		return
	}
	x.used = x.named
	told := strings.TrimSpace(header.Get(headerUsed))
	switch {
	case len(header[headerUsed]) > 1:
		x.used = notOurs
	case told != "":
		x.used = x.b.called(told)
	}
	x.bypass = x.known && !spent && x.keyUsed()
	if told == "" && x.used >= 0 && (x.bypass || x.b.explicit) {
		header[headerUsed] = []string{x.b.providers[x.used].Name()}
	}
	if x.bypass && usageHeaders != "off" {
		header[headerBypassed] = yes
	}
}

// keyUsed reports whether a key of the caller's was used.
func (x *brought) keyUsed() (own bool) {
	if x.used != notKnown {
		return x.used >= 0 && x.has(x.used)
	}
	for i := range x.keys {
		own = own || !x.keys[i].stored
	}
	if own && len(x.keys) == 1 {
		x.used = x.keys[0].place
	}
	return own
}

var yes = []string{"true"}

// provider returns the name of the provider whose key of the caller's was used.
func (x *brought) provider() string {
	if x == nil || !x.bypass || x.used < 0 {
		return ""
	}
	return x.b.providers[x.used].Name()
}

// reserve returns what of the price is taken before the request goes on: nothing
// if the caller's own provider key is used, likely or for sure. A guess that
// proves wrong is charged in full when the request ends; who has overdrawn his
// credits like that, or those of the key, is trusted no longer. Nor is the
// name of the provider then: the API may use a key of its own all the same.
func (b *bill) reserve(key credit.Payer) access.Credits {
	likely, sure := b.x.brought.presumed()
	if !likely {
		return b.price
	}
	if (b.price > 0 || b.x.h.meter.report != "") && (!sure || b.terms.misled.Load()) && (b.overdrawn(b.terms.payer) || b.overdrawn(key)) {
		return b.price
	}
	b.trusted = true
	return 0
}

// overdrawn reports whether who pays used more than there was.
func (b *bill) overdrawn(who credit.Payer) bool {
	balance, err := b.metering().Ledger.Balance(who)
	return err != nil || balance.Limited && balance.Overage > 0
}

// bypassed reports whether the request went without credits because a provider
// key of the caller's was used.
func (b *bill) bypassed() bool { return b.x.brought != nil && b.x.brought.bypass }
