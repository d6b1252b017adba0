//go:build race

package caddymodule

// allocRace reports that the race detector is on, which allocates by itself.
const allocRace = true
