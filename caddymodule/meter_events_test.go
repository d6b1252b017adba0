package caddymodule

import (
	"fmt"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func TestCreditsLow(t *testing.T) {
	guardEvents.all = nil
	const events = "\n}\nevents {\n on credits_low keytoll_recorder\n"
	g := newGateway(t, "plan free {\n credits 6/month\n }\n plan bare {\n rate 1000/1s\n }\n default_plan free"+events,
		"keytoll {\n charge 1\n }\n reverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	if _, err := g.registrar().GrantCredits(t.Context(), "acme", registrar.GrantRequest{Amount: 4 * access.Credit}); err != nil {
		t.Fatal(err)
	}
	told := 0
	spend := func(n int, percents ...int) {
		t.Helper()
		for range n {
			g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		}
		g.settled()
		app, err := activeApp()
		if err != nil {
			t.Fatal(err)
		}
		app.watchCredits(app.metering)
		app.watchCredits(app.metering)
		got := guardSeen("credits_low")[told:]
		if len(got) != len(percents) {
			t.Fatalf("told %v, want %v", got, percents)
		}
		b := g.balance("acme")
		for i, p := range percents {
			want := map[string]any{"tenant": "acme", "percent": p, "used": b.Used, "limit": b.Limit, "resets_at": b.Resets.Format(time.RFC3339)}
			if fmt.Sprint(got[i]) != fmt.Sprint(want) {
				t.Errorf("told %v, want %v", got[i], want)
			}
		}
		told += len(got)
	}
	spend(7)
	spend(1, 80)
	spend(0)
	g.load("plan free {\n credits 6/month\n }\n default_plan free"+events, "keytoll {\n charge 0.5\n }\n reverse_proxy {upstream}")
	spend(1)
	spend(3, 90, 100)
	if _, err := g.registrar().GrantCredits(t.Context(), "acme", registrar.GrantRequest{Amount: 2 * access.Credit}); err != nil {
		t.Fatal(err)
	}
	spend(4) // once in a period, though there was more to use
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 402)
	spend(0)
}

// What was told is remembered over a restart; several are told at once.
func TestCreditsLowOverRestart(t *testing.T) {
	guardEvents.all = nil
	const options = "plan free {\n credits 10/month\n }\n default_plan free\n}\nevents {\n on credits_low keytoll_recorder\n"
	const site = "keytoll {\n charge 1\n }\n reverse_proxy {upstream}"
	g := newGateway(t, options, site)
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	_, other := g.key("other", registrar.CreateKeyRequest{})
	look := func(n int, key string, want int) {
		t.Helper()
		for range n {
			g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
		}
		g.settled()
		app, err := activeApp()
		if err != nil {
			t.Fatal(err)
		}
		app.watchCredits(app.metering)
		if got := guardSeen("credits_low"); len(got) != want {
			t.Fatalf("told %v, want %d", got, want)
		}
	}
	look(9, key, 2)
	look(7, other, 2)
	g.restart()
	look(0, key, 2)
	look(1, key, 3)
	look(3, other, 6)
	g.restart()
	guardEvents.Lock()
	defer guardEvents.Unlock()
	for _, e := range guardEvents.all[3:] {
		if e.Data["tenant"] != "other" {
			t.Errorf("%v", e.Data)
		}
	}
}
