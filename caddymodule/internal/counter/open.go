package counter

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"
)

// Open opens the file at path, and makes it if there is none. The file and its
// lock are the process's until Close. What the last process left undone is
// recovered and durable when Open returns; see the package comment.
func Open(path string, o Options) (*File, error) { return openWith(path, o, theSystem) }

func openWith(path string, o Options, sys system) (*File, error) {
	if o.Slots <= 0 {
		o.Slots = defaultSlots
	}
	if o.Sync <= 0 {
		o.Sync = defaultSync
	}
	f := &File{path: path, opt: o, sys: sys, stop: make(chan struct{})}
	f.now = time.Now
	f.chunks.Store(new([]*chunk))
	err := f.make()
	if err == nil {
		err = f.lockFile()
	}
	if err == nil {
		if err = f.load(); err != nil {
			f.release()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening counter file %s: %w", path, err)
	}
	f.done.Add(1)
	go f.run()
	return f, nil
}

// make makes the file unless something is there. A crash leaves a whole file
// or none, and perhaps a temporary one.
func (f *File) make() error {
	if _, err := os.Stat(f.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	slots := (min(f.opt.Slots, 1<<30) + minGrowth - 1) / minGrowth * minGrowth
	tmp, err := os.CreateTemp(filepath.Dir(f.path), filepath.Base(f.path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already, but after an error
	h := make([]byte, headerLen)
	copy(h[fixedAt:], fixed(f.opt.InstallationID))
	copy(h[stateAt:], state{boot: f.boot(), stopped: true, capacity: uint64(slots)}.encode())
	_, err = tmp.WriteAt(h, 0)
	if err == nil {
		err = f.sys.allocate(tmp, headerLen, int64(slots)*slotLen)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	f.recovery.New = true
	return install(tmp.Name(), f.path)
}

// install moves tmp to path for good; what is there by then stays.
func install(tmp, path string) error {
	err := os.Link(tmp, path)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil { // a file system without hard links
		if err = os.Rename(tmp, path); err != nil {
			return err
		}
	}
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there, and need not be
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockFile opens the file and takes its lock.
func (f *File) lockFile() error {
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: it is no regular file", ErrDamaged)
	}
	fd, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	opened, err := fd.Stat()
	if err == nil && opened.Mode().Perm()&0o077 != 0 {
		err = fd.Chmod(0o600)
	}
	if err == nil {
		err = f.sys.lock(fd)
	}
	if err == nil { // the file may have been replaced before it was locked
		if info, err = os.Stat(f.path); err == nil && !os.SameFile(info, opened) {
			err = ErrLocked
		}
	}
	if err != nil {
		return errors.Join(err, fd.Close())
	}
	f.fd, f.pieces = fd, f.sys.start != nil && f.sys.inPieces(fd)
	return nil
}

// load checks the header, maps the file, and recovers what is to be recovered.
func (f *File) load() error {
	h := make([]byte, headerLen)
	if _, err := f.fd.ReadAt(h, 0); err == io.EOF {
		return fmt.Errorf("%w: it is too short", ErrDamaged)
	} else if err != nil {
		return err
	}
	if err := checkFixed(h, f.opt.InstallationID); err != nil {
		return err
	}
	st := decodeState(h)
	f.fold = st.fold
	if err := f.fit(st); err != nil {
		return err
	}
	var err error
	if f.header, _, err = f.sys.mapFile(f.fd, 0, headerLen); err != nil {
		return err
	}
	f.journal = (*journal)(unsafe.Pointer(&f.header[journalAt]))
	c, err := f.mapSlots(0, f.capacity)
	if err != nil {
		return err
	}
	f.chunks.Store(&[]*chunk{c})
	if gerr := f.guarded(func() { err = f.recover(st, c) }); gerr != nil {
		return gerr
	}
	if err != nil {
		return err
	}
	// What was recovered is durable before the header says that this process
	// runs, and that is before anything is counted.
	if err := f.syncAll(); err != nil {
		return err
	}
	if err := f.writeState(state{boot: f.boot(), capacity: uint64(f.capacity)}); err != nil {
		return err
	}
	return f.syncAll()
}

// fit sets the capacity. All of it has its place on the disk then, also in a
// copy that was made with holes.
func (f *File) fit(st state) error {
	info, err := f.fd.Stat()
	if err != nil {
		return err
	}
	slots := (info.Size() - headerLen) / slotLen
	switch {
	case slots > 1<<32-1:
		return fmt.Errorf("%w: it is too long", ErrDamaged)
	case st.damaged:
		st.capacity = uint64(slots)
	case slots < int64(min(st.capacity, 1<<40)):
		return fmt.Errorf("%w: %d slots of %d are left", ErrDamaged, slots, st.capacity)
	}
	if st.capacity == 0 {
		return fmt.Errorf("%w: it has no slots", ErrDamaged)
	}
	f.capacity = uint32(st.capacity)
	if info.Size() != offset(f.capacity) { // a growth that did not end
		if err := f.fd.Truncate(offset(f.capacity)); err != nil {
			return err
		}
	}
	return f.sys.fillHoles(f.fd, offset(f.capacity))
}

// release lets go of everything, without a mark.
func (f *File) release() error {
	for _, c := range *f.chunks.Load() {
		f.sys.seal(c.mem)
	}
	if f.header != nil {
		f.sys.seal(f.header)
	}
	return errors.Join(f.sys.unlock(f.fd), f.fd.Close())
}

// Close writes everything to the disk, marks the file as stopped in order, and
// lets go of it. Slots must not be used any more; whoever does so under a
// [File.Guard] gets ErrClosed. If the disk fails there is no mark, and the
// error is returned. Later calls return the same.
func (f *File) Close() error {
	f.once.Do(func() {
		close(f.stop)
		f.done.Wait()
		f.growMu.Lock()
		defer f.growMu.Unlock()
		f.err = f.close()
	})
	return f.err
}

func (f *File) close() error {
	err := f.gone()
	if err == nil {
		err = f.syncAll() // in memory until it succeeds, so before the end
	}
	f.mu.RLock()
	count, capacity := len(f.ids), f.capacity
	f.mu.RUnlock()
	f.set(troubleGone, f.wrap(ErrClosed))
	f.syncMu.Lock() // leases see that the file is gone
	defer f.syncMu.Unlock()
	if !f.sys.heap {
		f.sealAll()
	}
	if err == nil {
		err = f.sys.syncAll(f)
	}
	if err == nil {
		err = f.writeState(state{boot: f.boot(), stopped: true, count: uint64(count), capacity: uint64(capacity)})
	}
	if err == nil {
		err = f.fd.Sync()
	}
	return errors.Join(err, f.release())
}
