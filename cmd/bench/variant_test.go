package main

import (
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
)

func names(vs []*variant) string {
	var n []string
	for _, v := range vs {
		n = append(n, v.name)
	}
	return strings.Join(n, ",")
}

func TestSelectVariants(t *testing.T) {
	for list, want := range map[string]string{
		"": variantNames(), "log": "bare-log,log", "refused, default": "bare,default,static-401,refused", "bare": "bare",
	} {
		if got, err := selectVariants(list); err != nil || names(got) != want {
			t.Errorf("%q: got %s, %v, want %s", list, names(got), err, want)
		}
	}
	if _, err := selectVariants("bare,fife"); err == nil || !strings.Contains(err.Error(), `"fife"`) {
		t.Errorf("got %v", err)
	}
}

func TestBasesComeFirst(t *testing.T) {
	for i, v := range variants {
		if v.base == "" {
			continue
		}
		j := slices.IndexFunc(variants, func(b variant) bool { return b.name == v.base })
		if j < 0 || j >= i || variants[j].status() != v.status() {
			t.Errorf("%s: base %s is number %d, and not one that answers the same before number %d", v.name, v.base, j, i)
		}
	}
}

func TestBareKnowsNoGate(t *testing.T) {
	for i := range variants {
		v := &variants[i]
		text := v.caddyfile(place{"/a.sock", "/k.db", "127.0.0.1:1", "127.0.0.1:2"})
		if v.gate != strings.Contains(text, "keytoll") || v.gate != strings.Contains(text, "path /k.db") {
			t.Errorf("%s: gate is %t in\n%s", v.name, v.gate, text)
		}
		if (v.last == "") != strings.Contains(text, "reverse_proxy 127.0.0.1:2") {
			t.Errorf("%s: reverse_proxy in\n%s", v.name, text)
		}
	}
}

func TestLimitsByKeys(t *testing.T) {
	v := &variant{name: "default"}
	for keys, want := range map[int]float64{1: 1.05, 1000: 1.05, 1001: 1.06, 100_000: 1.06, 1_000_000: 1.10} {
		if got := v.limit(keys); got != want {
			t.Errorf("%d keys: limit %g, want %g", keys, got, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		r    result
		want string
		ok   bool
	}{
		{result{ratio: interval{value: 1.049}, limit: 1.05}, "1.05 reached", true},
		{result{ratio: interval{value: 1.06}, limit: 1.05}, "1.05 within margin", true},
		{result{ratio: interval{value: 1.09}, limit: 1.05}, "MISSED 1.05", false},
		{result{ratio: interval{value: 1.01}, limit: 1.05, over: 10.1, maxAllocs: 10}, "MISSED: more than 10 allocations", false},
		{result{ratio: interval{value: 1.01}, limit: 1.05, over: 10, maxAllocs: 10}, "1.05 reached", true},
		{result{ratio: interval{value: 9}}, "", true},
	} {
		text, ok := c.r.verdict(0.03)
		if text != c.want || ok != c.ok {
			t.Errorf("%+v: got %q, %t, want %q, %t", c.r, text, ok, c.want, c.ok)
		}
		rows := []result{{}, c.r}
		if err := verdict(rows, &options{check: true, margin: 0.03}); (err == nil) != c.ok {
			t.Errorf("-check: got %v, want ok %t", err, c.ok)
		}
		if err := verdict(rows, &options{margin: 0.03}); err != nil {
			t.Errorf("without -check: %v", err)
		}
	}
}

func TestParseOptions(t *testing.T) {
	o, err := parseOptions([]string{"-keys", "7", "-seed", "3"}, io.Discard)
	if err != nil || o.keys != 7 || o.seed != 3 || o.conns != 16 {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err = parseOptions(nil, io.Discard); err != nil || o.seed == 0 {
		t.Errorf("got %+v, %v, want a seed from the clock", o, err)
	}
	for _, bad := range []string{"x", "-keys 0", "-rounds 1", "-conns 0", "-round 1ms", "-margin NaN", "-margin -1", "-nope"} {
		if _, err := parseOptions(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%s: want an error", bad)
		}
	}
	if _, err := parseOptions([]string{"-h"}, io.Discard); err != flag.ErrHelp {
		t.Errorf("-h: got %v", err)
	}
}

func TestCheckAnswer(t *testing.T) {
	const limits = "HTTP/1.1 200 OK\r\nX-RateLimit-Limit: 5\r\n\r\n"
	const two = "GET / HTTP/1.1\r\nX-Tenant-Id: a\r\nX-Key-Id: b\r\n"
	gate := &process{variant: &variant{name: "default", gate: true, sees: 2}}
	bare := &process{variant: &variant{name: "bare"}}
	for _, c := range []struct {
		p      *process
		status int
		text   string
		ok     bool
	}{
		{gate, 200, limits + two, true},
		{gate, 403, limits + two, false},
		{gate, 200, limits + two + "Authorization: Bearer k\r\n", false},
		{gate, 200, limits + two + "X-Plan: p\r\n", false},
		{gate, 200, "HTTP/1.1 200 OK\r\n\r\n" + two, false},
		{bare, 200, "HTTP/1.1 200 OK\r\n\r\nGET /\r\nAuthorization: Bearer k\r\n", true},
		{bare, 200, "HTTP/1.1 200 OK\r\n\r\nGET /\r\n", false},
		{&process{variant: &variant{bad: true}}, 401, "", true},
		{&process{variant: &variant{bad: true}}, 200, "", false},
	} {
		if err := c.p.checkAnswer(c.status, c.text); (err == nil) != c.ok {
			t.Errorf("%s, %d, %q: got %v, want ok %t", c.p.name, c.status, c.text, err, c.ok)
		}
	}
}
