package boltstore

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	syncDelay     = time.Second
	compactBeyond = 1_000_000 // entries
)

// sideFile appends to the file of revocations. It is safe for concurrent use;
// numbers are given out by the writer of the store alone.
type sideFile struct {
	path   string
	tagger *tagger
	last   uint64 // number of the newest entry; by the writer

	mu      sync.Mutex
	f       *os.File // nil until there is something to write
	fresh   bool     // the directory has to be synced as well
	count   int64    // entries in f
	limit   int64    // more than that are too many
	written uint64   // number of the last entry in f
	synced  uint64   // number of the last entry that a power cut cannot take
	waiting []entry  // committed and not written, for the disk failed
	timer   *time.Timer
	running sync.WaitGroup        // of the timer
	err     error                 // of the last attempt
	closing bool                  // no timer is set any more
	all     map[[32]byte]struct{} // all digests; nil until someone asks
}

// add appends entries that were committed. If the disk fails that is tried
// again in a second; the database has them until they are durable.
func (s *sideFile) add(entries []entry) {
	if len(entries) == 0 {
		return
	}
	s.last = entries[len(entries)-1].seq
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, entries...)
	s.know(entries)
	s.err = s.flush()
	s.arm()
}

// durable returns the number up to which all entries are on the disk.
func (s *sideFile) durable() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced
}

func (s *sideFile) arm() {
	if s.timer == nil && !s.closing {
		s.running.Add(1)
		s.timer = time.AfterFunc(syncDelay, func() {
			defer s.running.Done()
			s.sync()
		})
	}
}

// flush writes what waits. The caller holds mu.
func (s *sideFile) flush() error {
	if len(s.waiting) == 0 {
		return nil
	}
	if s.f == nil {
		f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte(revokedMagic), 0); err != nil {
			return errors.Join(err, f.Close())
		}
		s.f, s.fresh = f, true
	}
	b := make([]byte, 0, len(s.waiting)*revokedLen)
	for _, e := range s.waiting {
		b = e.appendTo(b, s.tagger)
	}
	if _, err := s.f.WriteAt(b, s.size()); err != nil {
		return err
	}
	s.count += int64(len(s.waiting))
	s.written = s.waiting[len(s.waiting)-1].seq
	s.waiting = nil
	return nil
}

func (s *sideFile) size() int64 { return int64(len(revokedMagic)) + s.count*revokedLen }

// sync runs a second after the first of some additions. Writers do not wait
// for the disk.
func (s *sideFile) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	s.err = s.flush()
	if s.err == nil {
		f, seq := s.f, s.written
		s.mu.Unlock()
		err := f.Sync()
		s.mu.Lock()
		s.err = errors.Join(err, s.syncDir())
		if s.err == nil {
			s.synced = seq
		}
	}
	if s.err == nil && s.count > s.limit {
		s.err = s.compact()
	}
	if s.err != nil || s.synced < s.written {
		s.arm()
	}
}

func (s *sideFile) syncDir() error {
	if !s.fresh {
		return nil
	}
	err := syncDir(filepath.Dir(s.path))
	s.fresh = err != nil
	return err
}

// openAt opens the file, whose entries take size bytes; nothing if that is 0. A
// mended file is written anew.
func (s *sideFile) openAt(entries []entry, size int64, mended bool) (err error) {
	if mended {
		b := []byte(revokedMagic)
		for _, e := range entries {
			b = e.appendTo(b, s.tagger)
		}
		if s.f, err = replaceFile(s.path, b); err != nil {
			return err
		}
		s.fresh = true
		return s.syncDir()
	}
	if size == 0 {
		return nil
	}
	if err := os.Truncate(s.path, size); err != nil {
		return err
	}
	s.f, err = os.OpenFile(s.path, os.O_RDWR, 0o600)
	return err
}

// compact drops all but the last entry of each digest. No digest is ever
// dropped: there may be a backup in which it is good. Writers that bury wait
// meanwhile.
func (s *sideFile) compact() error {
	if len(s.waiting) > 0 { // some of which may stand in the file and count as not there
		return nil
	}
	entries, _, err := readRevoked(s.path, s.tagger)
	if err != nil {
		return err
	}
	newest := make(map[[32]byte]uint64, len(entries))
	for _, e := range entries {
		newest[e.digest] = e.seq
	}
	b := append(make([]byte, 0, len(revokedMagic)+len(newest)*revokedLen), revokedMagic...)
	for _, e := range entries {
		if newest[e.digest] == e.seq {
			b = e.appendTo(b, s.tagger)
		}
	}
	f, err := replaceFile(s.path, b)
	if err != nil {
		return err
	}
	_ = s.f.Close()
	s.f, s.fresh, s.count = f, true, int64(len(newest))
	s.limit = max(compactBeyond, 2*s.count)
	return s.syncDir()
}

// replaceFile puts a synced file of mode 0600 that holds b in the place of
// path, and returns it. The directory is still to be synced.
func replaceFile(path string, b []byte) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// close makes all entries durable. Nothing is added any more.
func (s *sideFile) close() error {
	s.mu.Lock()
	s.closing = true // or a disk that fails would be tried for ever
	if s.timer != nil && s.timer.Stop() {
		s.running.Done()
	}
	s.mu.Unlock()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.flush()
	if s.f != nil {
		if s.synced < s.written {
			err = errors.Join(err, s.f.Sync(), s.syncDir())
		}
		err = errors.Join(err, s.f.Close())
		s.f = nil
	}
	return err
}
