package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// reportedBYOK is a gate with running costs and provider keys.
func reportedBYOK(price string) string {
	return "keytoll_api charges {\n base /charges\n}\n" +
		"keytoll {\n charge " + price + "\n charge_report X-Charge-Report\n byok\n}\nreverse_proxy {upstream}"
}

// A provider key that turns out not to be used does not keep a stream going for
// which there are no credits: from its answer on it is charged as it goes on.
func TestRunningCostAfterAWrongGuess(t *testing.T) {
	for _, used := range []string{"openai", "elevenlabs"} {
		g := newGateway(t, strings.Replace(byokOptions, "1000000/month", "10/month", 1), reportedBYOK("1"))
		_, key := g.key("acme", hourly(1000))
		n := newNarrator(g.upstream)
		g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X-Provider-Used", used)
			n.capability <- r.Header.Get("X-Charge-Report")
			<-n.tell
			w.(http.Flusher).Flush()
			select {
			case <-n.tell:
			case <-r.Context().Done():
			}
			return true
		})
		req := g.request(t, "GET", "/", nil, "X-Api-Key: "+key, elevenHeader+": "+elevenKey)
		answered := make(chan *http.Response, 1)
		go func() {
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				close(answered)
				return
			}
			answered <- resp
		}()
		capability := <-n.capability
		g.report(t, plainClient, capability, `{"credits":8}`).expect(t, 204)
		if got := g.used("acme"); got != 0 {
			t.Errorf("%s used before it is known whose key is", got)
		}
		n.tell <- "answer"
		resp := <-answered
		if resp == nil {
			t.FailNow()
		}
		if used == "elevenlabs" { // his own
			g.report(t, plainClient, capability, `{"credits":80}`).expect(t, 204)
			n.tell <- "end"
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Error(err)
			}
			g.ended(1)
			if got := g.used("acme"); got != 0 {
				t.Errorf("used %s with a key of his own", got)
			}
			continue
		}
		g.report(t, plainClient, capability, `{"credits":9}`).expect(t, 204)
		if got := g.used("acme"); got != 9*credits {
			t.Errorf("used %s, want 9", got)
		}
		if r := g.report(t, plainClient, capability, `{"credits":12}`).expect(t, 402); !strings.Contains(r.body, `"credits_needed":12,"credits_available":10`) {
			t.Errorf("body %s", r.body)
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the answer looks whole")
		}
		g.ended(1)
		if got := g.used("acme"); got != 12*credits {
			t.Errorf("used %s, want 12", got)
		}
	}
}

// Who overdrew his credits by wrong guesses is trusted no longer where the price
// is nothing and the running cost is all.
func TestRunningCostOfWhoIsNotTrusted(t *testing.T) {
	g := newGateway(t, strings.Replace(byokOptions, "1000000/month", "10/month", 1), reportedBYOK("0"))
	_, key := g.key("acme", hourly(1000))
	want, reported := 204, make(chan struct{}, 2)
	g.upstream.respond(func(w http.ResponseWriter, r *http.Request) bool {
		g.report(t, plainClient, r.Header.Get("X-Charge-Report"), `{"credits":15}`).expect(t, want)
		reported <- struct{}{}
		w.Header().Set("X-Provider-Used", "openai")
		return false
	})
	g.do("GET", "/", "X-Api-Key: "+key, elevenHeader+": "+elevenKey).expect(t, 200)
	g.ended(1)
	want = 402
	_, _ = http.DefaultTransport.RoundTrip(g.request(t, "POST", "/", nil, "X-Api-Key: "+key, elevenHeader+": "+elevenKey))
	g.ended(2)
	for range 2 { // the second report ends its request, perhaps before it is answered itself
		<-reported
	}
	if got := g.used("acme"); got != 30*credits {
		t.Errorf("used %s, want 30", got)
	}
}
