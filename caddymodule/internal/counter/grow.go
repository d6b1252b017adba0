package counter

import (
	"errors"
	"math"
	"os"
)

// errFull is what 2^32 slots, 256 GiB, come to.
var errFull = errors.New("counter file has no more numbers for slots")

// grow makes room if the capacity is still seen. Slots are used meanwhile; they
// stay where they are.
func (f *File) grow(seen uint32) error {
	f.growMu.Lock()
	defer f.growMu.Unlock()
	f.mu.RLock()
	capacity := f.capacity
	f.mu.RUnlock()
	if capacity != seen {
		return nil
	}
	if err := f.gone(); err != nil {
		return err
	}
	err := f.extend(capacity, growth(capacity))
	if err != nil {
		err = f.wrap(err)
	}
	f.set(troubleGrow, err)
	return err
}

func growth(capacity uint32) uint32 { return min(max(capacity, minGrowth), maxGrowth) }

// extend adds n slots. They are on the disk as zeros, and the header says so,
// before the first is used: no page is a hole that a full disk could refuse,
// and a file that is cut off is noticed.
func (f *File) extend(capacity, n uint32) error {
	if capacity > math.MaxUint32-n {
		return errFull
	}
	err := f.sys.allocate(f.fd, offset(capacity), int64(n)*slotLen)
	if err == nil {
		err = f.syncAll()
	}
	if err != nil {
		return errors.Join(err, f.fd.Truncate(offset(capacity)))
	}
	c, err := f.mapSlots(capacity, n)
	if err != nil {
		return errors.Join(err, f.fd.Truncate(offset(capacity)))
	}
	err = f.writeState(state{boot: f.boot(), capacity: uint64(capacity + n)})
	if err == nil {
		err = f.syncAll()
	}
	if err != nil {
		f.sys.seal(c.mem)
		return err // the file stays long: the header may say so already
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.gone(); err != nil {
		f.sys.seal(c.mem)
		return err
	}
	chunks := append(append([]*chunk(nil), *f.chunks.Load()...), c)
	f.chunks.Store(&chunks)
	f.capacity = capacity + n
	return nil
}

// growAhead makes room before there is none, so that a request need not wait.
func (f *File) growAhead() {
	f.mu.RLock()
	left, capacity := f.capacity-f.next+uint32(len(f.free)), f.capacity
	f.mu.RUnlock()
	if left < growth(capacity)/4 && !f.blocked() {
		_ = f.grow(capacity) // it is in Err
	}
}

// blocked reports whether new ids are refused.
func (f *File) blocked() bool { return len(f.recovery.Damaged) > 0 && !f.opt.DropDamaged }

func (f *File) writeState(s state) error {
	s.fold = f.fold
	_, err := f.fd.WriteAt(s.encode(), stateAt)
	return err
}

func (f *File) boot() [16]byte { return f.sys.bootID() }

// allocateByWriting fills a part of the file with zeros, so that it has its
// place on the disk and needs no more of the file system's own records. It
// writes page by page: of what is written together linux makes large pages, and
// a large page is written as a whole for each slot that is touched in it.
func allocateByWriting(f *os.File, off, n int64) error {
	zeros := make([]byte, min(n, 4096))
	for n > 0 {
		m, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(m), n-int64(m)
	}
	return nil
}
