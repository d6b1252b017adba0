package caddymodule

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func keysUpdateCommand() *cobra.Command {
	cmd := remote(leaf("update <id> [--name <text>] [--permissions <list>] [--expires <when>|--never] [--rate <n/window>|--plan-rate] [--credits <n>] [--until <when>] [--json]",
		"Changes a key, from the next request on", `  $ caddy keytoll keys update key_4fKq0ZbW81TnXyUc --name "build server" --permissions read
  $ caddy keytoll keys update key_4fKq0ZbW81TnXyUc --never --plan-rate
  $ caddy keytoll keys update key_4fKq0ZbW81TnXyUc --allow-from ""
  $ caddy keytoll keys update key_4fKq0ZbW81TnXyUc --credits 50 --concurrent 2
  $ caddy keytoll keys update key_4fKq0ZbW81TnXyUc --rate 1000/1m --until 7d
  $ caddy keytoll keys update key_4fKq0ZbW81TnXyUc --disable`, 1, updateKey))
	cmd.Long = `Changes a key, from the next request on. What no flag names stays as it is.

The flags --permissions, --allow-from and --metadata replace all that was there; an
empty one, such as --allow-from "", takes all away.
` + overrideHelp + ` A rate
that is given together with --until is part of the override, and else the key's own.`
	f := cmd.Flags()
	keyFlags(f)
	f.Bool("never", false, "The key does not expire any more")
	f.Bool("plan-rate", false, "The plan's rates hold again")
	f.Bool("disable", false, "Refuse the key until it is enabled")
	f.Bool("enable", false, "Let a disabled key in again")
	overrideFlags(f)
	return complete(cmd, nil)
}

func updateKey(s *session, args []string) error {
	now := time.Now()
	rated := s.given("until") // a rate for a time is part of the override
	req, err := s.keyUpdate(now)
	if err := errorsOf(err, s.overrideParts(new(mgmt.Override), rated, now)); err != nil {
		return err
	}
	if req == (mgmt.UpdateKey{}) && !s.overridden(rated) {
		return usage("keys update needs a flag that says what to change")
	}
	if err := checkKeyID(args[0]); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	id := args[0]
	a := amendment[mgmt.Key]{what: "key", rated: rated,
		show:     func() (mgmt.Key, error) { return c.Key(id) },
		override: func(k mgmt.Key) *mgmt.Override { return k.Override },
		set:      func(o mgmt.Override) (mgmt.Key, error) { return c.SetKeyOverride(id, o) },
		drop:     func() (mgmt.Key, error) { return c.DropKeyOverride(id) }}
	if req != (mgmt.UpdateKey{}) {
		a.update = func() (mgmt.Key, error) { return c.UpdateKey(id, req) }
	}
	k, err := a.do(s, now)
	if err != nil {
		return err
	}
	return s.printKey(k)
}

// keyUpdate reads the flags of a change.
func (s *session) keyUpdate(now time.Time) (req mgmt.UpdateKey, err error) {
	req = mgmt.UpdateKey{Name: s.optional("name"), Description: s.optional("description"),
		Permissions: s.optionalList("permissions"), Addresses: s.optionalList("allow-from")}
	if err := errorsOf(s.updateExpiry(&req, now), s.updateRate(&req)); err != nil {
		return req, err
	}
	metadata, err := s.metadata()
	if err != nil {
		return req, err
	}
	if metadata != nil {
		req.Metadata = &metadata
	}
	switch disable, enable := s.is("disable"), s.is("enable"); {
	case disable && enable:
		return req, usage("give --disable or --enable, not both")
	case disable:
		req.Status = new("disabled")
	case enable:
		req.Status = new("active")
	}
	return req, nil
}

// errorsOf returns the first error.
func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *session) updateExpiry(req *mgmt.UpdateKey, now time.Time) error {
	at, in, err := s.expiry(now)
	if err != nil {
		return err
	}
	if in != nil {
		// In whole seconds, rounded up: the key lives at least as long as asked.
		at = new(now.Add(time.Duration(*in)*time.Second + time.Second - 1).UTC().Truncate(time.Second))
	}
	switch {
	case at != nil && s.is("never"):
		return usage("give --never or an expiry, not both")
	case at != nil:
		req.ExpiresAt = mgmt.Value(*at)
	case s.is("never"):
		req.ExpiresAt = mgmt.Null[time.Time]()
	}
	return nil
}

func (s *session) updateRate(req *mgmt.UpdateKey) error {
	rate, err := s.rate()
	switch {
	case err != nil:
		return err
	case rate != nil && s.is("plan-rate"):
		return usage("give --plan-rate or --rate, not both")
	case rate != nil && s.given("until"): // it is the override's
	case rate != nil:
		req.Rate = mgmt.Value(*rate)
	case s.is("plan-rate"):
		req.Rate = mgmt.Null[mgmt.Rate]()
	}
	return nil
}

func keysRotateCommand() *cobra.Command {
	cmd := remote(leaf("rotate <id> [--grace <duration>] [--json]", "Gives a key a new secret and prints it, this once",
		`  $ caddy keytoll keys rotate key_4fKq0ZbW81TnXyUc --grace 24h
  $ caddy keytoll keys rotate key_4fKq0ZbW81TnXyUc --grace 0
  $ KEY=$(caddy keytoll keys rotate key_4fKq0ZbW81TnXyUc --idempotency-key "rotation-$ID")`, 1, rotateKey))
	cmd.Long = `Gives a key a new secret and prints it, this once. Its id, rights and expiry stay.
With a grace the old secret stays good for so long, at most 24h or what the
configuration has if that is longer; with --grace 0 it dies at once. A secret that was rotated away earlier and was still good dies too.

With --idempotency-key the same command, sent again within ten minutes, does not
rotate again: it prints the same key, also if the first answer was lost.`
	cmd.Flags().String("grace", "", "How long the old secret stays good, such as 12h, 1d or 0 (default: as configured)")
	cmd.Flags().String("idempotency-key", "", "Text of yours that names this rotation: 1 to 255 visible ASCII characters")
	return complete(cmd, nil)
}

func rotateKey(s *session, args []string) error {
	req := mgmt.RotateKey{Grace: s.optional("grace")}
	if req.Grace != nil {
		if d, ok := parseDuration(*req.Grace); !ok || d < 0 || d%time.Second != 0 {
			return usage("--grace %q: want whole seconds, such as 12h, 1d or 0", *req.Grace)
		}
	}
	once, err := s.once()
	if err != nil {
		return err
	}
	if err := checkKeyID(args[0]); err != nil {
		return err
	}
	c, err := s.client()
	if err != nil {
		return err
	}
	k, err := c.RotateKeyOnce(args[0], req, once)
	if err != nil {
		return err
	}
	if err := s.printNewKey(k); err != nil {
		return err
	}
	if k.PreviousExpiresAt != nil {
		note(s.err, "the old secret is good until %s", stamp(k.PreviousExpiresAt))
	} else {
		note(s.err, "the old secret is dead")
	}
	return nil
}
