package caddymodule

import (
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// A database whose file of counters is gone says so: credits start anew.
func TestLostCountersAreTold(t *testing.T) {
	g := newGateway(t, tenCredits, "keytoll {\n\tcharge 1\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", hourly(100))
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(g.dir + "/keytoll.db.counters"); err != nil {
		t.Fatal(err)
	}
	g.restart()
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	eventually(t, "a line in the log", func() bool { return strings.Contains(g.log(), "the file of counters was not there") })
}

// A new database has lost nothing, and neither has one that is opened again.
func TestNothingLostIsNotTold(t *testing.T) {
	g := newGateway(t, tenCredits, "keytoll {\n\tcharge 1\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", hourly(100))
	for range 2 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		g.restart()
	}
	if log := g.log(); strings.Contains(log, "counters") {
		t.Errorf("the log speaks of counters:\n%s", log)
	}
}

const tenCredits = `
	plan free {
		credits 10/month
	}
	default_plan free
`
