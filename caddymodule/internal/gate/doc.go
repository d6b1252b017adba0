// Package gate decides whether a request may pass, and cleans what passes.
//
// Decide runs the checks in their one order and is the only place where a
// request is let in; Cleanse takes the credential and all that a client could
// use to forge or remove an identity header out of the request. Both work on
// memory alone: no file, no network, no lock that a writer holds for long.
// Neither allocates on a refusal. The package knows no Caddy: route matchers
// come to it as functions.
package gate
