package caddymodule

import (
	"strings"
	"testing"
	"time"

	rollup "github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// Another retention holds from a reload on, and not from one that fails.
func TestRetentionHoldsFromAReload(t *testing.T) {
	const site = "keytoll {\n\troute /x x\n}\nreverse_proxy {upstream}"
	const keep = "metering {\n\tretain minute 3d\n\tretain hour 20d\n}\n"
	g := newGateway(t, keep, site)
	kept := func() rollup.Retention {
		app, err := activeApp()
		if err != nil {
			t.Fatal(err)
		}
		return app.metering.Usage.Retention()
	}
	const day = 24 * time.Hour
	if got := kept(); got != (rollup.Retention{Minute: 3 * day, Hour: 20 * day, Day: 800 * day}) {
		t.Fatalf("at first %+v", got)
	}
	short := strings.ReplaceAll(strings.Replace(keep, "minute 3d", "minute 4h", 1), "20d", "10d")
	// This one opens the store before it is found out that the port is taken.
	if err := g.tryLoad(strings.Replace(g.text(short, site), g.url, "http://"+g.upstream.addr, 1)); err == nil {
		t.Fatal("a configuration on a port that is taken")
	}
	eventually(t, "the old retention", func() bool { return kept().Minute == 3*day })
	g.load(short, site)
	eventually(t, "the new retention", func() bool {
		return kept() == rollup.Retention{Minute: 4 * time.Hour, Hour: 10 * day, Day: 800 * day}
	})
	g.load(keep, site)
	eventually(t, "the first retention", func() bool { return kept().Minute == 3*day && kept().Hour == 20*day })
}
