package caddymodule

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

// overrideHelp is what the flags of an override mean, for the texts of commands.
const overrideHelp = `
--credits, --concurrent and the like override the plan. What no flag names stays
overridden as it was; an empty one, such as --credits "", is the plan's again.
With --until the override ends then, with --until "" it does not; --no-override
ends it at once. Credits need a plan that has some: their period is the plan's.`

// overrideFlags adds the flags of an override that tenants and keys share.
func overrideFlags(f *pflag.FlagSet) {
	f.String("credits", "", "Credits of each of the plan's periods, in place of the plan's")
	f.String("concurrent", "", "Requests at one time, in place of the plan's")
	f.String("until", "", "When the override ends: a time such as 2030-01-31T00:00:00Z, or a duration from now such as 7d or 12h")
	f.Bool("no-override", false, "End the override: all is as the plan has it")
}

// overridden reports whether a flag says something of the override. A rate does
// if rated says so.
func (s *session) overridden(rated bool) bool {
	for _, flag := range []string{"credits", "concurrent", "max-keys", "until", "no-override"} {
		if s.given(flag) {
			return true
		}
	}
	return rated && (s.given("rate") || s.given("burst"))
}

// override changes an override by the flags. The flag --rate counts if rated
// says so. It returns nil for one that is to end.
func (s *session) override(was *mgmt.Override, rated bool, now time.Time) (*mgmt.Override, error) {
	if s.is("no-override") {
		return nil, nil
	}
	o := mgmt.Override{}
	if was != nil && (was.Until == nil || was.Until.After(now)) {
		o = *was
	}
	if err := s.overrideParts(&o, rated, now); err != nil {
		return nil, err
	}
	if o.Rate == nil && o.Credits == nil && o.Concurrent == nil && o.MaxKeys == nil {
		if o.Until != nil {
			return nil, usage("there is nothing to override: give --rate, --credits, --concurrent or the like")
		}
		return nil, nil // the last part was taken away
	}
	return &o, nil
}

// overrideParts sets what the flags name.
func (s *session) overrideParts(o *mgmt.Override, rated bool, now time.Time) error {
	if s.is("no-override") {
		for _, flag := range []string{"credits", "concurrent", "max-keys", "until", "rate"} {
			if s.given(flag) && (rated || flag != "rate") {
				return usage("give --no-override or --%s, not both", flag)
			}
		}
	}
	return errorsOf(s.overrideRate(o, rated), s.overrideCredits(o), s.overrideCount("concurrent", &o.Concurrent),
		s.overrideCount("max-keys", &o.MaxKeys), s.overrideUntil(o, now))
}

// amendment is how a tenant or a key is changed.
type amendment[T any] struct {
	what     string
	rated    bool              // --rate is part of the override
	update   func() (T, error) // nil: nothing but the override changes
	show     func() (T, error)
	override func(T) *mgmt.Override
	set      func(mgmt.Override) (T, error)
	drop     func() (T, error)
}

// do makes the change and then that of the override, if the flags name one.
func (a amendment[T]) do(s *session, now time.Time) (out T, err error) {
	var o *mgmt.Override
	if s.overridden(a.rated) {
		// First: the flags may be wrong, or what they are about not there.
		if out, err = a.show(); err != nil {
			return out, err
		}
		if o, err = s.override(a.override(out), a.rated, now); err != nil {
			return out, err
		}
	}
	if a.update != nil {
		if out, err = a.update(); err != nil || !s.overridden(a.rated) {
			return out, err
		}
	}
	if o == nil {
		out, err = a.drop()
	} else {
		out, err = a.set(*o)
	}
	if err != nil && a.update != nil {
		note(s.err, "the %s was changed, but its override was not", a.what)
	}
	return out, err
}

func (s *session) overrideRate(o *mgmt.Override, rated bool) error {
	if !rated || !s.given("rate") && !s.given("burst") {
		return nil
	}
	rate, err := s.rate()
	o.Rate = rate
	return err
}

func (s *session) overrideCredits(o *mgmt.Override) error {
	if !s.given("credits") {
		return nil
	}
	text := s.text("credits")
	if o.Credits = nil; text == "" {
		return nil
	}
	n, err := access.ParseCredits(text)
	if err != nil {
		return usage("--credits %q: %s", text, err)
	}
	if n == 0 {
		return usage(`--credits 0: want more than 0, or "" for what the plan has`)
	}
	o.Credits = &n
	return nil
}

func (s *session) overrideCount(flag string, to **uint32) error {
	if !s.given(flag) {
		return nil
	}
	text := s.text(flag)
	if *to = nil; text == "" {
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 {
		return usage(`--%s %q: want a number above 0, or "" for what the plan has`, flag, text)
	}
	*to = new(uint32(n))
	return nil
}

func (s *session) overrideUntil(o *mgmt.Override, now time.Time) error {
	if !s.given("until") {
		return nil
	}
	text := s.text("until")
	if o.Until = nil; text == "" {
		return nil
	}
	if _, bad := time.Parse(time.RFC3339, text); bad == nil {
		at, err := parseInstant("--until", text, now)
		o.Until = at
		return err
	}
	in, err := parseSpan("--until", text)
	if err != nil {
		return usage("--until %q: want a time such as 2030-01-31T00:00:00Z or a duration such as 7d or 12h", text)
	}
	o.Until = new(now.Add(time.Duration(*in)*time.Second + time.Second - 1).UTC().Truncate(time.Second))
	return nil
}

// overrideText shows an override; "-" for none.
func overrideText(o *mgmt.Override) string {
	if o == nil {
		return "-"
	}
	var parts []string
	if o.Rate != nil {
		parts = append(parts, "rate "+rateText(o.Rate))
	}
	if o.Credits != nil {
		parts = append(parts, "credits "+o.Credits.String())
	}
	if o.Concurrent != nil {
		parts = append(parts, "concurrent "+decimal(uint64(*o.Concurrent)))
	}
	if o.MaxKeys != nil {
		parts = append(parts, "max keys "+decimal(uint64(*o.MaxKeys)))
	}
	text := strings.Join(parts, ", ")
	if o.Until != nil {
		text += ", until " + stamp(o.Until)
		if !o.Until.After(time.Now()) {
			text += " (over)"
		}
	}
	return text
}
