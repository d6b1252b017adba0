package gate

import (
	"net/http"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// screen refuses what is refused whatever the credential.
func (g *Gate) screen(r *http.Request, c *Call) access.Reason {
	switch r.Method {
	case http.MethodTrace:
		return access.MethodNotAllowed
	case http.MethodConnect:
		if !g.WebSocket || !ExtendedConnect(r) {
			return access.MethodNotAllowed
		}
	}
	if r.TLS != nil && !r.TLS.HandshakeComplete && !safe(r.Method) {
		return access.TooEarly
	}
	if !c.Secure && !g.AllowHTTP {
		return access.InsecureTransport
	}
	if g.NormalForm && !normal(r) {
		return access.NotNormal
	}
	return access.Allowed
}

// ShowGet makes a WebSocket over HTTP/2 or HTTP/3 look like the GET that the API
// gets, which is what rules about methods are to see, until undo is called.
func ShowGet(r *http.Request) (undo func()) {
	r.Method = http.MethodGet
	return func() { r.Method = http.MethodConnect }
}

// ExtendedConnect reports whether r opens a WebSocket over HTTP/2 or HTTP/3
// (RFC 8441, RFC 9220).
func ExtendedConnect(r *http.Request) bool {
	if r.Method != http.MethodConnect {
		return false
	}
	if r.ProtoMajor == 2 {
		p := r.Header[":protocol"]
		return len(p) == 1 && p[0] == "websocket"
	}
	return r.ProtoMajor == 3 && r.Proto == "websocket"
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) > 0 && len(r.Header["Access-Control-Request-Method"]) > 0
}
