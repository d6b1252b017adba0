package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
)

// Injection is a header set on requests to the API.
type Injection struct {
	// The header's name.
	Header string `json:"header"`
	// Its value; placeholders are allowed. A request for which it is empty, or
	// not a header value, goes up without the header.
	Value string `json:"value"`
}

// The headers that are set by default, with the placeholders of their values.
var defaultInject = []Injection{
	{"X-Tenant-Id", "{http.keytoll.tenant.id}"},
	{"X-Key-Id", "{http.keytoll.key.id}"},
}

// maxInject bounds the headers of one gate.
const maxInject = 32

// field is what a placeholder of ours stands for.
type field uint8

const (
	fieldNone field = iota
	fieldTenantID
	fieldTenantName
	fieldKeyID
	fieldKeyName
	fieldPlan
	fieldEnvironment
	fieldPermissions
	fieldReason
	fieldKeyMetadata
	fieldTenantMetadata
)

// placeholders are the names behind http.keytoll.
var placeholders = map[string]field{
	"tenant.id": fieldTenantID, "tenant.name": fieldTenantName,
	"key.id": fieldKeyID, "key.name": fieldKeyName,
	"plan": fieldPlan, "environment": fieldEnvironment,
	"permissions": fieldPermissions, "reason": fieldReason,
}

const (
	placeholderPrefix = "http.keytoll."
	keyMetadata       = "key.metadata."
	tenantMetadata    = "tenant.metadata."
)

// lookupField finds the field of a placeholder name without the braces, and
// the metadata key if it is one.
func lookupField(name string) (f field, key string) {
	if name == "http.auth.user.id" {
		return fieldKeyID, ""
	}
	rest, ok := strings.CutPrefix(name, placeholderPrefix)
	if !ok {
		return fieldNone, ""
	}
	if k, ok := strings.CutPrefix(rest, keyMetadata); ok {
		return fieldKeyMetadata, k
	}
	if k, ok := strings.CutPrefix(rest, tenantMetadata); ok {
		return fieldTenantMetadata, k
	}
	return placeholders[rest], ""
}

// injector is a compiled Injection.
type injector struct {
	name  string // canonical
	field field  // if the value is one placeholder of ours
	key   string // of metadata
	text  string // else: a constant, or a template for the replacer
	plain bool   // text is a constant
}

func (h *Handler) provisionInject(caddy.Context) error {
	without := make(map[string]bool)
	for _, name := range h.Without {
		if err := checkWithout(name); err != nil {
			return err
		}
		without[textproto.CanonicalMIMEHeaderKey(name)] = true
	}
	protected := []string{}
	if h.ChargeReport != "" {
		protected = append(protected, h.ChargeReport)
	}
	own := make(map[string]bool)
	for _, in := range h.Inject {
		own[textproto.CanonicalMIMEHeaderKey(in.Header)] = true
	}
	for _, in := range defaultInject {
		protected = append(protected, in.Header)
		if !without[in.Header] && !own[in.Header] {
			h.addInjector(in)
		}
	}
	if len(h.Inject) > maxInject {
		return fmt.Errorf("a gate injects at most %d headers, not %d", maxInject, len(h.Inject))
	}
	seen := make(map[string]bool)
	for _, in := range h.Inject {
		if err := checkInjection(in, seen); err != nil {
			return err
		}
		in.Value = caddy.NewReplacer().ReplaceKnown(in.Value, "")
		protected = append(protected, in.Header)
		h.addInjector(in)
	}
	upgrades, err := upgradeProtocols(h.Upgrades)
	if err != nil {
		return err
	}
	h.gate.WebSocket = slices.ContainsFunc(upgrades, func(u string) bool { return strings.EqualFold(u, "websocket") })
	protected = append(protected, h.byok.protected()...)
	h.cleaner = gate.NewCleaner(h.gate.Sources, h.app.keys, protected, upgrades, h.KeepCredential)
	return nil
}

func checkWithout(name string) error {
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "X-Tenant-Id", "X-Key-Id":
		return nil
	}
	return fmt.Errorf("inject -%s: only X-Tenant-Id and X-Key-Id are set by default", name)
}

