package caddymodule

import (
	"strings"
	"testing"
)

// A door to counts that nobody makes, and one that is open by oversight, are
// errors of the configuration.
func TestUsageDoorConfiguration(t *testing.T) {
	const door = "\nkeytoll_api usage {\n\tbase /v1/usage\n}\nkeytoll\nreverse_proxy {upstream}\n"
	g := newGateway(t, "", plainGate)
	for options, want := range map[string]string{
		"":                                 "nothing to show",
		"permission read" + meteredOptions: "must say which a key needs",
	} {
		if err := g.tryLoad(g.text(options, door)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", options, err)
		}
	}
	g.load(meteredOptions, door)
}

// Without metering the doors show grants, and say that nothing is counted.
func TestDoorsWithoutMetering(t *testing.T) {
	g := newGateway(t, "", plainGate)
	g.key("acme", hourly(10))
	g.operator("POST", "/tenants/acme/credits/grants", `{"amount":3}`).expect(t, 201)
	r := g.operator("GET", "/tenants/acme/credits", "").expect(t, 200)
	says(t, r.body, `"limit":null`, `"amount":3,"remaining":3,`)
	says(t, g.operator("GET", "/usage", "").expect(t, 503).body, "nothing is counted")
}

// What is only observed is shown with its own bound, and requests that it would
// have refused are told apart.
func TestDoorsShowWhatIsObserved(t *testing.T) {
	g := newGateway(t, "plan free {\n\tcredits 2/day observe\n\tquota 1/hour observe\n}\ndefault_plan free", meteredSite)
	id, key := g.key("acme", hourly(1000))
	g.operator("PUT", "/keys/"+id.String()+"/override", `{"credits":1}`).expect(t, 200)
	for range 3 {
		g.do("GET", "/", "X-Api-Key: "+key).expect(t, 200)
	}
	g.ended(3)
	r := g.operator("GET", "/tenants/acme/credits", "").expect(t, 200)
	says(t, r.body, `"limit":2,"used":2,"remaining":0,"overage":1,`, `{"meter":"requests","per":"hour","limit":1,"used":3,"observe":true,`)
	says(t, g.operator("GET", "/keys/"+id.String(), "").expect(t, 200).body, `"credits":{"limit":1,"used":1,"remaining":0,`)
	says(t, g.operator("GET", "/usage?by=flags&step=day", "").expect(t, 200).body, `"observed":true,"requests":`)
	if r := g.do("GET", "/v1/usage?step=day", "X-Api-Key: "+key).expect(t, 200); strings.Contains(r.body, "observed") {
		t.Errorf("the tenant sees %s", r.body)
	}
}
