package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
)

// BYOK lets callers bring their own keys for providers, with the request or
// stored for their tenant. A request that goes on with one is not charged
// credits; all rate limits and quotas hold.
type BYOK struct {
	// The providers whose keys may be brought. Default: all of the app's.
	Providers []string `json:"providers,omitempty"`

	// Which provider a request is for. The first rule that matches decides.
	// Default: what From says.
	For []*ProviderRule `json:"for,omitempty"`

	// A placeholder whose value is the name of the provider that a request is for,
	// such as {http.request.header.X-Provider}. Letters count in any case. A name
	// that is none of Providers says that no key of the caller's is used. Default:
	// the gate's provider, if it has one alone; else it is not known beforehand.
	From string `json:"from,omitempty"`

	// What becomes of a request with a header X-Provider-Key-… of another
	// provider: `pass`, or `refuse` with 400. Default: `pass`, untouched.
	Unknown string `json:"unknown,omitempty"`
}

// ProviderRule names the provider that requests are for.
type ProviderRule struct {
	// Which requests it is about. Default: all.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
	// One of the providers of the gate. Required.
	Provider string `json:"provider"`
}

// The headers that tell clients which provider handled a request, and that a
// key of theirs was used.
const (
	headerUsed     = "X-Provider-Used"
	headerBypassed = "X-Usage-Bypassed"
)

// unknownPrefix is what headers with keys of providers start with, folded.
const unknownPrefix = "x-provider-key-"

// noProviders is what is wrong with what needs providers where there are none.
const noProviders = "no provider is configured: add `provider <name>` or `providers personalabs` to the global keytoll options"

var errNoProviders = errors.New("byok: " + noProviders)

// byok is a compiled BYOK.
type byok struct {
	providers []*provider.Provider // sorted by name
	headers   map[string]int       // their headers, canonical, to their places
	lengths   uint64               // a bit for the length of each header, modulo 64
	rules     []providerRule
	from      string   // name of the placeholder; "" for none
	refuse    bool     // headers of unknown providers
	explicit  bool     // rules or from say which provider a request is for
	clash     []uint64 // for each provider a bit for each other whose key has the same header
	clashing  bool     // any of clash
	bare      bool     // requests go up without an Authorization of the client's
}

type providerRule struct {
	match gate.Match
	place int // in providers
}

// provisionBYOK compiles what the gate says of provider keys.
func (h *Handler) provisionBYOK(ctx caddy.Context) error {
	if h.BYOK == nil {
		return nil
	}
	if h.brief {
		return errors.New("keytoll_api has no byok: its requests go to no API")
	}
	b := &byok{headers: make(map[string]int)}
	if err := b.choose(h.BYOK.Providers, h.app.providers); err != nil {
		return err
	}
	if err := checkUnknown(h.BYOK.Unknown); err != nil {
		return err
	}
	if err := b.apart(h.gate.Sources); err != nil {
		return err
	}
	b.refuse = h.BYOK.Unknown == "refuse"
	if len(h.BYOK.For) > maxRules {
		return fmt.Errorf("byok has at most %d rules", maxRules)
	}
	for i, rule := range h.BYOK.For {
		if rule == nil {
			return fmt.Errorf("byok: rule %d is null", i+1)
		}
		place, ok := b.place(rule.Provider)
		if !ok {
			return fmt.Errorf("byok: for … %s: the gate has no such provider; it has %s", rule.Provider, b.names())
		}
		// Another spelling of a path must not have another price.
		h.gate.NormalForm = h.gate.NormalForm || len(rule.MatchRaw) > 0
		match, err := loadMatch(ctx, rule, "MatchRaw", rule.MatchRaw)
		if err != nil {
			return fmt.Errorf("byok: rule %d: %w", i+1, err)
		}
		b.rules = append(b.rules, providerRule{match, place})
	}
	if h.BYOK.From != "" {
		if err := checkPlaceholder(h.BYOK.From); err != nil {
			return fmt.Errorf("byok: from: %w", err)
		}
		b.from = h.BYOK.From[1 : len(h.BYOK.From)-1]
		h.gate.NormalForm = h.gate.NormalForm || !strings.HasPrefix(b.from, "http.request.header.")
	}
	b.explicit = len(b.rules) > 0 || b.from != ""
	if err := b.collide(); err != nil {
		return err
	}
	h.byok = b
	return nil
}

