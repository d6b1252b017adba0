// Package caddymodule is keytoll as Caddy modules: the app that holds the
// configuration, the gate in front of an API, the operator's admin endpoint,
// the command line and the log filter.
package caddymodule
