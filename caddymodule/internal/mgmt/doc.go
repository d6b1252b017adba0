// Package mgmt is the JSON management API over a registrar, and the Go client
// that the command line uses. All bodies are JSON objects; all errors are
//
//	{"error":{"code":"not_found","message":"there is no tenant \"acme\"","field":"tenant","hint":"caddy keytoll tenants create acme"}}
//
// where field and hint may be missing. Times are RFC 3339 in UTC. A list is
// {"keys":[…],"next":"…"}; its next page is asked for with ?cursor=, and the
// same link stands in the Link header. No answer may be cached.
package mgmt