// collide finds the providers whose keys the API gets in the same header. They
// can be told apart only if it is said which one a request is for.
func (b *byok) collide() error {
	b.clash = make([]uint64, len(b.providers))
	for i, p := range b.providers {
		for j, other := range b.providers[:i] {
			name := sharedHeader(p, other)
			if name == "" {
				continue
			}
			if !b.explicit {
				return fmt.Errorf("byok: the API gets the keys of %s and %s both in %s: say which provider a request is for: for <matcher> <provider>, or from <placeholder>",
					other.Name(), p.Name(), name)
			}
			b.clash[i] |= 1 << j
			b.clash[j] |= 1 << i
			b.clashing = true
		}
	}
	return nil
}

// sharedHeader returns a header in which the API gets something of both
// providers, or "".
func sharedHeader(p, other *provider.Provider) string {
	for _, t := range p.Inject() {
		for _, u := range other.Inject() {
			if t.Name == u.Name {
				return t.Name
			}
		}
	}
	return ""
}

// choose takes the named providers, or all, out of the app's.
func (b *byok) choose(names []string, of map[string]*provider.Provider) error {
	if len(of) == 0 {
		return errNoProviders
	}
	if len(names) == 0 {
		for name := range of {
			names = append(names, name)
		}
	}
	names = slices.Sorted(slices.Values(names))
	for i, name := range names {
		p := of[name]
		if p == nil {
			return fmt.Errorf("byok: provider %s is not defined: add `provider %[1]s` to the global keytoll options", name)
		}
		if i > 0 && names[i-1] == name {
			return fmt.Errorf("byok: provider %s is named twice", name)
		}
		if other, taken := b.headers[p.Header()]; taken {
			return fmt.Errorf("byok: providers %s and %s have the same header %s", b.providers[other].Name(), name, p.Header())
		}
		b.headers[p.Header()] = i
		b.lengths |= 1 << (len(p.Header()) & 63)
		for _, t := range p.Inject() {
			b.bare = b.bare || t.Name == "Authorization"
		}
		b.providers = append(b.providers, p)
	}
	return nil
}

// apart refuses a header in which the gate's own keys stand: each would be taken
// for a provider key and sent up.
func (b *byok) apart(sources []gate.Source) error {
	for _, p := range b.providers {
		for _, s := range sources {
			if s.Kind == gate.Header && foldName(s.Name) == foldName(p.Header()) {
				return fmt.Errorf("byok: provider %s has the header %s, in which callers send their key for this gate: give it another, such as X-Provider-Key-%[1]s", p.Name(), p.Header())
			}
		}
	}
	return nil
}

func checkUnknown(s string) error {
	if s != "" && s != "pass" && s != "refuse" {
		return fmt.Errorf("byok: unknown %q: want pass or refuse", s)
	}
	return nil
}

// place returns where a provider is among the gate's.
func (b *byok) place(name string) (int, bool) {
	return slices.BinarySearchFunc(b.providers, name, func(p *provider.Provider, name string) int {
		return strings.Compare(p.Name(), name)
	})
}

func (b *byok) names() string {
	list := make([]string, len(b.providers))
	for i, p := range b.providers {
		list[i] = p.Name()
	}
	return strings.Join(list, ", ")
}

// protected returns the headers that only the gate may set. Authorization is
// cleaned by rules of its own, and by bring.
func (b *byok) protected() (names []string) {
	if b == nil {
		return nil
	}
	for _, p := range b.providers {
		names = append(names, p.Header())
		for _, t := range p.Inject() {
			if t.Name != "Authorization" {
				names = append(names, t.Name)
			}
		}
	}
	return names
}

// named returns the place of the provider that a request is for, notOurs for one
// that is none of the gate's, or notKnown.
func (b *byok) named(r *http.Request) (int, access.Reason) {
	if len(b.rules) > 0 {
		if r.Method == http.MethodConnect {
			defer gate.ShowGet(r)()
		}
		for i := range b.rules {
			if ok, err := matches(b.rules[i].match, r); err != nil {
				return notKnown, access.Unavailable
			} else if ok {
				return b.rules[i].place, access.Allowed
			}
		}
	}
	if b.from != "" {
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			// The value itself: what a client writes is not expanded.
			if name, _ := repl.GetString(b.from); name != "" {
				return b.called(name), access.Allowed
			}
		}
	}
	if len(b.providers) == 1 {
		return 0, access.Allowed
	}
	return notKnown, access.Allowed
}

// called returns the place of a provider by its name in any case, or notOurs.
func (b *byok) called(name string) int {
	for i, p := range b.providers {
		if strings.EqualFold(p.Name(), name) {
			return i
		}
	}
	return notOurs
}

// What may stand in the place of a provider.
const (
	notKnown = -1
	notOurs  = -2
)
