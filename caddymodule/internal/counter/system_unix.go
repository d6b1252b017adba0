//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package counter

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

func lockFile(fd *os.File) error {
	err := mapped.Lock(fd)
	if errors.Is(err, mapped.ErrLocked) {
		return ErrLocked
	}
	return err
}

// syncOne writes the page of slot n.
func syncOne(f *File, n uint32) error {
	c, r := f.record(n)
	size := os.Getpagesize()
	at := int(uintptr(unsafe.Pointer(r))-uintptr(unsafe.Pointer(&c.mem[0]))) &^ (size - 1)
	if err := unix.Msync(c.mem[at:min(at+size, len(c.mem))], unix.MS_SYNC); err != nil {
		return err
	}
	return mapped.FlushDisk(f.fd)
}
