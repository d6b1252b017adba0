//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package boltstore

import (
	"os"
	"syscall"
)

// release closes a file that bbolt left behind when it panicked. Closing alone
// would not do: the mapping, which cannot be undone, keeps the file and with it
// the lock.
func release(f *os.File) {
	if c, err := f.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { _ = syscall.Flock(int(fd), syscall.LOCK_UN) })
	}
	_ = f.Close()
}
