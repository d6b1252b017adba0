// Package access holds the nouns of keytoll: tenants, keys, plans, rates, and
// the closed set of reasons for which a request is let in or refused. It does
// no I/O and imports the standard library alone.
package access
