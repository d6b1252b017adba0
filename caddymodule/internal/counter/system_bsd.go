//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package counter

import (
	"os"

	"golang.org/x/sys/unix"
)

var theSystem = system{
	mapFile: mapFile, seal: sealMemory, lock: lockFile, unlock: unlockFile,
	syncAll: syncFile, syncSlot: syncOne, allocate: allocateByWriting,
	fillHoles: func(*os.File, int64) error { return nil },
	bootID:    func() [16]byte { return [16]byte{} },
}

func syncFile(f *File) error {
	for _, c := range *f.chunks.Load() {
		if err := unix.Msync(c.mem, unix.MS_SYNC); err != nil && f.gone() == nil {
			return err
		}
	}
	return flushDisk(f)
}

// flushDisk has the disk empty its cache, which msync does not do on all of
// these.
func flushDisk(f *File) error { return f.fd.Sync() }
