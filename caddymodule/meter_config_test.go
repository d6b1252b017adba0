package caddymodule

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/period"
)

// meterApp is an app with a configuration, compiled as far as metering goes.
func meterApp(t *testing.T, text string) *App {
	t.Helper()
	a := new(App)
	if err := json.Unmarshal([]byte(text), a); err != nil {
		t.Fatal(err)
	}
	if err := a.provisionMetering(); err != nil {
		t.Fatal(err)
	}
	a.permissions, _ = access.NewPermissions(nil)
	return a
}

// meterGate is a gate with a configuration, compiled as far as metering goes.
func meterGate(t *testing.T, a *App, text string) (*Handler, error) {
	t.Helper()
	h := &Handler{app: a, gate: new(gate.Gate)}
	if err := json.Unmarshal([]byte(text), h); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	for _, step := range []func(caddy.Context) error{h.provisionPermits, h.provisionLimits, h.provisionMeter} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return h, nil
}

const meterPro = `{"plans":{"pro":{"credits":{"amount":1000,"period":"month"}}}}`

func TestMeterPlanCompiles(t *testing.T) {
	a := meterApp(t, `{"metering":{"timezone":"Europe/Berlin","anchor":31,"on_failure":"serve"},"plans":{"free":{},"none":null,"pro":{
		"credits":{"amount":1000.25,"period":"month","overage":5,"add":true,"strict":true,"observe":true},
		"quotas":[{"amount":10,"period":"day"},{"amount":20,"period":"month","meter":"bytes_out","observe":true}],
		"concurrent":[{"requests":3},{"requests":4,"per":"tenant","observe":true}]},"some":{"concurrent":[{"requests":1,"per":"key","observe":true}]}}}`)
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	if a.zone.String() != "Europe/Berlin" || a.anchor != 31 || !a.serve || a.export != nil {
		t.Errorf("%+v", a.metered)
	}
	month := period.Period{Kind: period.Month, Anchor: 31, Zone: berlin}
	day := period.Period{Kind: period.Day, Zone: berlin}
	want := map[string]*meterPlan{
		"pro": {
			credits:        &credit.Allowance{Amount: 1000_250_000, Period: month, Overage: 5 * access.Credit, Add: true, Strict: true},
			creditsObserve: true,
			quotas:         []credit.Quota{{Meter: credit.Requests, Amount: 10, Period: day}, {Meter: credit.BytesOut, Amount: 20, Period: month}},
			quotasObserve:  []bool{false, true},
			perKey:         flightLimit{3, false}, perTenant: flightLimit{4, true},
		},
		"some": {perKey: flightLimit{1, true}},
	}
	if !reflect.DeepEqual(a.meterPlans, want) {
		t.Errorf("%+v", a.meterPlans["pro"])
	}
	// What is compiled passes the ledger's own check, whatever the period.
	for _, kind := range []string{"hour", "day", "week", "month"} {
		p := a.period(kind)
		terms := credit.Terms{Credits: &credit.Allowance{Period: p}, Quotas: []credit.Quota{{Period: p}}}
		if err := terms.Check(); err != nil || p.Kind.String() != kind {
			t.Errorf("%s: %v, %v", kind, p, err)
		}
	}
}

func TestMeteringDefaults(t *testing.T) {
	const day = 24 * time.Hour
	for _, text := range []string{`{}`, `{"metering":{}}`, `{"metering":{"retain":{}}}`} {
		a := meterApp(t, text)
		if a.zone != time.UTC || a.anchor != 1 || a.serve || a.export != nil || len(a.meterPlans) != 0 || a.retain != (retention{2 * day, 90 * day, 800 * day}) {
			t.Errorf("%s: %+v", text, a.metered)
		}
	}
	a := meterApp(t, `{"metering":{"retain":{"minute":"3d","day":"1000d"}}}`)
	if a.retain != (retention{3 * day, 90 * day, 1000 * day}) {
		t.Errorf("%+v", a.retain)
	}
}

