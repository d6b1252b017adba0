//go:build unix

package caddymodule

import "syscall"

// shortenQueue sets the length of a listener's queue to none.
func shortenQueue(fd uintptr) error { return syscall.Listen(int(fd), 0) }
