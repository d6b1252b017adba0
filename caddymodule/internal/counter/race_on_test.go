//go:build race

package counter

// raceDetector is on: atomic operations are C then, where a fault is fatal.
const raceDetector = true
