package limit

import (
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

func TestFields(t *testing.T) {
	asks := []Ask{
		{Name: "burst", Rate: rate(100, 100, time.Minute)},
		{Name: "daily", Rate: rate(50000, 50000, 24*time.Hour)},
	}
	states := []State{{Remaining: 42, Next: 6*time.Second + 1}, {Remaining: 50000}}
	if got, want := string(FormatPolicy(nil, asks)), `"burst";q=100;w=60, "daily";q=50000;w=86400`; got != want {
		t.Errorf("policy %s, want %s", got, want)
	}
	if got, want := string(FormatState([]byte("x"), asks, states)), `x"burst";r=42;t=7, "daily";r=50000`; got != want {
		t.Errorf("state %s, want %s", got, want)
	}
	if got := string(FormatState(nil, asks, states[:1])); got != `"burst";r=42;t=7` {
		t.Errorf("fewer states than asks: %s", got)
	}
	if len(FormatPolicy(nil, nil)) != 0 || len(FormatState(nil, nil, nil)) != 0 {
		t.Error("a field without asks")
	}
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { FormatState(FormatPolicy(buf, asks), asks, states) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestPolicyWindow(t *testing.T) {
	for _, c := range []struct {
		r    access.Rate
		want string
	}{
		{rate(100, 20, time.Minute), `"";q=20;w=12`},
		{rate(100, 200, time.Minute), `"";q=200;w=120`},
		{rate(7, 7, time.Minute), `"";q=7;w=60`},
		{rate(7, 1, time.Minute), `"";q=1;w=9`},
		{rate(5, 5, 100*time.Millisecond), `"";q=5;w=1`},
		{rate(1_000_000_000, 1, access.MaxWindow), `"";q=1;w=1`},
		{rate(3, 1, 3*time.Second+1), `"";q=1;w=2`},
		{rate(1, 1<<32-1, access.MaxWindow), `"";q=4294967295;w=999999999999999`},
		{rate(0, 3, time.Minute), `"";q=3;w=1`},
	} {
		if got := string(FormatPolicy(nil, []Ask{{Rate: c.r}})); got != c.want {
			t.Errorf("%+v: %s, want %s", c.r, got, c.want)
		}
	}
}

func TestFieldNames(t *testing.T) {
	for name, want := range map[string]string{
		"":              `""`,
		`a"b\c`:         `"a\"b\\c"`,
		"per key ~":     `"per key ~"`,
		"x\r\nSet: 1":   `"x??Set: 1"`,
		"caf\u00e9\x7f": `"caf???"`,
	} {
		got := string(FormatState(nil, []Ask{{Name: name}}, []State{{Remaining: -3}}))
		if got != want+";r=0" {
			t.Errorf("%q: %s", name, got)
		}
	}
}
