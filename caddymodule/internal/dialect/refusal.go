package dialect

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// failure is what the body of an error is made of.
type failure struct {
	status        int
	code, message string
	details       []detail
}

// compileReason makes the answer to one reason ready.
func (c *Compiled) compileReason(r access.Reason) {
	row := r.Answer()
	f := failure{status: row.Status, code: c.code(row.Code), message: row.Message}
	if r == access.NoCredits {
		f.details = compileDetails(map[string]string{c.cased("credits_needed"): "{credits_needed}", c.cased("credits_available"): "{credits_available}"})
	}
	f = c.override(r.String(), f)
	c.failures[r] = f
	c.refusals[r] = Refusal{
		Status: f.status, Body: c.body(&f, &Values{}), ContentType: c.contentType,
		Dynamic: slices.ContainsFunc(f.details, func(d detail) bool { return d.dynamic() }),
	}
}

func (c *Compiled) compileForeign() {
	if c.d.Foreign == http.StatusForbidden {
		f := c.failures[access.WrongTenant]
		f.status = http.StatusForbidden
		c.foreign = Refusal{Status: f.status, Body: c.body(&f, &Values{}), ContentType: c.contentType}
		return
	}
	status, body, contentType := c.Error(http.StatusNotFound, "not_found", "There is no such API key", "", "", Values{})
	c.foreign = Refusal{Status: status, Body: body, ContentType: contentType}
}

// override applies what the dialect says of a label.
func (c *Compiled) override(label string, f failure) failure {
	a := c.d.Reasons[label]
	if a == nil {
		return f
	}
	if a.Status != 0 {
		f.status = a.Status
	}
	f.code, f.message = or(a.Code, f.code), or(a.Message, f.message)
	if a.Details != nil {
		f.details = compileDetails(a.Details)
	}
	return f
}

// cased writes a name that is not a field's in the dialect's case.
func (c *Compiled) cased(name string) string {
	if c.d.Fields == "camel" {
		return camel(name)
	}
	return name
}

func (c *Compiled) code(code string) string {
	if c.d.Codes == "upper" {
		return strings.ToUpper(code)
	}
	return code
}

// Refusal returns the answer to a reason that does not let in. It allocates
// nothing.
func (c *Compiled) Refusal(r access.Reason) Refusal { return c.refusals[r] }

// RefusalBody returns the body for a reason whose Refusal is Dynamic.
func (c *Compiled) RefusalBody(r access.Reason, v Values) []byte { return c.body(&c.failures[r], &v) }

// Foreign returns the answer for an id that is not the caller's or does not
// exist. It is never Dynamic.
func (c *Compiled) Foreign() Refusal { return c.foreign }

// Error returns the answer to an error of the management API: status, body and
// content type. The code is keytoll's own, such as not_found, for which the
// dialect may say something else. Field may be a canonical field, which is named
// as the product does. Field and hint become details, unless the dialect lists
// those of the code; both may be empty.
func (c *Compiled) Error(status int, code, message, field, hint string, v Values) (int, []byte, string) {
	v.Field = c.inputName(field)
	f := failure{status: status, code: c.code(code), message: message}
	if v.Field != "" {
		f.details = append(f.details, detail{"field", []piece{{text: v.Field}}})
	}
	if hint != "" {
		f.details = append(f.details, detail{"hint", []piece{{text: hint}}})
	}
	f = c.override(labelOf(code), f)
	return f.status, c.body(&f, &v), c.contentType
}

// labelOf returns the label under which a dialect speaks of an error of the
// management API: its code, but for errors that the gate knows as well.
func labelOf(code string) string {
	for _, r := range []access.Reason{access.RateLimited, access.UpstreamFailed} {
		if code == r.Answer().Code {
			return r.String()
		}
	}
	return code
}

// inputName returns the name by which clients know a field. A name that they
// use already stays.
func (c *Compiled) inputName(field string) string {
	var same string
	for _, action := range []string{Create, Update, Rotate} {
		s := c.shapes[action]
		if s == nil { // the answer of Foreign is made before the shapes are
			continue
		}
		for _, in := range s.inputs {
			if in.name == field {
				return field
			}
			if same == "" && kin(in.field) == kin(field) {
				same = in.name
			}
		}
	}
	if same != "" {
		return same
	}
	return c.d.name(field)
}

// kin returns one word for all fields that set the same thing.
func kin(field string) string {
	switch field {
	case "expires_in_days", "expires_in_seconds":
		return "expires_at"
	case "rate_per_minute":
		return "rate"
	case "grace":
		return "grace_seconds"
	}
	return field
}

// body writes the whole body of an error.
func (c *Compiled) body(f *failure, v *Values) []byte {
	var details []byte
	for i := range f.details {
		details = f.details[i].append(details, v)
	}
	b := make([]byte, 0, 96+len(f.message)+len(details))
	switch c.d.Errors {
	case "problem":
		b = append(b, `{"type":"about:blank"`...)
		b = appendString(appendName(b, "title"), http.StatusText(f.status))
		b = strconv.AppendInt(appendName(b, "status"), int64(f.status), 10)
		b = appendString(appendName(b, "detail"), f.message)
		b = appendString(appendName(b, "code"), f.code)
		return append(appendBeside(b, details), '}', '\n')
	case "flat":
		b = c.said(append(b, '{'), f)
		return append(appendBeside(b, details), '}', '\n')
	case "success":
		b = c.said(append(b, `{"success":false,"error":{`...), f)
		b = append(appendName(b, "details"), '{')
		return append(append(b, details...), '}', '}', '}', '\n')
	}
	b = c.said(append(b, `{"error":{`...), f)
	if len(details) > 0 {
		b = append(append(append(appendName(b, "details"), '{'), details...), '}')
	}
	return append(b, '}', '}', '\n')
}

// said writes the code and the message.
func (c *Compiled) said(b []byte, f *failure) []byte {
	b = appendString(appendName(b, "code"), f.code)
	return appendString(appendName(b, "message"), f.message)
}
