// Command bench measures what the gate costs, end to end, on this machine:
//
//	go run ./cmd/bench
//
// It builds cmd/caddy, starts a fixed upstream and one Caddy process for each
// variant, all on loopback ports, and sends them the same requests over the
// same number of kept-alive connections. Rounds are short and every variant
// has its turn in each round, in random order, so that what else the machine
// does falls on all of them. Costs are the CPU time of the proxy's process
// alone, user and system, divided by the requests it answered.
//
// A ratio is total CPU per request of a variant over total CPU per request of
// its base, and its interval a bootstrap over rounds: a garbage collection that
// falls into one round of ten counts as one in ten, which a median would hide.
// The row "again" is a second process of bare and tells how far to trust the
// others.
//
// With -check it exits with 1 if a ratio misses its limit by more than -margin.
package main
