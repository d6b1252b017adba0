package counter

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
)

// inPieces makes a disk of which parts are written at once, at some moment, and
// only stay if the sync ends.
func (d *powerDisk) inPieces() system {
	s := d.system()
	written := map[int64][]byte{} // by offset
	s.inPieces = func(*os.File) bool { return true }
	s.start = func(f *File, off, n int64) error {
		d.calls++
		b := make([]byte, n)
		_, err := f.fd.ReadAt(b, off)
		written[off] = b
		return errors.Join(err, d.fail)
	}
	s.finish = func(f *File) error {
		d.calls++
		if d.fail != nil {
			return d.fail
		}
		out, err := os.OpenFile(d.image, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		for off, b := range written {
			if _, err := out.WriteAt(b, off); err != nil {
				return err
			}
			delete(written, off)
		}
		return errors.Join(d.writePage(f, 0), out.Close())
	}
	return s
}

// What was counted before a sync that went piece by piece is there after a power
// cut, also what was counted in slots made since, and in parts by which the file
// grew; syncs that failed on the way leave nothing out of the next.
func TestPowerCutAfterPieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	d := &powerDisk{image: newPath(t)}
	path := newPath(t)
	now := map[int]int64{}
	failed := 0
	for round := range 25 {
		d.boot = byte(round)
		f := openSys(t, path, quiet(), d.inPieces())
		for n, used := range now {
			if got := slot(t, f, n).Used(); got < used {
				t.Fatalf("round %d: slot %d has %d, and a sync had %d", round, n, got, used)
			}
		}
		count := func() {
			for range rnd.IntN(400) {
				_, _ = slot(t, f, rnd.IntN(500*(round+1))).Add(1)
			}
		}
		for range 5 {
			count()
			if rnd.IntN(3) == 0 {
				d.fail = syscall.EIO
				if err := f.sync(0); !errors.Is(err, d.fail) {
					t.Fatal(err)
				}
				d.fail = nil
				failed++
			}
		}
		if err := f.sync(0); err != nil || f.Err() != nil {
			t.Fatal(err, f.Err())
		}
		clear(now)
		if err := f.Each(func(s *Slot) bool { now[number(s.ID())] = s.Used(); return true }); err != nil {
			t.Fatal(err)
		}
		count()
		crash(t, f)
		b, err := os.ReadFile(d.image)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, b)
	}
	if failed == 0 || len(now) < 3*minGrowth {
		t.Fatal("the test proves nothing", failed, len(now))
	}
}

// A sync that goes piece by piece and one of another that fails in the middle of
// it: the error is not forgotten before all was written anew.
func TestSyncFailsBetweenPieces(t *testing.T) {
	d := &powerDisk{image: newPath(t)}
	sys := d.inPieces()
	broken, whole := false, 0
	start, syncAll := sys.start, sys.syncAll
	var f *File
	sys.start = func(of *File, off, n int64) error {
		if !broken {
			broken = true
			f.syncFailed(syscall.EIO)
		}
		return start(of, off, n)
	}
	sys.syncAll = func(f *File) error { whole++; return syncAll(f) }
	f = openSys(t, newPath(t), quiet(), sys)
	slot(t, f, 1).SetUsed(7)
	before := whole
	if err := f.sync(0); err != nil || f.Err() != nil || whole != before+1 {
		t.Fatal(err, f.Err(), whole-before)
	}
}

// A sync writes what was touched since the last one, and no more.
func TestPiecesAreWhatWasTouched(t *testing.T) {
	d := &powerDisk{image: newPath(t)}
	sys := d.inPieces()
	var parts [][2]int64
	start := sys.start
	sys.start = func(f *File, off, n int64) error {
		parts = append(parts, [2]int64{off, n})
		return start(f, off, n)
	}
	o := quiet()
	o.Slots = 1 << 14
	f := openSys(t, newPath(t), o, sys)
	for n := range 10_000 {
		slot(t, f, n)
	}
	if err := f.sync(0); err != nil || len(parts) != 3 {
		t.Fatal(err, parts)
	}
	parts = nil
	for _, n := range []int{64, 65, 64 * 10, 9_999} {
		slot(t, f, n).SetUsed(1)
	}
	want := [][2]int64{{offset(64), 10 * 4096}, {offset(9_984), 4096}}
	if err := f.sync(0); err != nil || len(parts) != 2 || parts[0] != want[0] || parts[1] != want[1] {
		t.Fatal(err, parts, want)
	}
	parts = nil
	if err := f.sync(0); err != nil || len(parts) != 0 {
		t.Fatal("what was not touched is written", err, parts)
	}
}

// number is what id was made of.
func number(id [16]byte) int { return int(binary.BigEndian.Uint64(id[:])) - 1 }
