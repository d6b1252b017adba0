package caddymodule

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Permit is a rule about the permission that requests need.
type Permit struct {
	// Which requests it is about. Default: all.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
	// A key needs one of these. Default: any key will do.
	Needs []string `json:"needs,omitempty"`
	// A file with the API's OpenAPI description, relative to the working
	// directory. A request needs the permission of its operation; one that is no
	// operation is refused. It stands without Needs.
	OpenAPI string `json:"openapi,omitempty"`
	// The path below which the operations are. Default: the paths of the
	// description's servers.
	Base string `json:"base,omitempty"`
}

// Guard is a value of the request that must be the id of the key's tenant.
type Guard struct {
	// Which requests it is about. Default: all.
	MatchRaw caddyhttp.RawMatcherSets `json:"match,omitempty" caddy:"namespace=http.matchers"`
	// One placeholder, such as {http.request.uri.path.1}. What it stands for is
	// compared as it is; it is never expanded again. An empty value is no
	// tenant's.
	Value string `json:"value"`
}
