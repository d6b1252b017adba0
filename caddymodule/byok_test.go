package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/provider"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// providersInOneHeader get their keys at the API in the same header; two of them
// also have headers of their own.
const providersInOneHeader = `provider one {
	header X-One
	inject Authorization "Bearer {keytoll.provider_key}"
}
provider two {
	header X-Two
	inject Authorization "Bearer {keytoll.provider_key}"
}
provider three {
	header X-Three
}
`

func TestBYOKSharedHeader(t *testing.T) {
	g := newGateway(t, providersInOneHeader, "keytoll {\n\tbyok {\n\t\tfrom {http.request.header.X-Provider}\n\t}\n}\nreverse_proxy {upstream}")
	_, key := g.key("acme", registrar.CreateKeyRequest{})
	for _, tt := range []struct {
		name, headers, up, three, used string
	}{
		{"named", "X-Provider: two|X-One: 1111|X-Two: 2222|X-Three: 3333", "Bearer 2222", "3333", "two"},
		{"named, and its key is not there", "X-Provider: two|X-One: 1111", "", "", "two"},
		{"not named", "X-One: 1111|X-Two: 2222|X-Three: 3333", "Bearer 1111", "3333", ""},
		{"no key at all", "X-Provider: three", "", "", "three"},
		{"another provider", "X-Provider: house", "", "", ""},
		{"nothing", "X-Other: 1", "", "", ""},
	} {
		resp := g.do("GET", "/", append(strings.Split(tt.headers, "|"), "X-Api-Key: "+key)...)
		resp.expect(t, http.StatusOK)
		up := g.upstream.last(t).Header
		if up.Get("Authorization") != tt.up || up.Get("X-Three") != tt.three || up.Get("X-One") != "" || resp.Header.Get("X-Provider-Used") != tt.used {
			t.Errorf("%s: up went %q, %q; used %q", tt.name, up.Get("Authorization"), up.Get("X-Three"), resp.Header.Get("X-Provider-Used"))
		}
	}
	err := g.tryLoad(g.text(providersInOneHeader, "keytoll {\n\tbyok\n}\nreverse_proxy {upstream}"))
	if err == nil || !strings.Contains(err.Error(), "keys of one and two both in Authorization: say which provider a request is for") {
		t.Errorf("told apart by nothing: %v", err)
	}
}

// Which providers share a header is found out both ways.
func TestBYOKCollide(t *testing.T) {
	var list []*provider.Provider
	for _, name := range []string{"a", "b", "c"} {
		d := provider.Definition{Header: "X-" + name}
		if name != "b" {
			d.Inject = []provider.Header{{Name: "X-Shared", Value: provider.Placeholder}}
		}
		p, err := provider.Compile(name, d)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	b := &byok{providers: list, explicit: true}
	if err := b.collide(); err != nil || !b.clashing || b.clash[0] != 1<<2 || b.clash[1] != 0 || b.clash[2] != 1<<0 {
		t.Errorf("%v, %b", err, b.clash)
	}
}
