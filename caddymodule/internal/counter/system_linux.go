package counter

import (
	"encoding/hex"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

var theSystem = system{
	mapFile: mapped.Map, seal: mapped.Seal, lock: lockFile, unlock: mapped.Unlock,
	syncAll: syncFile, syncSlot: syncOne, allocate: allocate, fillHoles: mapped.FillHoles, bootID: bootID,
	inPieces: inPieces, start: startWrite, finish: finishWrites, unlatch: populate,
}

// syncFile writes what is changed in memory, too: the kernel notes at the first
// store into a mapped page that it has to be written.
func syncFile(f *File) error { return unix.Fdatasync(int(f.fd.Fd())) }

// inPieces reports whether the file is overwritten in place by its file system,
// so that parts that were written, and a flush of the disk, are all that a sync
// is. It also has the file read in small pages, as it is made: see allocate.
func inPieces(fd *os.File) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(fd.Fd()), &st) != nil {
		return false
	}
	_ = unix.Fadvise(int(fd.Fd()), 0, 0, unix.FADV_RANDOM)
	return st.Type == unix.EXT4_SUPER_MAGIC || st.Type == unix.XFS_SUPER_MAGIC
}

// startWrite begins to write a part of the file. All that was stored there
// before is on its way when it returns.
func startWrite(f *File, off, n int64) error {
	return unix.SyncFileRange(int(f.fd.Fd()), off, n, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE)
}

// finishWrites waits for what is on its way, and then writes the header: that
// flushes the disk.
func finishWrites(f *File) error {
	if err := unix.SyncFileRange(int(f.fd.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE); err != nil {
		return err
	}
	return unix.Msync(f.header, unix.MS_SYNC)
}

// populate makes pages writable (linux 5.14 and later). That it writes nothing
// into them does not keep them from being written to the disk once more.
func populate(mem []byte) error {
	before := int(uintptr(unsafe.Pointer(&mem[0])) % uintptr(os.Getpagesize()))
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(unsafe.Pointer(&mem[0]))-uintptr(before), uintptr(len(mem)+before), unix.MADV_POPULATE_WRITE)
	if errno != 0 {
		return errno
	}
	return nil
}

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
