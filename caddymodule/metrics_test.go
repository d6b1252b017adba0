package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v3"
)

const metricsPlan = `
		plan free {
			credits 10/month
			quota 6/day
		}
		default_plan free
`

const metricsSite = `
	@big path /big
	@huge path /huge
	keytoll {
		charge @huge 500
		charge @big 5
		charge 1
		charge_header X-Cost
		limit 1/1d observe
	}
	reverse_proxy {upstream}
`

// settled waits until no admitted request is under way: clients may have their
// answer a moment before its bill is settled.
func (g *gateway) settled() {
	g.t.Helper()
	app, err := activeApp()
	if err != nil {
		g.t.Fatal(err)
	}
	eventually(g.t, "all bills settled", func() bool { return app.engine.Load().Streams.Count() == 0 })
}

func TestMetricsOfMetering(t *testing.T) {
	g := newGateway(t, metricsPlan, metricsSite)
	_, key := g.key("acme", hourly(1000))
	check := func(when string, want map[string]float64) {
		t.Helper()
		g.settled()
		m := guardMetrics(t)
		for name, v := range want {
			if got, ok := m["caddy_keytoll_"+name]; !ok || got != v {
				t.Errorf("%s: %s is %v, want %v", when, name, got, v)
			}
		}
	}
	check("at first", map[string]float64{"credits_total op=charged": 0, "credits_total op=refunded": 0, "credits_total op=refused": 0,
		"quota_refusals_total": 0, "requests_in_flight": 0, "observed_total": 0, "counters": 0, "counters_failing": 0, "usage_waiting": 0})

	entered, leave := make(chan struct{}), make(chan struct{})
	g.upstream.respond(answersWithCost(map[string]string{"/cheap": "0.25", "/dear": "1.5"}, entered, leave))
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.do("GET", "/wait", "X-Api-Key: "+key)
	}()
	<-entered
	if got := guardMetrics(t)["caddy_keytoll_requests_in_flight"]; got != 1 {
		t.Errorf("%v in flight, want 1", got)
	}
	close(leave)
	<-done
	for path, status := range map[string]int{"/cheap": 200, "/dear": 200, "/big": 200, "/huge": 402} {
		g.do("GET", path, "X-Api-Key: "+key).expect(t, status)
	}
	g.do("GET", "/broken", "X-Api-Key: "+key).expect(t, 500)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	g.do("GET", "/", "X-Api-Key: "+key).expect(t, 429)
	// wait 1, cheap 1 − 0.75, dear 1 + 0.5, big 5, broken 1 − 1, / 1
	want := map[string]float64{"credits_total op=charged": 10.5, "credits_total op=refunded": 1.75, "credits_total op=refused": 500,
		"quota_refusals_total": 1, "requests_in_flight": 0, "counters_failing": 0, "requests_total reason=no_credits": 1}
	check("in the end", want)
	if m := guardMetrics(t); m["caddy_keytoll_observed_total"] < 4 || m["caddy_keytoll_counters"] < 2 {
		t.Errorf("observed %v, counters %v", m["caddy_keytoll_observed_total"], m["caddy_keytoll_counters"])
	}
	before := guardMetrics(t)
	for i := range 20 { // customers are no series
		_, other := g.key("other"+strconv.Itoa(i), hourly(1000))
		g.do("GET", "/", "X-Api-Key: "+other).expect(t, 200)
	}
	g.settled()
	if a, b := slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(guardMetrics(t))); !slices.Equal(a, b) {
		t.Errorf("series grow with customers: %v, then %v", a, b)
	}
	want["credits_total op=charged"] += 20
	g.load(metricsPlan, "keytoll {\n charge 2\n }\n reverse_proxy {upstream}")
	check("after a reload", want)
}

// Without a meter there are none of its metrics.
func TestMetricsWithoutMetering(t *testing.T) {
	newGateway(t, "", plainGate)
	m := guardMetrics(t)
	if _, ok := m["caddy_keytoll_store_errors_total"]; !ok {
		t.Error("no metrics")
	}
	for name := range m {
		if strings.Contains(name, "keytoll_credits") || strings.Contains(name, "keytoll_counters") {
			t.Error(name)
		}
	}
}

// exported returns keytoll's metrics and, by "metric label", the values of labels.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]string)
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "caddy_keytoll_") {
			continue
		}
		all[f.GetName()] = nil
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				name := f.GetName() + " " + l.GetName()
				all[name] = append(all[name], l.GetValue())
			}
		}
	}
	return all
}

