package boltstore

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// Close ends although the disk fails while the last attempt is under way, which
// must not set the next one.
func TestSideFileClosesOnFailingDisk(t *testing.T) {
	s := &sideFile{path: filepath.Join(t.TempDir(), "gone", "revoked"), tagger: newTagger([32]byte{}), limit: compactBeyond}
	s.running.Add(1) // an attempt that is under way
	s.timer = time.AfterFunc(time.Hour, func() {})
	s.timer.Stop()
	s.add([]entry{{1, [32]byte{1}}})
	closed := make(chan error, 1)
	go func() { closed <- s.close() }()
	for begun := false; !begun; runtime.Gosched() {
		s.mu.Lock()
		begun = s.closing
		s.mu.Unlock()
	}
	s.sync()
	s.running.Done()
	if err := <-closed; err == nil {
		t.Error("nothing was said of an entry that was not written")
	}
	if s.timer != nil {
		t.Error("there is an attempt after the close")
	}
}

// Entries that a failed write left behind are no reason for a list that is
// compacted then to have a number twice.
func TestSideFileCompactsNothingThatWaits(t *testing.T) {
	s := &sideFile{path: filepath.Join(t.TempDir(), "revoked"), tagger: newTagger([32]byte{}), limit: compactBeyond}
	s.add([]entry{{1, [32]byte{1}}, {2, [32]byte{1}}})
	half := entry{3, [32]byte{3}}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(half.appendTo(nil, s.tagger)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s.mu.Lock()
	s.waiting = []entry{half, {4, [32]byte{4}}}
	err = s.compact()
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	entries, _, err := readRevoked(s.path, newTagger([32]byte{}))
	if err != nil || len(entries) != 4 || entries[2] != half {
		t.Errorf("%v, %v", entries, err)
	}
}
