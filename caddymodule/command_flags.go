package caddymodule

import (
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

// maxDays keeps an expiry in days within a time.Duration: a hundred years.
const maxDays = 36525

// keyFlags adds the flags of what a key is that creating and updating share.
func keyFlags(f *pflag.FlagSet) {
	f.String("name", "", "Name for people")
	f.String("description", "", "What the key is for")
	f.String("expires", "", "When the key ends: a time such as 2030-01-31T00:00:00Z, or a duration from now such as 90d or 12h")
	f.String("expires-at", "", "When the key ends, as a time such as 2030-01-31T00:00:00Z")
	f.String("expires-in", "", "When the key ends, as a duration from now such as 90d or 12h")
	f.String("rate", "", "Requests per window, such as 100/1m")
	f.String("burst", "", "Requests at once (default: as many as the rate's; needs --rate)")
	f.StringSlice("permissions", nil, "Permissions, separated by commas")
	f.StringSlice("allow-from", nil, "Network or address that the key may be used from, such as 192.0.2.0/24; may be repeated")
	f.StringArray("metadata", nil, "Value of your own, as key=value; may be repeated")
}

// complete makes the shell complete flags to what there is to choose from, and
// not to names of files.
func complete(cmd *cobra.Command, choices map[string][]string) *cobra.Command {
	files := map[string]bool{"config": true, "db": true, "report": true}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Value.Type() == "bool" || files[f.Name] {
			return
		}
		// Fails for flags that are not there alone.
		_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(choices[f.Name], cobra.ShellCompDirectiveNoFileComp))
	})
	return cmd
}

// expiry reads the flags of expiry: a time, or seconds from now. Seconds stay
// seconds, so that a request that is sent again is the same.
func (s *session) expiry(now time.Time) (at *time.Time, in *int64, err error) {
	n := 0
	for _, flag := range []string{"expires", "expires-at", "expires-in"} {
		if s.given(flag) {
			n++
		}
	}
	switch {
	case n > 1:
		return nil, nil, usage("give one of --expires, --expires-at and --expires-in")
	case s.given("expires-at"):
		at, err = parseInstant("--expires-at", s.text("expires-at"), now)
	case s.given("expires-in"):
		in, err = parseSpan("--expires-in", s.text("expires-in"))
	case s.given("expires"):
		return parseExpiry(s.text("expires"), now)
	}
	return at, in, err
}

// parseExpiry reads a time or a duration from now in seconds.
func parseExpiry(text string, now time.Time) (at *time.Time, in *int64, err error) {
	if _, bad := time.Parse(time.RFC3339, text); bad == nil {
		at, err = parseInstant("--expires", text, now)
		return at, nil, err
	}
	if in, err = parseSpan("--expires", text); err != nil {
		return nil, nil, usage("--expires %q: want a time such as 2030-01-31T00:00:00Z or a duration such as 90d or 12h", text)
	}
	return nil, in, nil
}

// parseInstant reads a time that is to come.
func parseInstant(flag, text string, now time.Time) (*time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, usage("%s %q: want a time such as 2030-01-31T00:00:00Z", flag, text)
	}
	if !t.After(now) {
		return nil, usage("%s %s is in the past", flag, text)
	}
	return &t, nil
}

// parseSpan reads a duration of a second or more, in seconds, rounded up: a key
// lives at least as long as asked.
func parseSpan(flag, text string) (*int64, error) {
	d, ok := parseDuration(text)
	if !ok || d < time.Second {
		return nil, usage("%s %q: want a duration such as 90d or 12h", flag, text)
	}
	seconds := int64(d / time.Second)
	if d%time.Second != 0 {
		seconds++
	}
	return &seconds, nil
}

func parseDuration(text string) (time.Duration, bool) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		return time.Duration(n) * 24 * time.Hour, err == nil && n <= maxDays
	}
	d, err := time.ParseDuration(text)
	return d, err == nil
}

// once reads --idempotency-key; empty is none.
func (s *session) once() (string, error) {
	once := s.text("idempotency-key")
	if s.given("idempotency-key") && once == "" {
		return "", usage("--idempotency-key is empty")
	}
	return once, nil
}

// rate reads --rate and --burst; nil if they are not there.
func (s *session) rate() (*mgmt.Rate, error) {
	rate, burst := s.text("rate"), s.text("burst")
	if rate == "" {
		if burst != "" {
			return nil, usage("--burst needs --rate")
		}
		return nil, nil
	}
	r, err := access.ParseRate(rate)
	if err != nil {
		return nil, usage("--rate: %s", err)
	}
	if burst != "" {
		if r, err = r.WithBurst(burst); err != nil {
			return nil, usage("--burst: %s", err)
		}
	}
	return mgmt.ShowRate(r), nil
}

// metadata reads the --metadata flags; nil if they are not there. One that is
// empty is no entry at all.
func (s *session) metadata() (map[string]string, error) {
	list, _ := s.cmd.Flags().GetStringArray("metadata")
	if !s.given("metadata") {
		return nil, nil
	}
	m := map[string]string{} // a flag that is empty is no element of the list
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usage("--metadata %q: want key=value", kv)
		}
		if _, twice := m[k]; twice {
			return nil, usage("--metadata: %q is given twice", k)
		}
		m[k] = v
	}
	return m, nil
}

// moment reads a flag that is a time or a duration before now; the zero time if
// it is not there.
func (s *session) moment(flag string, now time.Time) (time.Time, error) {
	text := s.text(flag)
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	d, ok := parseDuration(text)
	if !ok || d < 0 {
		return time.Time{}, usage("--%s %q: want a time such as 2030-01-31T00:00:00Z, or how long ago, such as 7d or 12h", flag, text)
	}
	return now.Add(-d), nil
}

// optional returns the value of a flag if it was given.
func (s *session) optional(flag string) *string {
	if !s.given(flag) {
		return nil
	}
	return new(s.text(flag))
}

// optionalList is optional for a list; an empty flag is an empty list.
func (s *session) optionalList(flag string) *[]string {
	if !s.given(flag) {
		return nil
	}
	return new(append([]string{}, s.list(flag)...))
}
