package counter

import (
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var theSystem = system{
	mapFile: mapFile, seal: sealMemory, lock: lockFile, unlock: unlockFile,
	syncAll: syncFile, syncSlot: syncOne, allocate: allocate, fillHoles: fillHoles, bootID: bootID,
}

// syncFile writes what is changed in memory, too: the kernel notes at the first
// store into a mapped page that it has to be written.
func syncFile(f *File) error { return unix.Fdatasync(int(f.fd.Fd())) }

// flushDisk has nothing to do: msync flushes the disk.
func flushDisk(*File) error { return nil }

// allocate finds out about a full disk at once, and then writes, so that later
// stores need no room and nothing of the file system's journal.
func allocate(fd *os.File, off, n int64) error {
	if err := fallocate(fd, off, n); err != nil {
		return err
	}
	return allocateByWriting(fd, off, n)
}

// fillHoles gives every page up to size its place.
func fillHoles(fd *os.File, size int64) error { return fallocate(fd, 0, size) }

// fallocate does nothing on file systems that cannot.
func fallocate(fd *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(fd.Fd()), 0, off, n)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			return nil
		case err != nil:
			return os.NewSyscallError("fallocate", err)
		}
		return nil
	}
}

// bootID is another one after each start of the machine. It is zero, which is
// equal to none, where it cannot be read.
var bootID = sync.OnceValue(func() (id [16]byte) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	d, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(b)), "-", ""))
	if err == nil && len(d) == len(id) {
		copy(id[:], d)
	}
	return id
})