// upgradeProtocols returns the protocols of a list as it is configured.
func upgradeProtocols(list []string) ([]string, error) {
	if len(list) == 0 {
		return []string{"websocket"}, nil
	}
	if len(list) == 1 && list[0] == "off" {
		return nil, nil
	}
	for _, u := range list {
		if u == "off" {
			return nil, errors.New("upgrade: off stands alone")
		}
		if !gate.ValidFieldName(u) {
			return nil, fmt.Errorf("upgrade %q: want the name of a protocol, such as websocket", u)
		}
	}
	return list, nil
}

func checkInjection(in Injection, seen map[string]bool) error {
	name := textproto.CanonicalMIMEHeaderKey(in.Header)
	switch {
	case !gate.ValidFieldName(in.Header):
		return fmt.Errorf("inject %q: not a header name", in.Header)
	case seen[name]:
		return fmt.Errorf("inject %s: this header is injected twice", in.Header)
	case !validFieldValue(in.Value):
		return fmt.Errorf("inject %s: the value holds a control character", in.Header)
	}
	switch name {
	case "Host", "Connection", "Upgrade", "Content-Length", "Transfer-Encoding", "Trailer", "Te", "Authorization":
		return fmt.Errorf("inject %s: this header is not the gate's to set; use header_up of reverse_proxy", in.Header)
	}
	seen[name] = true
	return nil
}

func (h *Handler) addInjector(in Injection) {
	inj := injector{name: textproto.CanonicalMIMEHeaderKey(in.Header), text: in.Value}
	if strings.HasPrefix(in.Value, "{") && strings.IndexByte(in.Value, '}') == len(in.Value)-1 {
		inj.field, inj.key = lookupField(in.Value[1 : len(in.Value)-1])
	}
	inj.plain = inj.field == fieldNone && !strings.Contains(in.Value, "{")
	h.inject = append(h.inject, inj)
}

// identify sets the injected headers. Client copies are gone by now.
func (x *exchange) identify(r *http.Request) {
	for i := range x.h.inject {
		in := &x.h.inject[i]
		value := in.text
		switch {
		case in.field != fieldNone:
			value = x.text(in.field, in.key)
		case !in.plain:
			repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			if !ok {
				continue
			}
			value = repl.ReplaceAll(in.text, "")
		}
		if value != "" && (in.plain || validFieldValue(value)) {
			r.Header[in.name] = x.value(value)
		}
	}
}

// replace serves the placeholders. It is a caddy.ReplacerFunc.
func (x *exchange) replace(name string) (any, bool) {
	f, key := lookupField(name)
	if f == fieldNone {
		return nil, false
	}
	return x.text(f, key), true
}

// text returns the value of a field; it is empty for a request without a key.
func (x *exchange) text(f field, key string) string {
	if f == fieldReason {
		return x.Reason.String()
	}
	if x.Record == nil {
		return ""
	}
	switch f {
	case fieldTenantID:
		return x.tenant().ID
	case fieldTenantName:
		return x.tenant().Name
	case fieldTenantMetadata:
		return x.tenant().Metadata[key]
	case fieldKeyID:
		return x.keyID()
	case fieldPlan:
		if p := x.h.gate.Plan(x.Tenant); p != nil {
			return p.Name
		}
		return ""
	case fieldEnvironment:
		return x.env
	}
	return x.coldText(f, key)
}

// coldText serves what only the store knows.
func (x *exchange) coldText(f field, key string) string {
	if x.cold == nil {
		k, err := x.engine.Key(context.Background(), x.id)
		if err != nil {
			k = &access.Key{}
		}
		x.cold = k
	}
	switch f {
	case fieldKeyName:
		return x.cold.Name
	case fieldPermissions:
		return strings.Join(x.cold.Permissions(), " ")
	case fieldKeyMetadata:
		return x.cold.Metadata[key]
	}
	return ""
}

// noTenant stands for a tenant that was deleted a moment ago.
var noTenant = new(index.Tenant)

func (x *exchange) tenant() *index.Tenant {
	if x.Tenant == nil {
		return noTenant
	}
	return x.Tenant
}

// validFieldValue reports whether s may stand in a header (RFC 9110, section
// 5.5).
func validFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
