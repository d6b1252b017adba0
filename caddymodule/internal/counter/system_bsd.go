//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package counter

import (
	"golang.org/x/sys/unix"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

var theSystem = system{
	mapFile: mapped.Map, seal: mapped.Seal, lock: lockFile, unlock: mapped.Unlock,
	syncAll: syncFile, syncSlot: syncOne, allocate: allocate, fillHoles: mapped.FillHoles,
	bootID: func() [16]byte { return [16]byte{} },
}

func syncFile(f *File) error {
	for _, c := range *f.chunks.Load() {
		if err := unix.Msync(c.mem, unix.MS_SYNC); err != nil && f.gone() == nil {
			return err
		}
	}
	return mapped.FlushDisk(f.fd)
}
