package gate

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
)

// Permit is a rule about the permission that requests need. The first rule of a
// gate that is about a request decides; while there are rules, a request that
// none is about is refused.
//
// A public request and a preflight, which carry no key, meet no rule. Where a
// key is optional, a request without one is let in by a rule that needs
// nothing alone, and is told otherwise that it needs a key.
type Permit struct {
	Match Match
	// Needs is permissions one of which the key must hold, and its plan and tenant
	// too; none: any key will do.
	Needs []string
	// Lookup, unless it is nil, tells the needs of one request, in place of Needs;
	// !ok: the rule is about the request and forbids it.
	Lookup func(*http.Request) (needs []string, ok bool)
}

// Guard is a value of the request that must be the id of the key's tenant. It
// treats requests without a key as Permit does: public ones and preflights do
// not meet it, others need a key.
type Guard struct {
	Match Match
	Value func(*http.Request) string // empty is no tenant's
}

// authorize checks what a request that is let in for now, as one of
// Allowed or Anonymous, may do.
func (g *Gate) authorize(s *State, r *http.Request, c *Call, so access.Reason) access.Reason {
	var rights *access.Rights
	if c.Record != nil {
		rights = s.Index.Rights(c.Record)
		if rights != nil && len(rights.Addresses) > 0 && !within(rights.Addresses, g.Address(r, c)) {
			return access.AddressNotAllowed
		}
	}
	if len(g.Permits) > 0 {
		if reason := g.permit(r, c, rights); reason != access.Allowed {
			return reason
		}
	}
	if len(g.Guards) > 0 {
		if reason := g.guard(r, c); reason != access.Allowed {
			return reason
		}
	}
	return so
}

// within reports whether a network holds the address. An address that is not
// known is in none.
func within(networks []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// permit finds the rule about the request and asks it.
func (g *Gate) permit(r *http.Request, c *Call, rights *access.Rights) access.Reason {
	for i := range g.Permits {
		p := &g.Permits[i]
		if p.Match != nil {
			ok, err := p.Match(r)
			if err != nil {
				return access.Unavailable
			}
			if !ok {
				continue
			}
		}
		needs, ok := p.Needs, true
		if p.Lookup != nil {
			needs, ok = p.Lookup(r)
		}
		if !ok {
			return refused(c, access.Forbidden)
		}
		return g.holds(c, rights, needs)
	}
	return refused(c, access.Forbidden)
}

// refused is reason for a key, and Missing for a request without one.
func refused(c *Call, reason access.Reason) access.Reason {
	if c.Record == nil {
		return access.Missing
	}
	return reason
}

// Holds reports whether a key holds one of the needs, and its plan and tenant
// hold that one too, as they are now. Without needs it does.
func (g *Gate) Holds(s *State, rec *index.Record, needs []string) bool {
	c := Call{Record: rec, Tenant: s.Index.Tenant(rec)}
	return g.holds(&c, s.Index.Rights(rec), needs) == access.Allowed
}

// holds checks that the key holds one of the needs, and that its plan and its
// tenant hold that one too.
func (g *Gate) holds(c *Call, rights *access.Rights, needs []string) access.Reason {
	if len(needs) == 0 {
		return access.Allowed
	}
	c.Needed = needs
	reason := access.Forbidden
	if rights != nil {
		for _, name := range needs {
			n := g.need(name)
			if !n.heldBy(rights.Permissions) {
				continue
			}
			if g.covered(&n, c.Tenant) {
				return access.Allowed
			}
			reason = access.PlanRestricted
		}
	}
	return refused(c, reason)
}

// covered reports whether the tenant and its plan have what is needed.
func (g *Gate) covered(n *need, t *index.Tenant) bool {
	if p := g.Plan(t); p != nil && p.Permissions != nil && !n.heldBy(p.Permissions) {
		return false
	}
	return t != nil && (t.Permissions == nil || n.heldBy(t.Permissions))
}

// guard checks that the request names no other tenant.
func (g *Gate) guard(r *http.Request, c *Call) access.Reason {
	for i := range g.Guards {
		u := &g.Guards[i]
		if u.Match != nil {
			ok, err := u.Match(r)
			if err != nil {
				return access.Unavailable
			}
			if !ok {
				continue
			}
		}
		if c.Record == nil {
			return access.Missing
		}
		if v := u.Value(r); v == "" || c.Tenant == nil || v != c.Tenant.ID {
			return access.WrongTenant
		}
	}
	return access.Allowed
}

// need is one permission and the names of all others that hold it, so that
// holders need not be asked what theirs imply.
type need struct {
	name    string
	holders []string // without wildcards
}

// need returns a permission as it was made ready. One that is not configured
// and that only a Lookup knows holds itself alone.
func (g *Gate) need(name string) need {
	g.once.Do(g.makeNeeds)
	if n, ok := g.needs[name]; ok {
		return n
	}
	return need{name: name}
}

func (g *Gate) makeNeeds() {
	g.needs = make(map[string]need)
	list := g.Permissions.List()
	for _, p := range list {
		g.addNeed(list, p.Name)
	}
	for i := range g.Permits {
		for _, name := range g.Permits[i].Needs {
			g.addNeed(list, name)
		}
	}
}

func (g *Gate) addNeed(list []access.Permission, name string) {
	n := need{name: name}
	for _, p := range list {
		if p.Name != name && g.Permissions.Holds([]string{p.Name}, name) {
			n.holders = append(n.holders, p.Name)
		}
	}
	g.needs[name] = n
}

// heldBy reports the same as access.Permissions.Holds.
func (n *need) heldBy(granted []string) bool {
	for _, have := range granted {
		stem, wild := strings.CutSuffix(have, "*")
		if have == n.name || wild && strings.HasPrefix(n.name, stem) {
			return true
		}
		for _, h := range n.holders {
			if have == h || wild && strings.HasPrefix(h, stem) {
				return true
			}
		}
	}
	return false
}
