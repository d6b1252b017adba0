package boltstore

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
)

// counter is the file beside the database that holds the number of its last
// commit. bbolt falls back to the commit before when its newest meta page is
// bad, and says nothing; the counter then is ahead.
//
// It is written without a sync: a kill of the process does not lose it, and
// after a power cut it may only be behind, which is no harm.
type counter struct{ f *os.File }

const counterLen = 16

var counterMagic = [4]byte{'k', 't', 'c', '1'}

// openCounter opens or makes the file and returns the number in it, 0 if there
// is none. A counter that cannot be kept is no reason to refuse the keys: its
// file is nil then.
func openCounter(path string) (counter, uint64) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil && os.Remove(path) == nil {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return counter{}, 0
	}
	return counter{f}, counterIn(f)
}

// counterIn returns the number in the file, 0 if there is none.
func counterIn(f io.ReaderAt) uint64 {
	var b [counterLen]byte
	if _, err := f.ReadAt(b[:], 0); err != nil || [4]byte(b[:4]) != counterMagic ||
		binary.BigEndian.Uint32(b[12:]) != crc32.ChecksumIEEE(b[:12]) {
		return 0
	}
	return binary.BigEndian.Uint64(b[4:])
}

// readCounter returns the number in the file at path, 0 if there is none.
func readCounter(path string) uint64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	return counterIn(f)
}

// set writes n. It must be called after the commit, never before.
func (c counter) set(n uint64) {
	if c.f == nil {
		return
	}
	var b [counterLen]byte
	copy(b[:], counterMagic[:])
	binary.BigEndian.PutUint64(b[4:], n)
	binary.BigEndian.PutUint32(b[12:], crc32.ChecksumIEEE(b[:12]))
	_, _ = c.f.WriteAt(b[:], 0)
}

func (c counter) close() {
	if c.f != nil {
		_ = c.f.Close()
	}
}
