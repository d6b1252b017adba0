package provider

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/keytoll/keytoll/caddymodule/access"
)

var (
	errKeyLength    = fmt.Errorf("a provider key is of 1 to %d characters", access.MaxProviderKey)
	errKeyCharacter = errors.New("a provider key is of visible ASCII characters, without spaces or line ends")
)

// reserved are headers that frame a request, or that the gate needs itself. No
// key comes in one, and none is put into one.
var reserved = []string{
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// notCallers are headers in which callers send something else.
var notCallers = []string{
	"Accept", "Accept-Encoding", "Authorization", "Content-Encoding", "Content-Type", "Cookie",
	"Forwarded", "Origin", "Referer", "User-Agent", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
}

// check is a compiled Check.
type check struct {
	method       string
	url          *url.URL
	headers      []Template
	allowPrivate bool
}

// Compile returns the provider of a definition. Its errors say what is wrong
// and what to write instead.
func Compile(name string, d Definition) (*Provider, error) {
	if err := access.CheckProvider(name); err != nil {
		return nil, err
	}
	p, err := compile(name, d)
	if err != nil {
		return nil, fmt.Errorf("provider %s: %w", name, err)
	}
	return p, nil
}

func compile(name string, d Definition) (*Provider, error) {
	if d.Header == "" {
		d.Header = "X-Provider-Key-" + name
	}
	header, err := headerName(d.Header)
	if err != nil {
		return nil, err
	}
	if slices.Contains(notCallers, header) {
		return nil, fmt.Errorf("header %s: callers send something else in it; use one of its own, such as X-Provider-Key-%s", header, name)
	}
	if len(d.Inject) == 0 {
		d.Inject = []Header{{Name: header, Value: Placeholder}}
	}
	p := &Provider{name: name, header: header}
	if p.inject, err = compileHeaders(d.Inject); err != nil {
		return nil, fmt.Errorf("inject: %w", err)
	}
	if d.Verify != nil {
		if p.check, err = compileCheck(d.Verify); err != nil {
			return nil, fmt.Errorf("verify: %w", err)
		}
	}
	return p, nil
}

// headerName returns the canonical form of a name that may carry a key.
func headerName(name string) (string, error) {
	if !isToken(name) {
		return "", fmt.Errorf("header %q: want a header name such as X-Api-Key: letters, digits and '-'", name)
	}
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	if slices.Contains(reserved, canonical) {
		return "", fmt.Errorf("header %s: HTTP itself needs it, it cannot hold a key", canonical)
	}
	return canonical, nil
}

// isToken reports whether s is a field name of HTTP, of a length that servers
// take.
func isToken(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return true
}

// compileHeaders compiles a list of headers of which one at least holds the key.
func compileHeaders(list []Header) ([]Template, error) {
	if len(list) > MaxHeaders {
		return nil, fmt.Errorf("at most %d headers, not %d", MaxHeaders, len(list))
	}
	var templates []Template
	keyed := false
	for _, h := range list {
		t, err := compileHeader(h)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(templates, func(u Template) bool { return u.Name == t.Name }) {
			return nil, fmt.Errorf("header %s stands there twice", t.Name)
		}
		keyed = keyed || t.keyed
		templates = append(templates, t)
	}
	if !keyed {
		return nil, fmt.Errorf("no header holds the key: write %s where it belongs", Placeholder)
	}
	return templates, nil
}

func compileHeader(h Header) (Template, error) {
	name, err := headerName(h.Name)
	if err != nil {
		return Template{}, err
	}
	if h.Value == "" || len(h.Value) > MaxValue {
		return Template{}, fmt.Errorf("header %s: want a value of 1 to %d bytes", name, MaxValue)
	}
	for i := range len(h.Value) {
		if c := h.Value[i]; c < ' ' || c == 0x7f {
			return Template{}, fmt.Errorf("header %s: the value holds a control character", name)
		}
	}
	if h.Value != strings.TrimSpace(h.Value) {
		return Template{}, fmt.Errorf("header %s: the value starts or ends with a space", name)
	}
	t := Template{Name: name}
	t.prefix, t.suffix, t.keyed = strings.Cut(h.Value, Placeholder)
	if strings.Contains(t.suffix, Placeholder) {
		return Template{}, fmt.Errorf("header %s: the value holds %s twice", name, Placeholder)
	}
	if strings.ContainsAny(t.prefix+t.suffix, "{}") {
		return Template{}, fmt.Errorf("header %s: %s is the only placeholder a value may hold", name, Placeholder)
	}
	return t, nil
}

func compileCheck(d *Check) (*check, error) {
	c := &check{method: d.Method, allowPrivate: d.AllowPrivate}
	switch d.Method {
	case "":
		c.method = http.MethodGet
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		return nil, fmt.Errorf("method %q: want GET, HEAD or POST", d.Method)
	}
	var err error
	if c.url, err = compileURL(d.URL, d.AllowPrivate); err != nil {
		return nil, err
	}
	if c.headers, err = compileHeaders(d.Headers); err != nil {
		return nil, err
	}
	return c, nil
}

// compileURL returns the fixed URL of a check. What it refuses is not quoted
// where it may hold a secret.
func compileURL(s string, allowPrivate bool) (*url.URL, error) {
	if strings.ContainsAny(s, "{}") {
		return nil, fmt.Errorf("the URL is fixed and holds no placeholder; put %s into a header: URLs are logged", Placeholder)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || len(s) > MaxURL || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("want a URL such as https://api.example.com/v1/models")
	case u.User != nil:
		return nil, errors.New("the URL holds a user; send what the provider wants in a header")
	case u.Fragment != "":
		return nil, errors.New("the URL has a fragment, which is never sent; leave out '#' and what follows")
	case u.Scheme == "http" && !allowPrivate:
		return nil, errors.New("the URL is http: a key would travel in the clear; write https, or allow private addresses if the provider is in a network of yours")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("the URL's scheme is %q: want https", u.Scheme)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("the URL's port is %q: want 1 to 65535", port)
		}
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := permit(addr, u.Scheme == "https", allowPrivate); err != nil {
			return nil, err
		}
	}
	return u, nil
}
