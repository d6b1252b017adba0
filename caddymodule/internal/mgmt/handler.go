package mgmt

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// Error is what a request was refused with. The handler writes it and the
// client returns it.
type Error struct {
	Status  int    `json:"-"` // of HTTP
	Code    string `json:"code"`
	Message string `json:"message"`
	Field   string `json:"field,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

type errorBody struct {
	Error *Error `json:"error"`
}

// Handler serves the operator door. It may be used by many requests at once.
type Handler struct {
	// OnInternal is told of faults whose text clients are not shown. Set it before
	// the first request; nil drops them.
	OnInternal func(r *http.Request, err error)

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
	h.route("/keys", methods{"GET": serveJSON(h, http.StatusOK, listKeys)})
	h.route("/keys/{key}", methods{
		"GET":    serveJSON(h, http.StatusOK, showKey),
		"PATCH":  serveJSON(h, http.StatusOK, updateKey),
		"DELETE": serveJSON(h, http.StatusOK, revokeKey),
	})
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is nothing at this path"})
	})
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	h.mux.ServeHTTP(w, r)
}

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
	header http.Header // of the answer
	status func() any
}

// serveJSON makes a handler of a route. It alone decodes bodies, maps errors
// and writes answers.
func serveJSON[Req, Resp any](h *Handler, status int, route func(*call, Req) (Resp, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req Req
		if _, bare := any(req).(none); !bare {
			if err := decode(w, r, &req); err != nil {
				h.fail(w, r, err)
				return
			}
		}
		reg, err := h.registrar()
		if err != nil {
			h.fail(w, r, notRunning(err))
			return
		}
		resp, err := route(&call{Request: r, Registrar: reg, header: w.Header(), status: h.status}, req)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		if _, bare := any(resp).(none); bare {
			w.WriteHeader(status)
			return
		}
		h.write(w, r, status, resp)
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
	body, _ := json.Marshal(errorBody{e}) // strings alone: cannot fail
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(body, '\n'))
}

var statuses = map[registrar.Code]int{
	registrar.NotFound:       http.StatusNotFound,
	registrar.Exists:         http.StatusConflict,
	registrar.Conflict:       http.StatusConflict,
	registrar.InvalidRequest: http.StatusBadRequest,
	registrar.Unavailable:    http.StatusServiceUnavailable,
}

// shown returns what a client may know of err.
func shown(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*registrar.Error](err); ok {
		return &Error{Status: statuses[e.Code], Code: string(e.Code), Message: e.Message, Field: e.Field, Hint: e.Hint}
	}
	return &Error{Status: http.StatusInternalServerError, Code: "internal", Message: "something went wrong in the server",
		Hint: "the server's log says what"}
}

func notRunning(err error) error {
	if e, ok := errors.AsType[*registrar.Error](err); ok {
		return e
	}
	return &registrar.Error{Code: registrar.Unavailable, Message: "keytoll is not running in this server",
		Hint: "add the keytoll directive to a site of the configuration and load it"}
}
