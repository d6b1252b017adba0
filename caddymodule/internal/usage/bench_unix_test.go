//go:build linux || darwin

package usage

import (
	"syscall"
	"time"
)

// processTime is what the process has had of the processors.
func processTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
