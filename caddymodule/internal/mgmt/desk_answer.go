package mgmt

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// input reads the body by the dialect, and the header Idempotency-Key.
func (v *visit) input() (*dialect.Input, *registrar.Idempotency, error) {
	body, err := v.body()
	if err != nil {
		return nil, nil, err
	}
	in, err := v.o.Dialect.Input(v.action, body)
	if err != nil {
		return nil, nil, err
	}
	v.in = in
	once, err := idempotency(v.r, v.caller.Key.String(), body)
	return in, once, err
}

// body reads the body of a request without parameters.
func (v *visit) body() ([]byte, error) {
	if _, err := v.query(); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(v.w, v.r.Body, maxBody))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &Error{Status: http.StatusRequestEntityTooLarge, Code: "body_too_large",
			Message: "the body is longer than " + strconv.Itoa(maxBody) + " bytes"}
	}
	if err != nil {
		return nil, badRequest("", "the body could not be read")
	}
	if t, _, err := mime.ParseMediaType(v.r.Header.Get("Content-Type")); len(body) > 0 && (err != nil || t != "application/json") {
		return nil, &Error{Status: http.StatusUnsupportedMediaType, Code: "unsupported_media_type",
			Message: "the body must be JSON: send the header Content-Type: application/json"}
	}
	return body, nil
}

// write answers with the status of the action. Nil is no body.
func (v *visit) write(body []byte) {
	v.send(v.o.Dialect.Shape(v.action).Status, body, "application/json")
}

func (v *visit) send(status int, body []byte, contentType string) {
	h := v.w.Header()
	if body == nil {
		v.w.WriteHeader(status)
		return
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	v.w.WriteHeader(status)
	if v.r.Method != http.MethodHead {
		_, _ = v.w.Write(body) // a client that has gone needs no answer
	}
}

// refuse answers as the gate would.
func (v *visit) refuse(reason access.Reason, values dialect.Values) {
	a := v.o.Dialect.Refusal(reason)
	body := a.Body
	if a.Dynamic {
		body = v.o.Dialect.RefusalBody(reason, values)
	}
	v.send(a.Status, body, a.ContentType)
}

// fail answers with what a client may know of err. Hints are for operators and
// are left out. What belongs to another tenant and what does not exist is one
// answer, with nothing in it that depends on either.
func (v *visit) fail(err error) {
	if e, ok := errors.AsType[*registrar.Error](err); ok && e.Code == registrar.NotFound {
		a := v.o.Dialect.Foreign()
		v.w.Header().Del("Location")
		v.send(a.Status, a.Body, a.ContentType)
		return
	}
	var e *Error
	if in, ok := errors.AsType[*dialect.InputError](err); ok {
		e = badRequest(in.Field, "%s", in.Message)
	} else {
		e = shown(err)
	}
	e.Field = v.sent(e.Field)
	if e.Status == http.StatusInternalServerError && v.o.OnInternal != nil {
		v.o.OnInternal(v.r, err)
	}
	retry := e.RetryAfter
	if e.Status == http.StatusServiceUnavailable {
		retry = max(retry, 1)
	}
	if retry > 0 {
		v.w.Header().Set("Retry-After", strconv.FormatInt(retry, 10))
	}
	values := dialect.Values{KeyID: v.caller.Key.String(), Field: e.Field, RetryAfter: e.RetryAfter}
	v.send(v.o.Dialect.Error(e.Status, e.Code, e.Message, e.Field, "", values))
}

// sent returns the name under which the client gave a field that can be given
// in several ways.
func (v *visit) sent(field string) string {
	switch {
	case v.in == nil:
	case (field == "expires_at" || field == "expires_in") && v.in.ExpiryName != "":
		return v.in.ExpiryName
	case strings.HasPrefix(field, "rate") && v.in.RateName != "":
		return v.in.RateName
	}
	return field
}
