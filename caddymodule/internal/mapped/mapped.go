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
// the disk and needs no more of the file system's own records. It writes step
// bytes at once: of what is written together linux makes large pages, and a
// large page is written as a whole for each store into it.
func WriteZeros(f *os.File, off, n, step int64) error {
	zeros := make([]byte, min(n, step))
	for n > 0 {
		m, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}
