//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package mapped

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Supported says whether files can be mapped here.
const Supported = true

// Lock takes the file's lock for this process, or returns ErrLocked.
func Lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// Unlock is needed beside closing: what is mapped keeps the file, and with it
// the lock.
func Unlock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_UN) }

// Map maps a part of the file, which begins at mem[pad]. Mappings of one file
// share their pages.
func Map(f *os.File, off, n int64) (mem []byte, pad int, err error) {
	pad = int(off % int64(os.Getpagesize()))
	mem, err = unix.Mmap(int(f.Fd()), off-int64(pad), int(n)+pad, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return mem, pad, err
}

// Unmap ends a mapping that nobody uses any more.
func Unmap(mem []byte) error { return unix.Munmap(mem) }

// Seal puts memory that nobody may touch in the place of the mapping. What is
// at its address can so never be anything else, whoever still uses it. It costs
// addresses and no memory.
func Seal(mem []byte) {
	if len(mem) > 0 {
		_, _ = unix.MmapPtr(-1, 0, unsafe.Pointer(&mem[0]), uintptr(len(mem)),
			unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED)
	}
}

// Sync makes the pages durable in which mem[from:to] lies. mem is all of a
// mapping.
func Sync(f *os.File, mem []byte, from, to int) error {
	if err := unix.Msync(mem[from&^(os.Getpagesize()-1):to], unix.MS_SYNC); err != nil {
		return err
	}
	return FlushDisk(f)
}
