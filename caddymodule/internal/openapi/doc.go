// Package openapi reads which permission each operation of an API needs from
// the API's own OpenAPI description, and finds the operation of a request.
//
// It looks at paths, servers, operation ids and security alone. A description
// must be whole: nothing that it refers to is fetched, neither file nor
// network.
package openapi
