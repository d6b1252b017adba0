package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

const (
	version   = 1
	lineLen   = 64 // of the header
	orderMark = uint32(0x01020304)
)

var (
	magic      = [8]byte{'k', 't', 'j', 'o', 'u', 'r', 'n', '\n'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Open opens the journal at path, and makes it if there is none. The file and
// its lock are the process's until Close. Records in it that come after
// o.After are given to the first Drain. After ErrDamaged and ErrOther the file
// is as it was; see SetAside.
func Open(path string, o Options) (*File, error) { return openWith(path, o, theSystem) }

func openWith(path string, o Options, sys system) (*File, error) {
	f := &File{path: path, opt: o, sys: sys, full: make(chan struct{}, 1)}
	if !mapped.Supported {
		return nil, f.wrap(ErrUnsupported)
	}
	if f.opt.Segments <= 0 {
		f.opt.Segments = DefaultSegments
	}
	err := f.openFile()
	if err == nil {
		if err = f.load(); err != nil {
			err = errors.Join(err, f.release())
		}
	}
	if err != nil {
		return nil, f.wrap(err)
	}
	return f, nil
}

// SetAside moves a journal that cannot be used to a name of its own, which it
// returns, in the place of the one that was moved there before.
func SetAside(path string) (string, error) {
	to := path + ".old"
	return to, os.Rename(path, to)
}

// openFile opens or makes the file and takes its lock.
func (f *File) openFile() error {
	fd, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	opened, err := fd.Stat()
	if err == nil && !opened.Mode().IsRegular() {
		err = fmt.Errorf("%w: it is no regular file", ErrDamaged)
	}
	if err == nil && opened.Mode().Perm()&0o077 != 0 {
		err = fd.Chmod(0o600)
	}
	if err == nil {
		err = mapped.Lock(fd)
	}
	if err == nil { // it may have been moved before it was locked
		var now os.FileInfo
		if now, err = os.Stat(f.path); err == nil && !os.SameFile(now, opened) {
			err = mapped.ErrLocked
		}
	}
	if err != nil {
		return errors.Join(err, fd.Close())
	}
	f.fd = fd
	return nil
}

// load checks the header, maps the file, and finds what is in it.
func (f *File) load() error {
	info, err := f.fd.Stat()
	if err != nil {
		return err
	}
	if err := f.loadHeader(info.Size()); err != nil {
		return err
	}
	n := int(max(info.Size()-headerLen, 0) / segmentLen)
	f.opt.Segments = max(f.opt.Segments, n)
	f.segments = make([]*segment, f.opt.Segments)
	f.shards = make([]shard, shardsFor(f.opt.Shards))
	f.seen = make([]uint64, len(f.shards))
	f.shift = uint8(64 - log2(len(f.shards)))
	for i := range f.shards {
		f.shards[i].word.Store(noSegment)
	}
	size := headerLen + int64(n)*segmentLen
	if info.Size() > size { // a growth that did not end
		if err := f.fd.Truncate(size); err != nil {
			return err
		}
	}
	if n > 0 {
		if err := mapped.FillHoles(f.fd, size); err != nil { // of a copy
			return err
		}
		if err := f.mapSegments(n); err != nil {
			return err
		}
		f.find()
		if err := f.Err(); err != nil {
			return err
		}
	}
	f.sequence = max(f.sequence, f.opt.After.Highest, f.opt.From)
	if err := f.Prepare(); err != nil && f.count == 0 {
		return err // else there is room for something, and the next Prepare tells
	}
	return nil
}

func log2(n int) (b int) {
	for ; n > 1; n >>= 1 {
		b++
	}
	return b
}

// loadHeader checks the header, or writes that of a new file. A process that
// ended while it made the file leaves zeros or nothing.
func (f *File) loadHeader(size int64) error {
	want := header(f.opt.ID)
	is := make([]byte, lineLen)
	if n, err := f.fd.ReadAt(is, 0); n < lineLen && size >= lineLen {
		return err
	}
	switch {
	case [lineLen]byte(is) == [lineLen]byte(want):
		return nil
	case [lineLen]byte(is) == [lineLen]byte{} && size <= headerLen:
		return f.begin(want)
	case [8]byte(is) != magic || binary.LittleEndian.Uint32(is[lineLen-4:]) != crc32.Checksum(is[:lineLen-4], castagnoli):
		return fmt.Errorf("%w: it does not begin like one", ErrDamaged)
	case [8]byte(is[16:]) != f.opt.ID:
		return ErrOther
	}
	return fmt.Errorf("%w: it is of another version or kind of machine", ErrDamaged)
}

func header(id [8]byte) []byte {
	b := make([]byte, lineLen)
	copy(b, magic[:])
	binary.LittleEndian.PutUint32(b[8:], version)
	ne.PutUint32(b[12:], orderMark)
	copy(b[16:], id[:])
	binary.LittleEndian.PutUint32(b[24:], segmentLen)
	binary.LittleEndian.PutUint32(b[lineLen-4:], crc32.Checksum(b[:lineLen-4], castagnoli))
	return b
}

// begin makes a new file, durable in its directory.
func (f *File) begin(line []byte) error {
	b := make([]byte, headerLen)
	copy(b, line)
	if _, err := f.fd.WriteAt(b, 0); err != nil {
		return err
	}
	if err := f.fd.Sync(); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// mapSegments maps the next n segments. They are to be zeroed before they are
// used.
func (f *File) mapSegments(n int) error {
	off := headerLen + int64(f.count)*segmentLen
	mem, pad, err := f.sys.mapFile(f.fd, off, int64(n)*segmentLen)
	if err != nil {
		return err
	}
	c := &chunk{mem: mem, pad: pad, off: off}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chunks = append(f.chunks, c)
	for i := range n {
		s := &segment{base: unsafe.Pointer(&mem[pad+i*segmentLen]), chunk: c, index: uint32(f.count)}
		f.segments[f.count] = s
		f.dirty = append(f.dirty, s)
		f.count++
	}
	return nil
}

func (c *chunk) base() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(c.mem)) }

// owns reports whether an address is of the file's memory.
func (f *File) owns(at uintptr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.chunks {
		if at-uintptr(c.base()) < uintptr(len(c.mem)) {
			return true
		}
	}
	return false
}

// find sorts out which of the segments hold records that the storage does not
// have.
func (f *File) find() {
	ok := true
	defer f.guard(debug.SetPanicOnFault(true), &ok)
	f.dirty = slices.DeleteFunc(f.dirty, func(s *segment) bool {
		sequence := s.opened(f.opt.ID)
		f.sequence = max(f.sequence, sequence)
		slot, left := f.opt.After.from(sequence)
		if sequence == 0 || !left {
			return false
		}
		s.sequence, s.found, s.drained, s.end = sequence, true, slot, slotsInSegment
		f.used = append(f.used, s)
		return true
	})
	slices.SortFunc(f.used, func(a, b *segment) int {
		if a.sequence < b.sequence {
			return -1
		}
		return 1
	})
}

// Stop has Append return false from now on. What it returned true for can still
// be drained.
func (f *File) Stop() { f.stop(nil) }

// stop takes the segments from the writers; for good if there is an error.
func (f *File) stop(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && f.broken.Load() == nil {
		f.broken.Store(&err)
	}
	f.stopped = true
	f.free = nil
	f.frees.Store(0)
	for i := range f.shards {
		f.leave(f.shards[i].word.Swap(noSegment))
	}
}

// Close stops the journal, makes durable what was drained, and lets go of the
// file. Records that were not drained are in it for the next Open. Position is
// still what it was.
func (f *File) Close() error {
	if f.fd == nil {
		return nil
	}
	f.Stop()
	f.last = f.Position()
	f.Drain(func(*Record) {}) // so that no writer is at the memory
	return errors.Join(f.wrap(f.Sync()), f.release())
}

// release lets go of everything. After a fault, or where a writer is late,
// somebody may still be at the memory, which so stays.
func (f *File) release() error {
	var err error
	late := slices.ContainsFunc(f.undrained(), func(u upTo) bool { return !u.s.found })
	if f.Err() == nil && !late {
		for _, c := range f.chunks {
			err = errors.Join(err, f.sys.unmap(c.mem))
		}
		f.chunks = nil
	}
	err = errors.Join(err, mapped.Unlock(f.fd), f.fd.Close())
	f.fd = nil
	return f.wrap(err)
}
