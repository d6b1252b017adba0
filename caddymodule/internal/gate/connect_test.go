package gate

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// A WebSocket over HTTP/2 reaches the API as a GET: a rule about GET must not be
// passed by it.
func TestExtendedConnectIsAGetToRules(t *testing.T) {
	var saw string
	g := &Gate{WebSocket: true, AllowHTTP: true, Public: []Match{func(r *http.Request) (bool, error) {
		saw = r.Method
		return true, nil
	}}}
	r := httptest.NewRequest(http.MethodConnect, "/chat", nil)
	r.URL.Path, r.ProtoMajor = "/chat", 2
	r.Header[":protocol"] = []string{"websocket"}
	var c Call
	var asks Asks
	g.Decide(new(State), r, &c, &asks)
	if c.Reason != access.Anonymous || saw != http.MethodGet || r.Method != http.MethodConnect {
		t.Errorf("%s, a rule saw %q, the request is %s now", c.Reason, saw, r.Method)
	}
}
