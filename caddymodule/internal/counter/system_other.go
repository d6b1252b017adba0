//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package counter

import (
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

var theSystem = system{
	heap:    true,
	mapFile: readPart, seal: func([]byte) {},
	lock: mapped.Lock, unlock: mapped.Unlock,
	syncAll: syncFile, syncSlot: func(f *File, _ uint32) error { return syncFile(f) },
	allocate: allocate, fillHoles: mapped.FillHoles,
	bootID:  func() [16]byte { return [16]byte{} },
	unlatch: func([]byte) error { return nil },
}

// readPart reads a part of the file into memory that atomic operations can
// work on.
func readPart(fd *os.File, off, n int64) (mem []byte, pad int, err error) {
	words := make([]uint64, (n+7)/8)
	mem = unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n)
	_, err = fd.ReadAt(mem, off)
	return mem, 0, err
}

// syncFile writes all slots.
func syncFile(f *File) error {
	buf := make([]uint64, 1<<14)
	out := unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), len(buf)*8)
	for _, c := range *f.chunks.Load() {
		words := unsafe.Slice((*uint64)(unsafe.Pointer(&c.recs[0])), len(c.recs)*int(slotLen)/8)
		for i := 0; i < len(words); i += len(buf) {
			n := min(len(buf), len(words)-i)
			for k := range n {
				buf[k] = atomic.LoadUint64(&words[i+k])
			}
			if _, err := f.fd.WriteAt(out[:n*8], offset(c.first)+int64(i)*8); err != nil {
				return err
			}
		}
	}
	return f.fd.Sync()
}
