//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package mapped

import "os"

// FlushDisk has the disk empty its cache, which msync does not do on all of
// these.
func FlushDisk(f *os.File) error { return f.Sync() }

// Allocate gives a part of the file its place on the disk. See WriteZeros for
// step.
func Allocate(f *os.File, off, n, step int64) error { return WriteZeros(f, off, n, step) }

// FillHoles does nothing: there is no way to tell holes.
func FillHoles(*os.File, int64) error { return nil }
