package mgmt

import (
	"errors"
	"net/http"

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

	RetryAfter int64 `json:"-"` // seconds, for the header; 0: none
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

type errorBody struct {
	Error *Error `json:"error"`
}

var statuses = map[registrar.Code]int{
	registrar.NotFound:       http.StatusNotFound,
	registrar.Exists:         http.StatusConflict,
	registrar.Conflict:       http.StatusConflict,
	registrar.Forbidden:      http.StatusForbidden,
	registrar.Mismatch:       http.StatusUnprocessableEntity,
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