var (
	metricName    = regexp.MustCompile(`caddy_keytoll_[a-z_]+`)
	metricMatcher = regexp.MustCompile(`(caddy_keytoll_[a-z_]+)\{([^}]*)\}`)
	labelMatcher  = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
)

// checkExpr fails if an expression speaks of a metric, label or value that is
// not exported, and notes the metrics in used.
func checkExpr(t *testing.T, expr string, all map[string][]string, used map[string]bool) {
	t.Helper()
	name := func(s string) string {
		if _, ok := all[s]; ok {
			return s
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			s = strings.TrimSuffix(s, suffix)
		}
		return s
	}
	for _, s := range metricName.FindAllString(expr, -1) {
		if _, ok := all[name(s)]; !ok {
			t.Errorf("%s is not exported: %s", s, expr)
		}
		used[name(s)] = true
	}
	for _, m := range metricMatcher.FindAllStringSubmatch(expr, -1) {
		for _, l := range labelMatcher.FindAllStringSubmatch(m[2], -1) {
			if l[1] == "job" || l[1] == "instance" {
				continue
			}
			for v := range strings.SplitSeq(l[3], "|") {
				if !slices.Contains(all[name(m[1])+" "+l[1]], v) {
					t.Errorf("%s has no %s %q: %s", m[1], l[1], v, expr)
				}
			}
		}
	}
	for _, pair := range []string{"()", "{}", "[]"} {
		if strings.Count(expr, pair[:1]) != strings.Count(expr, pair[1:]) {
			t.Errorf("%s do not match: %s", pair, expr)
		}
	}
	if !strings.Contains(expr, "caddy_keytoll_") {
		t.Errorf("nothing of ours: %q", expr)
	}
	// A counter is of use only as a rate.
	for _, s := range regexp.MustCompile(`(\w*)\((caddy_keytoll_[a-z_]+_(?:total|bucket|sum|count))\b`).FindAllStringSubmatch(expr, -1) {
		if s[1] != "rate" && s[1] != "increase" {
			t.Errorf("%s of a counter: %s", s[1], expr)
		}
	}
}

func TestDashboard(t *testing.T) {
	newGateway(t, metricsPlan, metricsSite)
	all := exported(t)
	text, err := os.ReadFile("../testdata/grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID, Title    string
		SchemaVersion int
		Panels        []struct {
			ID          int
			Type, Title string
			GridPos     struct{ H, W, X, Y int }
			Targets     []struct {
				RefID, Expr string
				Datasource  struct{ Type, UID string }
			}
		}
		Templating struct{ List []struct{ Name, Type string } }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 39 || len(d.Templating.List) != 3 {
		t.Errorf("%q %q %d %v", d.UID, d.Title, d.SchemaVersion, d.Templating)
	}
	used, ids := make(map[string]bool), make(map[int]bool)
	taken := make(map[[2]int]string)
	for _, p := range d.Panels {
		if p.Title == "" || ids[p.ID] || (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %d %q: a title, an id of its own and targets are wanted", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok || x > 23 {
					t.Fatalf("%q lies over %q or the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" || target.RefID == "" {
				t.Errorf("%q: %+v", p.Title, target)
			}
			checkExpr(t, target.Expr, all, used)
		}
	}
	for name := range all {
		if !strings.Contains(name, " ") && !used[name] {
			t.Errorf("%s is in no panel", name)
		}
	}
	if len(used) < 13 {
		t.Errorf("only %d metrics", len(used))
	}
}

func TestAlerts(t *testing.T) {
	newGateway(t, metricsPlan, metricsSite)
	all := exported(t)
	f, err := os.Open("../testdata/grafana/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	used, names := make(map[string]bool), make(map[string]bool)
	for _, group := range rules.Groups {
		for _, r := range group.Rules {
			if _, err := time.ParseDuration(r.For); err != nil || r.Alert == "" || names[r.Alert] || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%+v, %v", r, err)
			}
			names[r.Alert] = true
			checkExpr(t, r.Expr, all, used)
		}
	}
	for _, name := range []string{"store_errors_total", "counters_failing", "requests_total", "quota_refusals_total"} {
		if !used["caddy_keytoll_"+name] {
			t.Errorf("no alert about %s", name)
		}
	}
}

// answersWithCost answers 200, with a cost if there is one for the path, but /broken with
// 500, and /wait when it may leave.
func answersWithCost(of map[string]string, entered chan<- struct{}, leave <-chan struct{}) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if cost, ok := of[r.URL.Path]; ok {
			w.Header().Set("X-Cost", cost)
		}
		switch r.URL.Path {
		case "/wait":
			entered <- struct{}{}
			<-leave
		case "/broken":
			w.WriteHeader(500)
		}
		return true
	}
}
