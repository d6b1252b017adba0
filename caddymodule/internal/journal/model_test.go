package journal

import (
	"math/rand/v2"
	"os"
	"testing"
)

// powerDisk is the disk as a power cut leaves it: pages that were not synced are
// as they were at the last sync, or as they are now, or between.
type powerDisk struct {
	path    string
	durable []byte
}

func (d *powerDisk) system() system {
	sys := theSystem
	sys.allocate = func(fd *os.File, off, n int64) error {
		err := theSystem.allocate(fd, off, n)
		for int64(len(d.durable)) < off+n { // Sync of the file follows
			d.durable = append(d.durable, 0)
		}
		return err
	}
	sys.sync = func(fd *os.File, c *chunk, from, to int) error {
		from &^= pageLen - 1
		to = min((to+pageLen-1)&^(pageLen-1), len(c.mem))
		copy(d.durable[int(c.off)+from-c.pad:], c.mem[from:to])
		return theSystem.sync(fd, c, from, to)
	}
	return sys
}

// cut returns the path of what is left.
func (d *powerDisk) cut(t *testing.T, rnd *rand.Rand) string {
	t.Helper()
	now, err := os.ReadFile(d.path)
	check(t, err)
	copy(d.durable, now[:headerLen])
	for at := headerLen; at+pageLen <= len(d.durable); at += pageLen {
		switch rnd.IntN(3) {
		case 0:
			copy(now[at:at+pageLen], d.durable[at:])
		case 1: // sectors may come one by one
			n := rnd.IntN(pageLen/512) * 512
			copy(now[at:at+n], d.durable[at:])
		}
	}
	to := newPath(t)
	check(t, os.WriteFile(to, now, 0o600))
	return to
}

// journalModel drives a journal at random, and its storage beside.
type journalModel struct {
	t       *testing.T
	rnd     *rand.Rand
	disk    *powerDisk
	f       *File
	opens   uint64
	next    int          // number of the next record
	waiting map[int]bool // that were taken and not stored
	synced  map[int]bool // of these, those that no power cut takes
	drained map[int]bool // and those that the reader has in memory
	stored  Position
}

// open begins a process on a file. All that came back is waiting again.
func (m *journalModel) open(path string) {
	m.disk = &powerDisk{path: path}
	if b, err := os.ReadFile(path); err == nil {
		m.disk.durable = b
	}
	m.opens++
	m.f = openSys(m.t, path, Options{After: m.stored, From: m.opens << 20, Shards: 1 << m.rnd.IntN(3), Segments: 16}, m.disk.system())
	m.drained = numbersIn(m.t, m.f)
}

func (m *journalModel) step() {
	switch m.rnd.IntN(8) {
	case 0, 1, 2:
		for range m.rnd.IntN(600) {
			if r := numbered(m.next); m.f.Append(&r) {
				m.waiting[m.next] = true
			}
			m.next++
		}
	case 3:
		for n := range numbersIn(m.t, m.f) {
			if m.drained[n] || !m.waiting[n] {
				m.t.Fatalf("record %d came", n)
			}
			m.drained[n] = true
		}
	case 4:
		check(m.t, m.f.Sync())
		for n := range m.drained {
			m.synced[n] = true
		}
	case 5:
		check(m.t, m.f.Prepare())
	case 6: // the storage takes what was drained, and perhaps nobody is told
		m.stored = m.f.Position()
		for n := range m.drained {
			delete(m.waiting, n)
			delete(m.synced, n)
		}
		clear(m.drained)
		if m.rnd.IntN(3) > 0 {
			m.f.Release(m.stored)
		}
	}
}

// end is that of the process, or of the machine, and the beginning of the next.
func (m *journalModel) end() {
	if m.rnd.IntN(2) == 0 {
		m.open(leave(m.t, m.disk.path))
		for n := range m.waiting {
			if !m.drained[n] {
				m.t.Fatalf("record %d is lost by a kill", n)
			}
		}
	} else {
		m.open(m.disk.cut(m.t, m.rnd))
		for n := range m.synced {
			if !m.drained[n] {
				m.t.Fatalf("record %d is lost by a power cut", n)
			}
		}
	}
	for n := range m.drained {
		if !m.waiting[n] {
			m.t.Fatalf("record %d came though it was stored", n)
		}
	}
	clear(m.waiting)
	clear(m.synced)
	for n := range m.drained {
		m.waiting[n], m.synced[n] = true, true // all of the file is on the disk
	}
}

func TestModel(t *testing.T) {
	seeds := uint64(12)
	if testing.Short() || raceEnabled {
		seeds = 5
	}
	for seed := range seeds {
		m := &journalModel{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), waiting: map[int]bool{}, synced: map[int]bool{}}
		m.open(newPath(t))
		ends := 0
		for range 300 {
			if m.step(); m.rnd.IntN(25) == 0 {
				m.end()
				ends++
			}
		}
		if m.next < 10_000 || ends == 0 {
			t.Errorf("seed %d: %d records, %d ends: the test tests nothing", seed, m.next, ends)
		}
		check(t, m.f.Close())
	}
}

// A sync that failed makes its pages durable when it is done again.
func TestSyncFails(t *testing.T) {
	disk := &powerDisk{path: newPath(t)}
	sys, fail := disk.system(), true
	good := sys.sync
	sys.sync = func(fd *os.File, c *chunk, from, to int) error {
		if fail {
			return os.ErrPermission
		}
		return good(fd, c, from, to)
	}
	disk.durable = make([]byte, headerLen)
	f := openSys(t, disk.path, Options{}, sys)
	appendAll(t, f, 0, 100)
	numbersIn(t, f)
	if err := f.Sync(); err == nil {
		t.Error("synced")
	}
	fail = false
	check(t, f.Sync())
	now, err := os.ReadFile(disk.path)
	check(t, err)
	copy(disk.durable, now[:headerLen])
	check(t, os.WriteFile(disk.path+"x", disk.durable, 0o600))
	if got := numbersIn(t, open(t, disk.path+"x", Options{})); len(got) != 100 {
		t.Errorf("%d records", len(got))
	}
}
