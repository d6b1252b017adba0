package caddymodule

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// flag reads a word without arguments.
func flag(d *caddyfile.Dispenser, into *bool) error {
	word := d.Val()
	if d.NextArg() {
		return d.Errf("%s takes no argument, not %q", word, d.Val())
	}
	*into = true
	return nil
}

// word1 reads exactly one argument.
func word1(d *caddyfile.Dispenser, into *string) error {
	word := d.Val()
	if args := d.RemainingArgs(); len(args) == 1 {
		*into = args[0]
		return nil
	}
	return d.Errf("%s needs exactly one argument", word)
}

// unrecognized is the error for a word that is none of the options, with the
// one that was likely meant.
func unrecognized(d *caddyfile.Dispenser, options ...string) error {
	word := d.Val()
	best := nearest(word, options)
	hint := "want one of: " + strings.Join(options, ", ")
	if best != "" {
		hint = fmt.Sprintf("did you mean %s?", best)
	}
	return d.Errf("unrecognized subdirective %s; %s", word, hint)
}

// nearest returns the option that a mistyped word was likely meant to be, or
// "".
func nearest(word string, options []string) string {
	best, least := "", 3
	for _, o := range options {
		if n := distance(word, o); n < least {
			best, least = o, n
		}
	}
	return best
}

// distance is the number of single-character edits between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
