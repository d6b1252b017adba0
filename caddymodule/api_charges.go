package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
)

// maxReport bounds the body of a report, in bytes.
const maxReport = 1 << 10

var errNobodyReports = errors.New("keytoll_api charges has nothing to take: no gate has a charge_report")

// provisionCharges makes the endpoint at which the API reports running costs.
func (a *API) provisionCharges(ctx caddy.Context) error {
	mod, err := ctx.App("keytoll")
	if err != nil {
		return fmt.Errorf("getting keytoll app: %w", err)
	}
	app := mod.(*App)
	app.takesReports = true
	app.atStart = append(app.atStart, func() error {
		if !app.reported {
			return errNobodyReports
		}
		return nil
	})
	a.desk = &charges{app, a.Base}
	return nil
}

// charges answers reports: 204 for one that was taken, 402 if the credits do
// not last, which ends the request that it is about, 404 for a capability that
// is unknown or whose request has ended, 400, 405 or 413 for what is no report,
// and 503 if it could not be written, so that it comes again. A total that is
// lower than one before changes nothing. The capability comes as a bearer token:
// a path would be in logs and traces.
type charges struct {
	app  *App
	base string
}

// ServeHTTP implements http.Handler. The path is the base, in any case of
// letters, or below it.
func (h *charges) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuseReport(w, http.StatusMethodNotAllowed, "method_not_allowed", "")
		return
	}
	by := h.find(r)
	if by == nil { // not worth reading
		refuseReport(w, http.StatusNotFound, "not_found", "")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReport))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		refuseReport(w, http.StatusRequestEntityTooLarge, "too_large", "")
		return
	}
	total, ok := parseReport(body)
	if err != nil || !ok {
		refuseReport(w, http.StatusBadRequest, "invalid_request", `want {"credits": n}, n from 0 to 1000000000000 with at most 6 decimals`)
		return
	}
	switch taken, needed, available := by.Report(total); taken {
	case engine.ReportTaken:
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusNoContent)
	case engine.ReportOver:
		refuseReport(w, http.StatusNotFound, "not_found", "")
	case engine.ReportExhausted:
		w.WriteHeader(http.StatusPaymentRequired)
		fmt.Fprintf(w, `{"error":"insufficient_credits","credits_needed":%s,"credits_available":%s}`, needed, available)
	case engine.ReportRefused:
		refuseReport(w, http.StatusBadRequest, "invalid_request", "more than can be counted")
	default:
		refuseReport(w, http.StatusServiceUnavailable, "unavailable", "")
	}
}

// find returns the request that a report has the capability of, or nil.
func (h *charges) find(r *http.Request) engine.Reporter {
	m, values := h.app.metering, r.Header["Authorization"]
	if h.app.engine.Load() == nil || m == nil || len(values) != 1 || strings.TrimSuffix(r.URL.Path[len(h.base):], "/") != "" {
		return nil
	}
	scheme, capability, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	return m.Reports.Find(capability)
}

// parseReport reads {"credits": n} and nothing else: no other member, no second
// one, no name in other letters, each of which another reader may take for
// something else.
func parseReport(body []byte) (total access.Credits, ok bool) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var tokens [4]json.Token
	for i := range tokens {
		var err error
		if tokens[i], err = d.Token(); err != nil {
			return 0, false
		}
	}
	amount, isNumber := tokens[2].(json.Number)
	if tokens[0] != json.Delim('{') || tokens[1] != "credits" || !isNumber || tokens[3] != json.Delim('}') {
		return 0, false
	}
	if _, err := d.Token(); err != io.EOF {
		return 0, false
	}
	total, err := access.ParseCredits(amount.String())
	return total, err == nil
}

func refuseReport(w http.ResponseWriter, status int, code, message string) {
	out := struct {
		Error   string `json:"error"`
		Message string `json:"message,omitempty"`
	}{code, message}
	text, _ := json.Marshal(out)
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
