package caddymodule

import (
	"errors"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/mgmt"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("keytoll_api", parseAPI)
	// Before the gate, which stands before basic_auth: what is not below the base
	// goes on to it.
	httpcaddyfile.RegisterDirectiveOrder("keytoll_api", httpcaddyfile.After, "try_files")
}

// apiGateOptions are the subdirectives of the gate that keytoll_api has too.
var apiGateOptions = []string{"key_from", "limit", "rate_headers", "allow_http", "dialect"}

// parseAPI reads the API by which the holder of a key manages his own tenant's.
// Requests that are not below the base go on to the next directive.
//
//	keytoll_api [<matcher>] <keys|me|usage|provider_keys|leaks|charges> {
//		base <path>                              # as the product documents it
//		require <permission...>                  # a key needs one of these
//		require <action> <permission...>         # for one of: create list get update rotate revoke; store list verify delete
//		dialect <name>                           # overrides the app's
//		key_from, limit, rate_headers, allow_http   # as in the gate
//		public_key <identifier> <pem file>       # for leaks alone, which needs one and no other line
//		# charges takes a base and nothing else
//	}
func parseAPI(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next()
	a := new(API)
	here := used(h.Dispenser, "keytoll_api")
	if !h.AllArgs(&a.Kind) || !slices.Contains(apiKinds, a.Kind) {
		return nil, h.Err("keytoll_api needs what it serves: keys, me, usage, provider_keys, leaks or charges")
	}
	once := make(map[string]bool)
	for h.NextBlock(0) {
		word := h.Val()
		if word != "require" && word != "limit" && word != "public_key" {
			if once[word] {
				return nil, h.Errf("%s is given twice", word)
			}
			once[word] = true
		}
		if err := a.parseOption(h, word); err != nil {
			return nil, err
		}
	}
	if a.Base == "" {
		return nil, h.Errf("keytoll_api %s needs a base: base /v1/%[1]s", a.Kind)
	}
	if err := a.check(); err != nil {
		return nil, h.WrapErr(err)
	}
	if a.Kind == mgmt.DeskProviderKeys {
		if app, err := globalApp(h); err != nil || len(app.Providers) == 0 {
			return nil, errors.Join(err, at(errNoStored, here))
		}
	}
	return a, nil
}

func (a *API) parseOption(h httpcaddyfile.Helper, word string) error {
	switch word {
	case "base":
		if err := word1(h.Dispenser, &a.Base); err != nil {
			return err
		}
		if err := checkBase(a.Base); err != nil {
			return h.WrapErr(err)
		}
		return nil
	case "require":
		return a.parseRequire(h)
	case "public_key":
		return a.parsePublicKey(h)
	case "key_from", "limit", "rate_headers", "allow_http", "dialect":
		if a.Gate == nil {
			a.Gate = new(Handler)
		}
		return a.Gate.parseOption(h, word)
	}
	return unrecognized(h.Dispenser, append([]string{"base", "require", "public_key"}, apiGateOptions...)...)
}

func (a *API) parsePublicKey(h httpcaddyfile.Helper) error {
	var id, file string
	if !h.AllArgs(&id, &file) {
		return h.Err("public_key needs the identifier of the key and its PEM file")
	}
	if a.PublicKeys[id] != "" {
		return h.Errf("public_key %s is given twice", id)
	}
	if a.PublicKeys == nil {
		a.PublicKeys = make(map[string]string)
	}
	a.PublicKeys[id] = file
	return nil
}

// parseRequire takes the first of two or more words as an action.
func (a *API) parseRequire(h httpcaddyfile.Helper) error {
	args := h.RemainingArgs()
	if len(args) == 0 {
		return h.Err("require needs a permission, or an action and a permission: require admin, or require create keys:write")
	}
	for _, p := range args {
		if err := access.CheckPermission(p); err != nil {
			return h.WrapErr(err)
		}
	}
	if len(args) == 1 || !a.acts(args[0]) {
		if a.Require != nil {
			return h.Err("require is given twice; put the permissions on one line")
		}
		a.Require = args
		return nil
	}
	if len(apiActions[a.Kind]) == 0 {
		return h.Errf("keytoll_api %s has no actions: require %s", a.Kind, strings.Join(args[1:], " "))
	}
	if a.RequireFor[args[0]] != nil {
		return h.Errf("require %s is given twice", args[0])
	}
	if a.RequireFor == nil {
		a.RequireFor = make(map[string][]string)
	}
	a.RequireFor[args[0]] = args[1:]
	return nil
}

// acts reports whether a word is an action: of this kind or, where it has none,
// of keys.
func (a *API) acts(word string) bool {
	actions, own := apiActions[a.Kind]
	if !own {
		actions = apiActions[mgmt.DeskKeys]
	}
	return slices.Contains(actions, word)
}
