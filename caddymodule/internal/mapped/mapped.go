// Package mapped has what a file that is mapped into memory asks of the
// operating system: its mapping, its lock, and room on the disk before the
// first store, so that a full disk is an error where a file grows and never a
// fault at a store.
package mapped

import (
	"errors"
	"os"
)

// ErrLocked says that another process has the file.
var ErrLocked = errors.New("the file is in use by another process")

// WriteZeros fills a part of the file with zeros, so that it has its place on
// the disk and needs no more of the file system's own records.
func WriteZeros(f *os.File, off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		m, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}
