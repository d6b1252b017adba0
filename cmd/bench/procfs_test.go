package main

import (
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const rest = " S 1 4242 4242 0 -1 4194560 9000 10 3 4 1234 66 7 8 20 0 9 0 123456 2000000 5000"
	for _, name := range []string{"caddy", "a b", "a) R 1 2 (b", "))", ""} {
		got, err := parseStat([]byte("4242 (" + name + ")" + rest + "\n"))
		if want := 13 * time.Second; err != nil || got != want {
			t.Errorf("name %q: got %v, %v, want %v", name, got, err, want)
		}
	}
	for _, bad := range []string{
		"", "4242 caddy S 1", "4242 (caddy)", "4242 (caddy) S 1 2 3",
		"1 (x) S 1 2 3 4 5 6 7 8 9 10 -5 66", "1 (x) S 1 2 3 4 5 6 7 8 9 10 x 66",
	} {
		if got, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

func TestParseRSS(t *testing.T) {
	got, err := parseRSS([]byte("Name:\tcaddy\nVmHWM:\t   70000 kB\nVmRSS:\t   61234 kB\nRssAnon:\t  1 kB\n"))
	if want := int64(61234 << 10); err != nil || got != want {
		t.Errorf("got %d, %v, want %d", got, err, want)
	}
	for _, bad := range []string{"", "Name:\tcaddy\nState:\tZ (zombie)\n", "VmRSS:\t12 MB\n", "VmRSS:\tx kB\n"} {
		if got, err := parseRSS([]byte(bad)); err == nil {
			t.Errorf("%q: got %d, want an error", bad, got)
		}
	}
}
