//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package mapped

import (
	"errors"
	"os"
)

// Supported says whether files can be mapped here.
const Supported = false

// Lock does nothing: nothing keeps a second process out.
func Lock(*os.File) error { return nil }

// Unlock does nothing.
func Unlock(*os.File) error { return nil }

// Map fails: see Supported.
func Map(*os.File, int64, int64) (mem []byte, pad int, err error) {
	return nil, 0, errors.ErrUnsupported
}

// Unmap does nothing.
func Unmap([]byte) error { return nil }

// Sync makes the whole file durable.
func Sync(f *os.File, _ []byte, _, _ int) error { return f.Sync() }

// Allocate gives a part of the file its place on the disk. See WriteZeros for
// step.
func Allocate(f *os.File, off, n, step int64) error { return WriteZeros(f, off, n, step) }

// FillHoles does nothing.
func FillHoles(*os.File, int64) error { return nil }
