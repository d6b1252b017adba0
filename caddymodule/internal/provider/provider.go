// Package provider knows the third parties whose keys customers bring along:
// in which request header such a key comes, how the upstream wants it, and how
// to ask the third party whether it is good. It also keeps keys that were
// unsealed, for a while. Keys reach neither its errors nor a URL.
package provider

import "github.com/keytoll/keytoll/caddymodule/access"

// Placeholder stands for the provider key in the value of a Header.
const Placeholder = "{keytoll.provider_key}"

// Bounds of what is configured.
const (
	MaxHeaders = 16   // headers of one list
	MaxValue   = 1024 // bytes of a header's value
	MaxURL     = 2048 // bytes of a URL
)

// Header is a request header.
type Header struct {
	// The header's name.
	Name string `json:"name"`
	// Its value. {keytoll.provider_key} in it, once at most, stands for the
	// key; no other placeholder is known here.
	Value string `json:"value"`
}

// Definition is a provider as it is configured.
type Definition struct {
	// The request header in which callers send a key of their own. Default:
	// X-Provider-Key- and the provider's name.
	Header string `json:"header,omitempty"`
	// The headers in which the upstream gets the key; one of them must hold
	// {keytoll.provider_key}. Default: the header above, with the key alone.
	Inject []Header `json:"inject,omitempty"`
	// How to ask the provider whether a key is good. Default: keys of this
	// provider cannot be verified.
	Verify *Check `json:"verify,omitempty"`
}

// Check is a request that a provider answers with a 2xx status if the key in it
// is good, and with a 4xx if it is not.
type Check struct {
	// GET, HEAD or POST, which is sent without a body. Default: GET.
	Method string `json:"method,omitempty"`
	// Where to ask. The key cannot be part of it. It must be https, but for
	// private addresses that are allowed.
	URL string `json:"url"`
	// The request's headers; one of them must hold {keytoll.provider_key}.
	Headers []Header `json:"headers"`
	// Whether the URL may lead to a loopback address or one of a private
	// network. Default: no. With it the URL may be http, which is then spoken
	// to such addresses alone: no key goes over the internet in the clear.
	AllowPrivate bool `json:"allow_private,omitempty"`
}

// Provider is a compiled Definition. It does not change and is safe for
// concurrent use.
type Provider struct {
	name   string
	header string
	inject []Template
	check  *check
}

// Name returns the name under which the provider is configured.
func (p *Provider) Name() string { return p.name }

// Header returns the canonical name of the header in which callers send a key.
func (p *Provider) Header() string { return p.header }

// Inject returns the headers that the upstream gets: at least one. They are
// shared and must not be changed.
func (p *Provider) Inject() []Template { return p.inject }

// SecretHeaders returns the canonical names of all headers in which a key comes
// or goes up.
func (p *Provider) SecretHeaders() []string {
	names := []string{p.header}
	for i := range p.inject {
		if p.inject[i].keyed {
			names = append(names, p.inject[i].Name)
		}
	}
	return names
}

// CanVerify reports whether Verifier.Verify can ask this provider.
func (p *Provider) CanVerify() bool { return p.check != nil }

// Template is a header whose value may hold a key.
type Template struct {
	Name           string // canonical
	prefix, suffix string
	keyed          bool // the key stands between them
}

// Value returns the header's value with a key. It allocates nothing if the
// value is the key alone, or does not hold it.
func (t *Template) Value(key string) string {
	if !t.keyed {
		return t.prefix
	}
	return t.prefix + key + t.suffix
}

// CheckKey says what is wrong with a provider key, or nil: it must be of 1 to
// access.MaxProviderKey visible ASCII characters. The error does not hold it.
func CheckKey(key string) error {
	if key == "" || len(key) > access.MaxProviderKey {
		return errKeyLength
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return errKeyCharacter
		}
	}
	return nil
}
