package main

import (
	"fmt"
	"slices"
	"strings"
)

// variant is one configuration of the proxy, measured in a process of its own.
type variant struct {
	name  string
	base  string // the variant it is compared with; empty for none
	about string
	gate  bool   // has the gate, and so a store
	bad   bool   // gets a key that does not exist, and answers 401
	site  string // directives before reverse_proxy
	proxy string // options of reverse_proxy
	last  string // in place of reverse_proxy
	tune  string // options of keytoll
	log   string // global log option
	sees  int    // headers of ours that the upstream must see
}

const (
	respondStatic = `header Content-Type application/json
		header Cache-Control no-store
		respond <<JSON
		{"error":{"code":"unauthorized","message":"Invalid or missing API key"}}
		JSON 401`
	fiveHeaders = `keytoll {
			inject X-Plan {http.keytoll.plan}
			inject X-Environment {http.keytoll.environment}
			inject X-Tenant-Name {http.keytoll.tenant.name}
		}`
	gateLog = `log {
			output stdout
			format filter {
				request keytoll
				resp_headers keytoll
			}
		}
		keytoll`
	tunedTransport = `transport http {
				keepalive_idle_conns_per_host 512
				compression off
			}`
	quietProxy = `log default {
		exclude http.handlers.reverse_proxy
	}`
)

// variants are all there are. Bases stand before what is compared with them.
var variants = []variant{
	{name: "bare", about: "stock Caddy: reverse_proxy alone"},
	{name: "again", base: "bare", about: "a second process of bare: the noise of this machine"},
	{name: "identity", base: "bare", gate: true, sees: 2, site: "keytoll {\n\t\t\trate_headers off\n\t\t}",
		about: "the gate with X-Tenant-Id and X-Key-Id, without rate headers"},
	{name: "default", base: "bare", gate: true, sees: 2, site: "keytoll",
		about: "the gate as it comes: two identity headers, three rate headers"},
	{name: "five", base: "bare", gate: true, sees: 5, site: fiveHeaders,
		about: "five identity headers, three rate headers"},
	{name: "tuned", base: "bare", gate: true, sees: 2, site: "keytoll", proxy: tunedTransport, tune: "gc 400 1GiB", log: quietProxy,
		about: "default in the configuration for production, against stock Caddy"},
	{name: "bare-log", site: "log {\n\t\t\toutput stdout\n\t\t}", about: "bare with an access log to /dev/null"},
	{name: "log", base: "bare-log", gate: true, sees: 2, site: gateLog,
		about: "default with that log and the log filter"},
	{name: "static-401", last: respondStatic, bad: true, about: "Caddy's respond 401 with the gate's body and two headers"},
	{name: "empty-401", base: "static-401", last: "respond 401", bad: true, about: "Caddy's respond 401 with nothing in it"},
	{name: "refused", base: "static-401", gate: true, bad: true, site: "keytoll", tune: "throttle_failures off",
		about: "default refusing a well-formed key that does not exist"},
}

// limits are what the ratio of a variant should reach, by the number of keys.
func (v *variant) limit(keys int) float64 {
	switch v.name {
	case "default":
		switch {
		case keys <= 1000:
			return 1.05
		case keys <= 100_000:
			return 1.06
		}
		return 1.10
	case "five":
		return 1.12
	case "tuned":
		return 0.80
	case "refused":
		return 1
	}
	return 0
}

// maxAllocs is how many heap allocations per request a variant may be over its
// base, or 0 for any number.
func (v *variant) maxAllocs() float64 {
	if v.name == "identity" || v.name == "default" {
		return 10
	}
	return 0
}

// selectVariants returns the variants of a comma-separated list and the bases
// they need, in the order of variants. An empty list is all.
func selectVariants(list string) ([]*variant, error) {
	want := make(map[string]bool)
	for _, name := range strings.Split(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		i := slices.IndexFunc(variants, func(v variant) bool { return v.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown variant %q: want some of %s", name, variantNames())
		}
		want[name] = true
		if b := variants[i].base; b != "" {
			want[b] = true
		}
	}
	var chosen []*variant
	for i := range variants {
		if len(want) == 0 || want[variants[i].name] {
			chosen = append(chosen, &variants[i])
		}
	}
	return chosen, nil
}

func variantNames() string {
	names := make([]string, len(variants))
	for i := range variants {
		names[i] = variants[i].name
	}
	return strings.Join(names, ",")
}

// place is where a variant listens and finds its files.
type place struct{ admin, store, listen, upstream string }

// caddyfile returns the configuration of a variant.
func (v *variant) caddyfile(p place) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{\n\tadmin unix/%s\n\tpersist_config off\n", p.admin)
	if v.log != "" {
		fmt.Fprintf(&b, "\t%s\n", v.log)
	}
	if v.gate {
		fmt.Fprintf(&b, `	keytoll {
		storage bolt {
			path %s
		}
		master_key {env.KEYTOLL_MASTER_KEY}
		keys {
			prefix %s %s
		}
		plan %s {
			rate 1000000/1s
		}
		default_plan %[4]s
		%s
	}
`, p.store, keyPrefix, environment, planName, v.tune)
	}
	end := v.last
	if end == "" {
		end = "reverse_proxy " + p.upstream
		if v.proxy != "" {
			end += " {\n\t\t\t" + v.proxy + "\n\t\t}"
		}
	}
	fmt.Fprintf(&b, "}\nhttp://%s {\n\t%s\n\t%s\n}\n", p.listen, v.site, end)
	return b.String()
}
