package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/internal/learn"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// keyPlaceholder stands for the key in the headers of a check request.
const keyPlaceholder = "{key}"

// Learn puts keys that are not known here to an existing backend, once each,
// while customers move in. What the backend accepts is adopted for the tenant
// that its answer names.
type Learn struct {
	// The method of the check request: GET, HEAD or POST. Default: GET.
	Method string `json:"method,omitempty"`
	// The URL of the check request: http or https, without the key, since URLs are
	// logged. Placeholders are expanded when the configuration is loaded. Required.
	URL string `json:"url"`
	// Headers of the check request. `{key}` stands for the key and must be in at
	// least one; other placeholders are expanded when the configuration is loaded.
	Headers map[string]string `json:"headers"`
	// Where a 2xx answer names the tenant: a JSON pointer such as `/org/id`, or
	// `header:` and the name of a header. Required.
	Tenant string `json:"tenant"`
	// What learned keys may do. Default: nothing, if permissions are configured.
	Permissions []string `json:"permissions,omitempty"`
	// When learning ends. From then on unknown keys are refused without a question.
	// Required.
	Until time.Time `json:"until"`
	// How many questions there may be; beyond that unknown keys are answered 503.
	// Default: 10 a second.
	Rate *Rate `json:"rate,omitempty"`
	// How long the backend's refusal of a key is remembered. Default: 1m.
	Negative caddy.Duration `json:"negative,omitempty"`
	// How long a question may take, at most 5s. Default: 5s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	learner   *learn.Learner
	transport *http.Transport
}

// adoption stores a learned key and returns its id.
type adoption = func(ctx context.Context, tenant string, secret token.Secret) (access.KeyID, error)

// provision checks l and makes its learner, which sends nothing before it is
// asked. It must be closed.
func (l *Learn) provision(adopt adoption, digest func(string) [32]byte, onError func(error)) error {
	request, err := l.request()
	if err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	tenant, err := learn.TenantFrom(l.Tenant)
	if err != nil {
		return fmt.Errorf("learn: tenant: %w", err)
	}
	if l.Method == http.MethodHead && strings.HasPrefix(l.Tenant, "/") {
		return errors.New("learn: the answer to HEAD has no body: name the tenant by header:<name>, or use GET")
	}
	if l.Until.IsZero() {
		return errors.New("learn: until is missing: say when learning ends, such as 2030-01-31T00:00:00Z")
	}
	rate := access.Rate{Requests: 10, Burst: 10, Window: time.Second}
	if l.Rate != nil {
		if rate, err = l.Rate.access(); err != nil {
			return fmt.Errorf("learn: %w", err)
		}
	}
	l.transport = http.DefaultTransport.(*http.Transport).Clone()
	l.transport.Proxy = nil // a key goes to the backend and nowhere else
	l.learner, err = learn.New(learn.Options{
		Request: request, Tenant: tenant, Adopt: adopt, Digest: digest, Rate: rate, Until: l.Until,
		Negative: time.Duration(l.Negative), Timeout: time.Duration(l.Timeout), Transport: l.transport, OnError: onError,
	})
	return err
}

// provisionLearn makes the learner. It asks nobody before a request does.
func (a *App) provisionLearn() error {
	if a.Learn == nil {
		return nil
	}
	if err := checkGranted(a.permissions, a.Learn.Permissions); err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	digest := func(text string) [32]byte { return a.engine.Load().Digester.Sum(text) }
	return a.Learn.provision(a.adoptLearned, digest, func(err error) { _ = a.logged("learning a key", err) })
}

// adoptLearned stores a key that the existing backend accepts.
func (a *App) adoptLearned(ctx context.Context, tenant string, secret token.Secret) (access.KeyID, error) {
	reg, err := a.activeRegistrar()
	if err != nil {
		return access.KeyID{}, err
	}
	ctx = bySystem(ctx, "learn")
	results, err := reg.Import(ctx, []registrar.ImportKey{{Line: 1, Tenant: tenant, Secret: secret, Name: "learned", Permissions: a.Learn.Permissions}},
		registrar.ImportOptions{CreateTenants: true})
	if err != nil {
		return access.KeyID{}, err
	}
	if e := results[0].Err; e != nil && e.Code == registrar.Conflict {
		return access.KeyID{}, nil // the secret died here: learnKey finds no key that has it
	} else if e != nil {
		return access.KeyID{}, e
	}
	return results[0].ID, nil
}

// learnKey is gate.Gate.Learn. What the backend accepts may be a secret that was
// rotated away here: only one that is a key's present secret counts.
func (a *App) learnKey(ctx context.Context, text string) (*index.Record, bool) {
	_, ok, busy := a.Learn.learner.Ask(ctx, token.Wrap(text))
	if !ok {
		return nil, busy
	}
	e := a.engine.Load()
	digest := e.Digester.Sum(text)
	return e.Index.Lookup(&digest), false
}

// close ends the questions under way. l may be nil.
func (l *Learn) close() {
	if l == nil || l.learner == nil {
		return
	}
	l.learner.Close()
	l.transport.CloseIdleConnections()
}

// request returns what makes the check request.
func (l *Learn) request() (func(context.Context, token.Secret) (*http.Request, error), error) {
	method := l.Method
	switch method {
	case "":
		method = http.MethodGet
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		return nil, fmt.Errorf("method %q: want GET, HEAD or POST", method)
	}
	target, err := checkURL(l.URL)
	if err != nil {
		return nil, err
	}
	headers, err := checkHeaders(l.Headers)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, secret token.Secret) (*http.Request, error) {
		r, err := http.NewRequestWithContext(ctx, method, target, nil)
		if err != nil {
			return nil, err
		}
		for name, parts := range headers {
			r.Header.Set(name, strings.Join(parts, secret.Reveal()))
		}
		return r, nil
	}, nil
}

func checkURL(text string) (string, error) {
	if text == "" {
		return "", errors.New("check needs a URL, such as http://localhost:8080/whoami")
	}
	if strings.Contains(text, keyPlaceholder) {
		return "", errors.New("the key may not be in the URL, which is logged: put {key} into a header")
	}
	text, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return "", fmt.Errorf("check URL: %w", err)
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return "", errors.New("check URL: want http:// or https:// and a host")
	}
	if u.User != nil {
		return "", errors.New("check URL: put credentials into a header")
	}
	return u.String(), nil
}

// checkHeaders returns the values of headers, split where the key stands, with
// all other placeholders expanded: no client's text ever meets the replacer.
func checkHeaders(headers map[string]string) (map[string][]string, error) {
	repl := caddy.NewReplacer()
	split := make(map[string][]string, len(headers))
	found := false
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			return nil, fmt.Errorf("header %q: not a name of a header", name)
		case slices.Contains([]string{"Host", "Connection", "Content-Length", "Transfer-Encoding", "Upgrade", "Trailer", "Te"}, canonical):
			return nil, fmt.Errorf("header %s cannot be set", canonical)
		case split[canonical] != nil:
			return nil, fmt.Errorf("header %s is given twice", canonical)
		}
		parts := strings.Split(headers[name], keyPlaceholder)
		found = found || len(parts) > 1
		for i, part := range parts {
			value, err := repl.ReplaceOrErr(part, true, true)
			if err != nil || !httpguts.ValidHeaderFieldValue(value) {
				return nil, fmt.Errorf("header %s: a placeholder that is unknown or empty, or a character that no header has", canonical)
			}
			parts[i] = value
		}
		split[canonical] = parts
	}
	if !found {
		return nil, errors.New("no header carries the key: add one such as `header X-Api-Key {key}`")
	}
	return split, nil
}
