package registrar

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytoll/keytoll/caddymodule/store"
)

// Code says what kind of refusal an Error is. Codes are part of the HTTP API.
type Code string

// The codes.
const (
	NotFound       Code = "not_found"            // there is no record of that id
	Exists         Code = "exists"               // a record of that id is there already
	Conflict       Code = "conflict"             // the record is not in a state that allows it
	Forbidden      Code = "forbidden"            // it would give more than the caller has
	Mismatch       Code = "idempotency_mismatch" // the idempotency key was used for another request
	InvalidRequest Code = "invalid_request"      // the request is wrong whatever is stored
	Unavailable    Code = "unavailable"          // the store is not open, or no longer
)

// Error is a refusal in words that may be shown. Nothing was changed.
type Error struct {
	Code    Code
	Message string // lower case, no full stop
	Field   string // the field at fault, as named in the HTTP API; may be empty
	Hint    string // the next step, often a command; may be empty

	cause error // not for showing; may be nil
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what lies behind the refusal, such as audit.ErrBroken, or nil.
func (e *Error) Unwrap() error { return e.cause }

func invalid(field, format string, args ...any) *Error {
	return &Error{Code: InvalidRequest, Field: field, Message: fmt.Sprintf(format, args...)}
}

// errUnchanged ends a transaction that found nothing to do, so that asking
// twice costs no commit.
var errUnchanged = errors.New("unchanged")

// public turns what a transaction returned into what a method returns: an
// *Error where the cause is one that the caller can act upon.
func public(doing string, err error) error {
	if err == nil || errors.Is(err, errUnchanged) {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, store.ErrClosed):
		return &Error{Code: Unavailable, Message: "the key store is closed", Hint: "try again when the server has started"}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: Unavailable, Message: "the request ended before the key store answered", Hint: "try again"}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func noTenant(id string) *Error {
	return &Error{
		Code:    NotFound,
		Message: fmt.Sprintf("there is no tenant %q", id),
		Field:   "tenant",
		Hint:    "caddy keytoll tenants create " + id,
	}
}

func noKey(id fmt.Stringer) *Error {
	return &Error{
		Code:    NotFound,
		Message: fmt.Sprintf("there is no key %s", id),
		Field:   "key",
		Hint:    "caddy keytoll keys list",
	}
}
