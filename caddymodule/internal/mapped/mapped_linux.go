package mapped

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// FlushDisk has nothing to do: msync flushes the disk.
func FlushDisk(*os.File) error { return nil }

// Allocate finds out about a full disk at once, and then writes, so that later
// stores need no room and nothing of the file system's journal. See WriteZeros for
// step.
func Allocate(f *os.File, off, n, step int64) error {
	if err := fallocate(f, off, n); err != nil {
		return err
	}
	return WriteZeros(f, off, n, step)
}

// FillHoles gives every page up to size its place.
func FillHoles(f *os.File, size int64) error { return fallocate(f, 0, size) }

// fallocate does nothing on file systems that cannot.
func fallocate(f *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, off, n)
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
