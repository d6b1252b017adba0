// Package mgmt is the management API over a registrar: two doors to one core.
//
// Handler is the operator's, for all tenants; Client is its Go client, which the
// command line uses. Its bodies are JSON objects; all its errors are
//
//	{"error":{"code":"not_found","message":"there is no tenant \"acme\"","field":"tenant","hint":"caddy keytoll tenants create acme"}}
//
// where field and hint may be missing. Times are RFC 3339 in UTC. A list is
// {"keys":[…],"next":"…"}; its next page is asked for with ?cursor=, and the
// same link stands in the Link header. A page may be short or empty and have a
// next one. Exports and imports are one JSON object a line; see Line.
//
// Amounts of credits are numbers with up to six decimals. Usage is JSON or CSV;
// times of usage are widened to whole steps.
//
// A provider key goes in and never comes out: answers show its last four
// characters alone.
//
// Desk is the tenant's, for the keys, the usage and the provider keys of the
// caller's own tenant, in the words of a dialect. Of a key id that is another
// tenant's, nobody's, or no id at all, it says the same, byte for byte.
//
// No answer of either may be cached.
package mgmt
