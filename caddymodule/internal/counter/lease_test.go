package counter

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

// powerDisk is a disk that has what was synced, and now and then a page that
// the kernel wrote of its own accord.
type powerDisk struct {
	image string
	fail  error // of syncs, if not nil
	boot  byte
	seen  func(f *File) // at each sync of a slot
	calls int
}

const page = 4096

func (d *powerDisk) system() system {
	s := theSystem
	s.bootID = func() [16]byte { return [16]byte{1: 1, 0: d.boot} }
	s.syncAll = func(f *File) error {
		d.calls++
		if d.fail != nil {
			return d.fail
		}
		b, err := os.ReadFile(f.path)
		if err == nil {
			err = os.WriteFile(d.image, b, 0o600)
		}
		return err
	}
	s.syncSlot = func(f *File, n uint32) error {
		if d.seen != nil {
			d.seen(f)
		}
		if d.calls++; d.fail != nil {
			return d.fail
		}
		return d.writePage(f, offset(n)/page)
	}
	return s
}

func (d *powerDisk) writePage(f *File, n int64) error {
	b := make([]byte, page)
	if _, err := f.fd.ReadAt(b, n*page); err != nil {
		return err
	}
	out, err := os.OpenFile(d.image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = out.WriteAt(b, n*page)
	return errors.Join(err, out.Close())
}

// TestPowerCut cuts the power at random moments. What was spent under leases is
// never more than what is found, and that is at most the lease; nothing else
// is more than it was.
func TestPowerCut(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	image := newPath(t)
	d := &powerDisk{image: image}
	path := newPath(t)
	spent, leased := map[int]int64{}, map[int]int64{}
	raised := 0
	for round := range 40 {
		d.boot = byte(round)
		f := openSys(t, path, quiet(), d.system())
		r := f.Recovery()
		raised += r.Raised
		if round > 0 && (r.Clean || r.SameBoot || len(r.Damaged) > 0) {
			t.Fatalf("%+v", r)
		}
		for n, used := range spent {
			s := slot(t, f, n)
			if s.Used() < used || s.Used() > max(leased[n], used) {
				t.Fatalf("round %d: slot %d has %d, spent were %d of %d", round, n, s.Used(), used, leased[n])
			}
			spent[n], leased[n] = s.Used(), s.Used()
		}
		for range rnd.IntN(300) {
			spend(t, f, rnd, spent, leased)
			if rnd.IntN(10) == 0 {
				if err := d.writePage(f, rnd.Int64N(offset(f.capacity)/page)); err != nil {
					t.Fatal(err)
				}
			}
		}
		crash(t, f)
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, b)
	}
	if raised < 100 {
		t.Fatalf("only %d leases were recovered: the test proves nothing", raised)
	}
}

// spend spends in one of 150 slots, and leases what it lacks.
func spend(t *testing.T, f *File, rnd *rand.Rand, spent, leased map[int]int64) {
	t.Helper()
	n, amount := rnd.IntN(150), 1+rnd.Int64N(20)
	s := slot(t, f, n)
	if s.Used()+amount > s.Leased() {
		if err := s.Lease(s.Used() + 50); err != nil {
			t.Fatal(err)
		}
		leased[n] = max(leased[n], s.Leased())
	}
	sum, err := s.Add(amount)
	if err != nil || sum > s.Leased() {
		t.Fatal(sum, s.Leased(), err)
	}
	spent[n] = sum
}

// The rule of recovery, by how the process and the machine ended.
func TestRecoveryRule(t *testing.T) {
	for _, c := range []struct {
		name               string
		clean, otherBoot   bool
		used, lease, found int64
	}{
		{"stopped in order", true, false, 10, 100, 10},
		{"stopped in order, other boot", true, true, 10, 100, 10},
		{"killed", false, false, 10, 100, 10},
		{"power cut", false, true, 10, 100, 100},
		{"power cut, no lease", false, true, 10, 0, 10},
		{"power cut, above the lease", false, true, 110, 100, 110},
		{"power cut, less than nothing used", false, true, -5, 0, -5},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &powerDisk{image: newPath(t)}
			path := newPath(t)
			f := openSys(t, path, quiet(), d.system())
			s := slot(t, f, 1)
			if err := s.Lease(c.lease); err != nil || s.Leased() != c.lease {
				t.Fatal(s.Leased(), err)
			}
			s.SetUsed(c.used)
			if c.clean {
				mustClose(t, f)
			} else {
				crash(t, f)
			}
			if c.otherBoot {
				d.boot++
			}
			for range 2 { // the second time after a power cut at once
				f = openSys(t, path, quiet(), d.system())
				if s = slot(t, f, 1); s.Used() != c.found || s.Leased() > max(c.found, 0) {
					t.Fatalf("used %d, want %d, leased %d", s.Used(), c.found, s.Leased())
				}
				crash(t, f)
				d.boot++
			}
		})
	}
}

// A lease is seen only once it is durable, and not at all if the disk fails or
// a new period begins meanwhile.
func TestLease(t *testing.T) {
	d := &powerDisk{image: newPath(t)}
	f := openSys(t, newPath(t), quiet(), d.system())
	s := slot(t, f, 1)
	d.seen = func(*File) {
		if s.Leased() != 0 || s.r.promised.Load() != 100 {
			t.Errorf("leased %d, promised %d while the disk writes", s.Leased(), s.r.promised.Load())
		}
	}
	if err := s.Lease(100); err != nil || s.Leased() != 100 {
		t.Fatal(s.Leased(), err)
	}
	d.seen = nil
	calls := d.calls
	if err := s.Lease(60); err != nil || s.Leased() != 100 || d.calls != calls {
		t.Fatal("a smaller lease", s.Leased(), err)
	}
	d.fail = errors.New("disk on fire")
	if err := s.Lease(200); !errors.Is(err, d.fail) || s.Leased() != 100 || !errors.Is(f.Err(), d.fail) {
		t.Fatal(s.Leased(), err, f.Err())
	}
	d.fail = nil
	d.seen = func(*File) {
		if err := s.Turn(2, 7, 0); err != nil {
			t.Error(err)
		}
	}
	if err := s.Lease(300); !errors.Is(err, ErrTurned) || s.Leased() != 7 || s.Used() != 7 {
		t.Fatal(s.Leased(), err)
	}
}

// Leases that come while the disk is busy share a sync.
func TestLeasesTogether(t *testing.T) {
	const n = 200
	d := &powerDisk{image: newPath(t)}
	f := openSys(t, newPath(t), quiet(), d.system())
	slots := make([]*Slot, n)
	for i := range slots {
		slots[i] = slot(t, f, i)
	}
	before := d.calls
	f.syncMu.Lock() // the disk is busy
	var wg sync.WaitGroup
	for _, s := range slots {
		wg.Go(func() {
			if err := s.Lease(10); err != nil || s.Leased() != 10 {
				t.Error(s.Leased(), err)
			}
		})
	}
	for queued := 0; queued < n; {
		f.leases.mu.Lock()
		if f.leases.next != nil {
			queued = len(f.leases.next.slots)
		}
		f.leases.mu.Unlock()
	}
	f.syncMu.Unlock()
	wg.Wait()
	if d.calls-before > fewPages {
		t.Fatalf("%d syncs for %d leases", d.calls-before, n)
	}
}
