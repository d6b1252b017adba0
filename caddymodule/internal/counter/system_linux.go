package counter

import (
	"encoding/hex"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

var theSystem = system{
	mapFile: mapped.Map, seal: mapped.Seal, lock: lockFile, unlock: mapped.Unlock,
	syncAll: syncFile, syncSlot: syncOne, allocate: mapped.Allocate, fillHoles: mapped.FillHoles, bootID: bootID,
}

// syncFile writes what is changed in memory, too: the kernel notes at the first
// store into a mapped page that it has to be written.
func syncFile(f *File) error { return unix.Fdatasync(int(f.fd.Fd())) }

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
