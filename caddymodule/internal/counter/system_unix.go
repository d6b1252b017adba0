//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package counter

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func lockFile(fd *os.File) error {
	err := unix.Flock(int(fd.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

// unlockFile is needed beside closing: what is mapped keeps the file, and with
// it the lock.
func unlockFile(fd *os.File) error { return unix.Flock(int(fd.Fd()), unix.LOCK_UN) }

// mapFile maps a part of the file, which begins at mem[pad]. Mappings of one
// file share their pages.
func mapFile(fd *os.File, off, n int64) (mem []byte, pad int, err error) {
	pad = int(off % int64(os.Getpagesize()))
	mem, err = unix.Mmap(int(fd.Fd()), off-int64(pad), int(n)+pad, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return mem, pad, err
}

// sealMemory puts memory that nobody may touch in the place of the mapping.
// What is at its address can so never be anything else, whoever still uses it.
// It costs addresses and no memory.
func sealMemory(mem []byte) {
	if len(mem) > 0 {
		_, _ = unix.MmapPtr(-1, 0, unsafe.Pointer(&mem[0]), uintptr(len(mem)),
			unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED)
	}
}

// syncOne writes the page of slot n.
func syncOne(f *File, n uint32) error {
	c, r := f.record(n)
	size := os.Getpagesize()
	at := int(uintptr(unsafe.Pointer(r))-uintptr(unsafe.Pointer(&c.mem[0]))) &^ (size - 1)
	if err := unix.Msync(c.mem[at:min(at+size, len(c.mem))], unix.MS_SYNC); err != nil {
		return err
	}
	return flushDisk(f)
}
