package mgmt

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// Handler serves the operator door. It may be used by many requests at once.
// Its fields are set before the first.
type Handler struct {
	// OnInternal is told of faults whose text clients are not shown; nil drops
	// them.
	OnInternal func(r *http.Request, err error)
	// Use returns the last use of a key; nil shows none.
	Use func(access.KeyID) access.Use
	// Backup writes a consistent copy of the store and returns its length in
	// bytes. Nil answers that there is none.
	Backup func(ctx context.Context, w io.Writer) (int64, error)
	// Installation returns the name of the installation, by which an export says
	// whose digests it holds; "" while there is none. Nil is always "".
	Installation func() string
	// Account returns what was counted for a tenant that exists. Nil: nothing is.
	Account func(tenant string) (Account, error)
	// KeyCredits returns what was counted of a key's own credits; Limited is false
	// if it has none. Nil: nothing is. The key is shown without them after an
	// error, which is the caller's to log.
	KeyCredits func(access.KeyID) (credit.Balance, error)
	// Usage returns what counts requests, or the reason why nothing does, which is
	// shown if it is a *registrar.Error. Nil: nothing does.
	Usage func() (*usage.Recorder, error)
	// Verify asks a provider whether the key that a tenant has stored is good, and
	// notes the answer. Its errors are those of the registrar, TooMany, NoVerify
	// and Unreachable. Nil answers that it cannot be done.
	Verify func(ctx context.Context, tenant, provider string) (ProviderVerdict, error)
	// Rekey gives a bounded number of tenants new data keys. A Conflict beside a
	// report that is Done names tenants that could not get one: it becomes Failed.
	// Nil answers that it cannot be done.
	Rekey func(ctx context.Context) (RekeyReport, error)

	registrar func() (*registrar.Registrar, error)
	status    func() any
	mux       *http.ServeMux
}

// NewHandler returns the operator door under Base. The registrar is asked for
// with each request, because a reload may replace it; its error is answered
// with 503, and shown if it is a *registrar.Error. Status returns what GET
// status shows, a struct or map.
func NewHandler(reg func() (*registrar.Registrar, error), status func() any) *Handler {
	h := &Handler{registrar: reg, status: status, mux: http.NewServeMux()}
	h.route("/status", methods{"GET": serveJSON(h, http.StatusOK, showStatus)})
	h.routeTenants()
	h.routeKeys()
	h.routeMetering()
	h.routeProviders()
	h.route("/audit", methods{"GET": serveJSON(h, http.StatusOK, listAudit)})
	h.route("/audit/verify", methods{"GET": serveJSON(h, http.StatusOK, verifyAudit)})
	h.route("/backup", methods{"GET": http.HandlerFunc(h.backup)})
	h.route("/export", methods{"GET": http.HandlerFunc(h.export)})
	h.route("/import", methods{"POST": http.HandlerFunc(h.load)})
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is nothing at this path"})
	})
	return h
}

func (h *Handler) routeTenants() {
	h.route("/tenants", methods{
		"GET":  serveJSON(h, http.StatusOK, listTenants),
		"POST": serveJSON(h, http.StatusCreated, createTenant),
	})
	h.route("/tenants/{tenant}", methods{
		"GET":    serveJSON(h, http.StatusOK, showTenant),
		"PATCH":  serveJSON(h, http.StatusOK, updateTenant),
		"DELETE": serveJSON(h, http.StatusNoContent, deleteTenant),
	})
	h.route("/tenants/{tenant}/keys", methods{
		"GET":  serveJSON(h, http.StatusOK, listKeys),
		"POST": serveJSON(h, http.StatusCreated, createKey),
	})
}

func (h *Handler) routeKeys() {
	h.route("/keys", methods{"GET": serveJSON(h, http.StatusOK, listKeys)})
	h.route("/keys/revoke-secret", methods{"POST": serveJSON(h, http.StatusOK, revokeSecret)})
	h.route("/keys/{key}", methods{
		"GET":    serveJSON(h, http.StatusOK, showKey),
		"PATCH":  serveJSON(h, http.StatusOK, updateKey),
		"DELETE": serveJSON(h, http.StatusOK, revokeKey),
	})
	h.route("/keys/{key}/rotate", methods{"POST": serveJSON(h, http.StatusOK, rotateKey)})
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	h.mux.ServeHTTP(w, r)
}

// actorHeader holds the name of the person at the command line.
const actorHeader = "X-Keytoll-Actor"

type methods map[string]http.Handler

// route answers methods that a path does not have in JSON, which ServeMux's own
// patterns do not.
func (h *Handler) route(path string, ms methods) {
	allow := make([]string, 0, len(ms))
	for m := range ms {
		allow = append(allow, m)
	}
	slices.Sort(allow)
	h.mux.HandleFunc(Base+path, func(w http.ResponseWriter, r *http.Request) {
		if next, ok := ms[r.Method]; ok {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Allow", strings.Join(allow, ", "))
		h.fail(w, r, &Error{Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
			Message: "this method is not allowed here", Hint: "allowed: " + strings.Join(allow, ", ")})
	})
}

// none is the body of a request or an answer that has none.
type none struct{}

// call is what a route works with besides its body.
type call struct {
	*http.Request
	*registrar.Registrar
	door   *Handler
	header http.Header // of the answer
	body   []byte      // of the request, as it came
	status int         // of the answer, if it is not the route's own; else 0
}

// open returns the call of a request, with its actor.
func (h *Handler) open(w http.ResponseWriter, r *http.Request) (*call, error) {
	actor, err := operator(r)
	if err != nil {
		return nil, err
	}
	reg, err := h.registrar()
	if err != nil {
		return nil, notRunning(err)
	}
	r = r.WithContext(registrar.WithActor(r.Context(), actor))
	return &call{Request: r, Registrar: reg, door: h, header: w.Header()}, nil
}

// operator returns who makes a request. The admin endpoint knows no names, so
// the name is the one that the client gives itself.
func operator(r *http.Request) (access.Actor, error) {
	a := access.Actor{Kind: access.ActorOperator, Name: r.Header.Get(actorHeader), Address: r.RemoteAddr}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		a.Address = host
	}
	if err := access.CheckName(a.Name); err != nil {
		return a, badRequest(actorHeader, "%s: %s", actorHeader, err)
	}
	return a, nil
}

// serveJSON makes a handler of a route. It alone decodes bodies, maps errors
// and writes answers.
func serveJSON[Req, Resp any](h *Handler, status int, route func(*call, Req) (Resp, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Req
		var body []byte
		if _, bare := any(req).(none); !bare {
			var err error
			if body, err = decode(w, r, &req); err != nil {
				h.fail(w, r, err)
				return
			}
		}
		c, err := h.open(w, r)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		c.body = body
		resp, err := route(c, req)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		if _, bare := any(resp).(none); bare {
			w.WriteHeader(status)
			return
		}
		h.write(w, r, cmp.Or(c.status, status), resp)
	})
}

func (h *Handler) write(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // a client that has gone needs no answer
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := shown(err)
	if e.Status == http.StatusInternalServerError && h.OnInternal != nil {
		h.OnInternal(r, err)
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(e.RetryAfter, 10))
	}
	body, _ := json.Marshal(errorBody{e}) // strings alone: cannot fail
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(body, '\n'))
}
