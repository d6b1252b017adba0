package caddymodule

import (
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/internal/learn"
)

// parseLearn reads the block learn of the global option.
//
//	learn {
//		check <method> <url>
//		header <name> <value with {key}>   # several
//		tenant <json pointer>|header:<name>
//		permissions <name...>              # of learned keys; default: none
//		until <RFC 3339>
//		rate <n>/<window> [burst <n>]      # default: 10/s
//		negative <duration>                # default: 1m
//		timeout <duration>                 # default: 5s, at most 5s
//	}
func parseLearn(d *caddyfile.Dispenser) (*Learn, error) {
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	l := &Learn{Headers: make(map[string]string)}
	once := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if once[word] && word != "header" {
			return nil, d.Errf("%s is given twice", word)
		}
		once[word] = true
		if err := l.option(d, word); err != nil {
			return nil, err
		}
	}
	for _, word := range []string{"check", "header", "tenant", "until"} {
		if !once[word] {
			return nil, d.Errf("learn needs %s", word)
		}
	}
	if _, err := l.request(); err != nil && !strings.Contains(l.URL, "{") && !morePlaceholders(l.Headers) {
		return nil, d.Errf("learn: %v", err) // else when the placeholders are expanded
	}
	return l, nil
}

// morePlaceholders reports whether values hold other placeholders than the key.
func morePlaceholders(headers map[string]string) bool {
	for _, v := range headers {
		if strings.Contains(strings.ReplaceAll(v, keyPlaceholder, ""), "{") {
			return true
		}
	}
	return false
}

func (l *Learn) option(d *caddyfile.Dispenser, word string) error {
	switch word {
	case "check":
		args := d.RemainingArgs()
		if len(args) != 2 {
			return d.Err("check needs a method and a URL: check GET http://localhost:8080/whoami")
		}
		l.Method, l.URL = strings.ToUpper(args[0]), args[1]
		return nil
	case "header":
		args := d.RemainingArgs()
		if len(args) != 2 {
			return d.Err("header needs a name and a value: header X-Api-Key {key}")
		}
		name := http.CanonicalHeaderKey(args[0])
		if _, twice := l.Headers[name]; twice {
			return d.Errf("header %s is given twice", name)
		}
		l.Headers[name] = args[1]
		return nil
	case "tenant":
		if err := word1(d, &l.Tenant); err != nil {
			return err
		}
		if _, err := learn.TenantFrom(l.Tenant); err != nil {
			return d.WrapErr(err)
		}
		return nil
	case "permissions":
		if l.Permissions = d.RemainingArgs(); len(l.Permissions) == 0 {
			return d.Err("permissions needs at least one: permissions read")
		}
		return nil
	case "until":
		var text string
		if err := word1(d, &text); err != nil {
			return err
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return d.Errf("until %q: want a time such as 2030-01-31T00:00:00Z", text)
		}
		l.Until = t.UTC()
		return nil
	case "rate":
		if !d.NextArg() {
			return d.Err("rate needs a value, such as 10/s")
		}
		l.Rate = new(Rate)
		return rateArgs(d, l.Rate, func(word string) error {
			return d.Errf("unexpected %q after the rate: want burst <n>", word)
		})
	case "negative":
		return l.duration(d, word, &l.Negative, 24*time.Hour)
	case "timeout":
		return l.duration(d, word, &l.Timeout, learn.MaxTimeout)
	}
	return unrecognized(d, "check", "header", "tenant", "permissions", "until", "rate", "negative", "timeout")
}

func (*Learn) duration(d *caddyfile.Dispenser, word string, into *caddy.Duration, most time.Duration) error {
	var text string
	if err := word1(d, &text); err != nil {
		return err
	}
	v, err := caddy.ParseDuration(text)
	if err != nil || v <= 0 || v > most {
		return d.Errf("%s %q: want a duration of at most %s", word, text, most)
	}
	*into = caddy.Duration(v)
	return nil
}
