package counter

import (
	"os"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

// allocate makes small pages: slots are touched all over the file.
func allocate(fd *os.File, off, n int64) error { return mapped.Allocate(fd, off, n, 4096) }

// system is what differs between operating systems, and what tests replace.
type system struct {
	heap      bool // slots are in memory of our own and written at each sync
	mapFile   func(fd *os.File, off, n int64) (mem []byte, pad int, err error)
	seal      func(mem []byte)
	lock      func(fd *os.File) error
	unlock    func(fd *os.File) error
	syncAll   func(f *File) error           // all that was changed
	syncSlot  func(f *File, n uint32) error // one slot, and perhaps its neighbours
	inPieces  func(fd *os.File) bool        // start and finish make a sync of this file
	start     func(f *File, off, n int64) error
	finish    func(f *File) error // of all starts, and of the header
	unlatch   func(mem []byte) error
	allocate  func(fd *os.File, off, n int64) error
	fillHoles func(fd *os.File, size int64) error
	bootID    func() [16]byte
}
