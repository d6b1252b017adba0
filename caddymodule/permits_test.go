package caddymodule

import (
	"strings"
	"testing"
)

// Rules that did not come by way of a Caddyfile.
func TestProvisionRefusesBadRules(t *testing.T) {
	const known = `"permissions":{"rules:read":{}}`
	for _, c := range []struct{ name, app, gate, want string }{
		{"permission name", `"permissions":{"a b":{}}`, ``, `permission "a b"`},
		{"permission wildcard", `"permissions":{"a:*":{}}`, ``, "wildcard"},
		{"permission circle", `"permissions":{"a":{"implies":["a"]}}`, ``, "permission a implies itself"},
		{"permission implies unknown", `"permissions":{"a":{"implies":["b"]}}`, ``, "which is not defined"},
		{"permission description", `"permissions":{"a":{"description":"\u0007"}}`, ``, "control character"},
		{"plan permission", known + `,"plans":{"p":{"permissions":["rules:raed"]}}`, ``, "plan p: permission rules:raed is not defined: did you mean rules:read?"},
		{"plan max_keys", `"plans":{"p":{"max_keys":-1}}`, ``, "max_keys -1"},
		{"tenant permission", known + `,"tenants":{"t":{"permissions":["other"]}}`, ``, "tenant t: permission other is not defined"},
		{"policy", `"key_policy":{"max_expiry":-1}`, ``, "key_policy: max_expiry"},
		{"policy order", `"key_policy":{"max_expiry":"1d","default_expiry":"2d"}`, ``, "longer than max_expiry"},
		{"policy notice", `"key_policy":{"expiry_notice":["1d","1d"]}`, ``, "longest first"},
		{"audit", `"audit":{"retain":"1h"}`, ``, "from 1d to ten years"},
		{"dialect null", `"dialects":{"x":null}`, ``, "dialect x is null"},
		{"dialect wrong", `"dialects":{"x":{"errors":"html"}}`, ``, "dialect x"},
		{"default dialect", `"dialect":"x"`, ``, "there is no dialect x"},
		{"gate dialect", ``, `"dialect":"x"`, "there is no dialect x"},
		{"permit null", ``, `"permits":[null]`, "permit 1 is null"},
		{"permit unknown", known, `"permits":[{"needs":["rules:read"]},{"needs":["rules:write"]}]`, "permit 2: permission rules:write is not defined"},
		{"permit match", ``, `"permits":[{"match":[{"nope":{}}]}]`, "permit 1"},
		{"permit base", ``, `"permits":[{"base":"/v1"}]`, "base stands with openapi alone"},
		{"permit two", ``, `"permits":[{"openapi":"x.yaml","needs":["a"]}]`, "give it or needs"},
		{"permit file", ``, `"permits":[{"openapi":"/none/x.yaml"}]`, "/none/x.yaml"},
		{"guard null", ``, `"guards":[null]`, "guard 1 is null"},
		{"guard nothing", ``, `"guards":[{}]`, "exactly one placeholder"},
		{"guard text", ``, `"guards":[{"value":"acme"}]`, "exactly one placeholder"},
		{"guard nested", ``, `"guards":[{"value":"{http.{x}}"}]`, "exactly one placeholder"},
		{"guard file", ``, `"guards":[{"value":"{file./etc/hostname}"}]`, "not a value of the request"},
		{"guard match", ``, `"guards":[{"value":"{http.request.host}","match":[{"nope":{}}]}]`, "guard 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := adaptProvision(adaptJSON(c.app, c.gate))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	for _, c := range []struct{ app, gate string }{
		{``, `"permits":[{},{"needs":["any"]}],"guards":[{"value":"{http.request.host.labels.2}"}],"dialect":"prosopo"`},
		{known + `,"plans":{"p":{"permissions":[]}},"dialect":"mine","dialects":{"mine":{}}`, `"permits":[{"needs":["rules:*"]}]`},
	} {
		if err := adaptProvision(adaptJSON(c.app, c.gate)); err != nil {
			t.Errorf("%s %s: %v", c.app, c.gate, err)
		}
	}
}
