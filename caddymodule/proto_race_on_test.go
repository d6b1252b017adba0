//go:build race

package caddymodule

// raceEnabled tells tests that instrumentation makes them slow and allocate.
const raceEnabled = true