// The value of an export's header stays a placeholder in what is dumped.
func TestMeteringExport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("Bearer hush-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEYTOLL_METER_TOKEN", "hush-1")
	for value, want := range map[string]string{"{env.KEYTOLL_METER_TOKEN}": "hush-1", "{file." + file + "}": "Bearer hush-2", "plain": "plain"} {
		a := meterApp(t, `{"metering":{"export":{"url":"http://localhost:1/e","header":"Authorization","value":"`+value+`"}}}`)
		if *a.export != (exportTarget{url: "http://localhost:1/e", header: "Authorization", value: want}) {
			t.Errorf("%s: %+v", value, a.export)
		}
		dump, err := json.Marshal(a)
		if err != nil || strings.Contains(string(dump), "hush") || !strings.Contains(string(dump), value) {
			t.Errorf("%s, %v", dump, err)
		}
	}
	t.Setenv("KEYTOLL_METER_BAD", "hush\r\nX-Evil: 1")
	t.Setenv("KEYTOLL_METER_URL", "hush://x")
	for text, want := range map[string]string{
		`"url":"http://h/","header":"A","value":"{env.KEYTOLL_METER_BAD}"`:     "a character that no header has",
		`"url":"http://h/","header":"A","value":"{env.KEYTOLL_METER_MISSING}"`: "unknown or empty",
		`"url":"{env.KEYTOLL_METER_URL}"`:                                      "want a URL",
		`"file":"{env.KEYTOLL_METER_MISSING}"`:                                 "unknown or empty",
	} {
		a := new(App)
		if err := json.Unmarshal([]byte(`{"metering":{"export":{`+text+`}}}`), a); err != nil {
			t.Fatal(err)
		}
		if err := a.provisionMetering(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestMeterCompiles(t *testing.T) {
	h, err := meterGate(t, meterApp(t, meterPro), `{"charges":[{"match":[{"path":["/big*"]}],"credits":2.5},{"credits":1}],
		"charge_header":"x-credits-cost","charge_status":["2xx","5xx"],"concurrent":[{"requests":2,"per":"tenant"},{"requests":1,"observe":true}],
		"routes":[{"match":[{"path":["/big*"]}],"name":"big"}],"usage_headers":"off"}`)
	if err != nil {
		t.Fatal(err)
	}
	m := h.meter
	if m.header != "X-Credits-Cost" || m.status != [6]bool{2: true, 5: true} || m.usageHeaders != "off" {
		t.Errorf("%+v", m)
	}
	if want := []flightRule{{flightLimit{2, false}, true}, {flightLimit{1, true}, false}}; !reflect.DeepEqual(m.flights, want) {
		t.Errorf("%+v", m.flights)
	}
	if len(m.charges) != 2 || m.charges[0].price != 2_500_000 || m.charges[1].price != access.Credit || m.charges[1].match != nil {
		t.Fatalf("%+v", m.charges)
	}
	if len(m.routes) != 1 || m.routes[0].name != "big" {
		t.Fatalf("%+v", m.routes)
	}
	for path, want := range map[string]bool{"/big/1": true, "/small": false} {
		r := httptest.NewRequest("GET", path, nil)
		r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
		for _, match := range []gate.Match{m.charges[0].match, m.routes[0].match} {
			if ok, err := match(r); ok != want || err != nil {
				t.Errorf("%s: %v, %v", path, ok, err)
			}
		}
	}
	h, err = meterGate(t, meterApp(t, meterPro), `{}`)
	if err != nil || h.meter.status != [6]bool{1: true, 2: true, 3: true, 4: true} || h.meter.header != "" || h.meter.usageHeaders != "" {
		t.Errorf("%+v, %v", h.meter, err)
	}
}

// A gate with nothing to count has no meter.
func TestMeterOnlyWhereNeeded(t *testing.T) {
	for _, c := range []struct {
		app, gate string
		want      bool
	}{
		{`{}`, `{}`, false},
		{`{"metering":{},"plans":{"a":{"rates":[{"requests":1,"window":"1s"}]},"b":null}}`, `{"limits":[{"requests":1,"window":"1s"}]}`, false},
		{`{}`, `{"usage_headers":"off"}`, false},
		{`{}`, `{"charge_status":["2xx"]}`, false},
		{`{}`, `{"usage_headers":"on"}`, true},
		{meterPro, `{}`, true},
		{`{"plans":{"a":{"quotas":[{"amount":1,"period":"day"}]}}}`, `{}`, true},
		{`{"plans":{"a":{"concurrent":[{"requests":1}]}}}`, `{}`, true},
		{`{}`, `{"concurrent":[{"requests":1}]}`, true},
		{`{}`, `{"routes":[{"name":"a"}]}`, true},
		{meterPro, `{"charges":[{"credits":0}]}`, true},
	} {
		h, err := meterGate(t, meterApp(t, c.app), c.gate)
		if err != nil || (h.meter != nil) != c.want {
			t.Errorf("%s %s: %v", c.app, c.gate, err)
		}
	}
}

// Observed rules are not among those that are enforced.
func TestShadow(t *testing.T) {
	h, err := meterGate(t, meterApp(t, `{}`), `{"limits":[{"requests":1,"window":"1s"},{"requests":1,"window":"1s","observe":true},{"requests":3,"window":"1s","name":"x","observe":true}],
		"permits":[{"observe":true},{"match":[{"path":["/a"]}]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.gate.Limits) != 1 || len(h.shadow.limits) != 2 || h.gate.Limits[0].Class == h.shadow.limits[0].Class {
		t.Errorf("limits %+v, observed %+v", h.gate.Limits, h.shadow.limits)
	}
	if len(h.gate.Permits) != 1 || h.gate.Permits[0].Match == nil || len(h.shadow.permits) != 2 || !h.gate.NormalForm {
		t.Errorf("permits %+v, observed %+v", h.gate.Permits, h.shadow.permits)
	}
	// Observed permits alone refuse no target for its form.
	h, err = meterGate(t, meterApp(t, `{}`), `{"permits":[{"observe":true}]}`)
	if err != nil || len(h.gate.Permits) != 0 || len(h.shadow.permits) != 1 || h.gate.NormalForm {
		t.Errorf("%+v, %v", h, err)
	}
	h, err = meterGate(t, meterApp(t, `{}`), `{"permits":[{}]}`)
	if err != nil || len(h.gate.Permits) != 1 || h.shadow.permits != nil || !h.gate.NormalForm {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestMeteringRefusesBadJSON is about configurations that did not come by way
// of a Caddyfile.
func TestMeteringRefusesBadJSON(t *testing.T) {
	credits := func(c string) string { return `"plans":{"a":{"credits":` + c + `}}` }
	quota := func(q string) string { return `"plans":{"a":{"quotas":[` + q + `]}}` }
	flight := func(c string) string { return `"plans":{"a":{"concurrent":[` + c + `]}}` }
	pro := credits(`{"amount":1,"period":"day"}`)
	for _, c := range []struct{ app, gate, want string }{
		{credits(`{"amount":1}`), ``, `plan a: credits: "" is not a period`},
		{credits(`{"amount":1,"period":"none"}`), ``, `"none" is not a period`},
		{credits(`{"amount":-1,"period":"day"}`), ``, "not an amount of credits"},
		{credits(`{"amount":0.0000001,"period":"day"}`), ``, "not an amount of credits"},
		{credits(`{"amount":1000000000001,"period":"day"}`), ``, "not an amount of credits"},
		{credits(`{"amount":"1","period":"day"}`), ``, "not an amount of credits"},
		{credits(`{"amount":1,"period":"day","overage":-1}`), ``, "not an amount of credits"},
		{credits(`{"amount":1,"period":"day","add":1}`), ``, "number into"},
		{credits(`{"amount":1,"period":"day","refill":true}`), ``, `unknown field "refill"`},
		{quota(`{"period":"day"}`), ``, "plan a: quota 0: want a whole number"},
		{quota(`{"amount":-1,"period":"day"}`), ``, "quota -1"},
		{quota(`{"amount":1.5,"period":"day"}`), ``, "number 1.5"},
		{quota(`{"amount":2000000000000000000,"period":"day"}`), ``, "want a whole number from 1"},
		{quota(`{"amount":1,"period":"year"}`), ``, `quota: "year" is not a period`},
		{quota(`{"amount":1,"period":"day","meter":"tokens"}`), ``, `"tokens" is not a meter`},
		{quota(`{"amount":1,"period":"day"},{"amount":2,"period":"day","meter":"requests"}`), ``, "quota of requests for each day is given twice"},
		{flight(`{}`), ``, "concurrent 0"},
		{flight(`{"requests":1000001}`), ``, "concurrent 1000001"},
		{flight(`{"requests":1,"per":"address"}`), ``, "want key or tenant"},
		{flight(`{"requests":1},{"requests":2,"per":"key"}`), ``, "twice per key"},
		{`"metering":{"timezone":"Europe/Atlantis"}`, ``, `metering: timezone "Europe/Atlantis"`},
		{`"metering":{"timezone":"Local"}`, ``, `timezone "Local"`},
		{`"metering":{"anchor":-1}`, ``, "anchor -1"},
		{`"metering":{"anchor":32}`, ``, "anchor 32"},
		{`"metering":{"on_failure":"panic"}`, ``, `on_failure "panic"`},
		{`"metering":{"retain":{"minute":-1}}`, ``, "retain minute"},
		{`"metering":{"retain":{"hour":1}}`, ``, "retain hour"},
		{`"metering":{"retain":{"day":"3661d"}}`, ``, "retain day"},
		{`"metering":{"export":{}}`, ``, "a file or a URL"},
		{`"metering":{"export":{"file":"a","url":"http://b"}}`, ``, "a file or a URL"},
		{`"metering":{"export":{"file":"a","header":"b","value":"c"}}`, ``, "a file has no header"},
		{`"metering":{"export":{"url":"http://a","value":"c"}}`, ``, "a name and a value"},
		{`"metering":{"export":{"url":"http://a","header":"Host","value":"c"}}`, ``, "cannot be set"},
		{`"metering":{"export":{"kind":"kafka"}}`, ``, `unknown field "kind"`},
		{``, `"charges":[{"credits":1}]`, "no plan has credits to charge"},
		{quota(`{"amount":1,"period":"day"}`), `"charges":[{"credits":0}]`, "no plan has credits to charge"},
		{pro, `"charges":[null]`, "charge 1 is null"},
		{pro, `"charges":[{"credits":-1}]`, "not an amount of credits"},
		{pro, `"charges":[{"match":[{"nope":{}}]}]`, "charge 1: "},
		{pro, `"charges":[{"credits":1},{"match":[{"path":["/a"]}],"credits":2}]`, "about all requests"},
		{pro, `"charge_header":"X-Cost"`, "charge_header needs a charge"},
		{pro, `"charges":[{"credits":1}],"charge_header":"connection"`, "charge_header Connection"},
		{pro, `"charges":[{"credits":1}],"charge_header":"a b"`, "not the name of a header"},
		{pro, `"charge_status":["200"]`, `charge_status "200"`},
		{pro, `"charge_status":["2xx","2xx"]`, "listed twice"},
		{``, `"concurrent":[null]`, "concurrent 1 is null"},
		{``, `"concurrent":[{"requests":0}]`, "concurrent 0"},
		{``, `"concurrent":[{"requests":1,"per":"tenant"},{"requests":2,"per":"tenant"}]`, "twice per tenant"},
		{``, `"routes":[null]`, "route 1 is null"},
		{``, `"routes":[{}]`, `route 1: route name ""`},
		{``, `"routes":[{"name":"a","match":[{"nope":{}}]}]`, "route 1: "},
		{``, `"routes":[{"name":"a"},{"name":"b"}]`, "about all requests"},
		{``, `"usage_headers":"yes"`, `usage_headers "yes"`},
		{pro, `"charge":1`, `unknown field "charge"`},
	} {
		err := adaptProvision(adaptJSON(c.app, c.gate))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: error %v, want %q", c.app, c.gate, err, c.want)
		}
	}
}

// The API for keys has a gate that meters nothing of its own.
func TestMeterNotOfAPI(t *testing.T) {
	for _, text := range []string{`{"charges":[{"credits":1}]}`, `{"charge_header":"X-Cost"}`, `{"charge_status":["2xx"]}`, `{"concurrent":[{"requests":1}]}`, `{"routes":[{"name":"a"}]}`, `{"usage_headers":"on"}`} {
		h := &Handler{app: meterApp(t, meterPro), gate: new(gate.Gate), brief: true}
		if err := json.Unmarshal([]byte(text), h); err != nil {
			t.Fatal(err)
		}
		if err := h.provisionMeter(caddy.Context{}); err == nil || !strings.Contains(err.Error(), "keytoll_api") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
