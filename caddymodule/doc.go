// Package caddymodule is keytoll as Caddy modules: API keys in front of an API
// that exists already.
//
// # Modules
//
//   - keytoll: the app. Plans, tenants, key prefixes and storage, shared by all
//     gates; the global option keytoll of a Caddyfile.
//   - http.handlers.keytoll: the gate; the directive keytoll, before
//     reverse_proxy.
//   - keytoll.storage.bolt: the local database, the default.
//   - admin.api.keytoll: the operator's routes under /keytoll/v1/ of Caddy's
//     admin endpoint, which the command `caddy keytoll` talks to.
//   - caddy.logging.encoders.filter.keytoll: redaction, for every log.
//
// # One request
//
// The first of these that applies ends it. The reasons and their answers are
// one table in package access.
//
//  1. CONNECT and TRACE: 405. An unsafe method in TLS early data: 425.
//     Cleartext http from another machine: 403.
//  2. A CORS preflight and a public route pass without a key. Otherwise no
//     credential is 401, two different ones 400.
//  3. A network that failed too often: 429. A key of our own shape with a wrong
//     checksum: 401.
//  4. One lookup in memory under HMAC-SHA-256. A key that is unknown, revoked,
//     disabled or expired, or whose tenant is suspended: 401.
//  5. All limits about the request at once: 429, or all of them are charged.
//  6. The credential, client copies of identity headers, and connection options
//     that could remove a header are taken out; the identity headers are set.
//  7. The next handler. On the final status of its response the rate headers
//     are set; a failure of the upstream gets the same kind of answer as a
//     refusal.
//
// # State and configuration
//
// An App is configuration, an engine is state: the open database, the index of
// all keys, the token buckets and the counters. Engines are shared by
// configurations that name the same database and outlive reloads. They are
// opened in Start, never in Provision, so that `caddy validate` works beside a
// running server.
package caddymodule
