package counter

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A file that somebody cuts off does not end the process, and is not taken for
// one of zeros if it grows again.
func TestCutOffWhileOpen(t *testing.T) {
	for _, seenBy := range []string{"use", "tick"} {
		f := open(t, newPath(t), quiet())
		fill(t, f, 900)
		first, last := slot(t, f, 0), slot(t, f, 899)
		if err := os.Truncate(f.path, headerLen+100); err != nil {
			t.Fatal(err)
		}
		if seenBy == "tick" {
			f.tick()
		}
		err := use(f, func() { _, _ = last.Add(1) })
		if !errors.Is(err, ErrLost) || !errors.Is(f.Err(), ErrLost) {
			t.Fatal(err, f.Err())
		}
		if err := os.Truncate(f.path, offset(f.capacity)); err != nil {
			t.Fatal(err)
		}
		f.tick()
		_, err = f.Slot(id(5))
		for what, err := range map[string]error{
			"Used": use(f, func() { _ = first.Used() }), "Slot": err, "Turn": last.Turn(1, 1, 1),
			"Lease": first.Lease(10), "Flush": f.Flush(), "Each": f.Each(func(*Slot) bool { return true }),
		} {
			if !errors.Is(err, ErrLost) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := f.Close(); !errors.Is(err, ErrLost) {
			t.Fatal(err)
		}
		if f = open(t, f.path, quiet()); f.Recovery().Clean {
			t.Fatal("the mark of an orderly stop")
		}
	}
}

// A page that the system does not let be written is an error of its users, and
// over when it is over.
func TestPageFault(t *testing.T) {
	if raceDetector {
		t.Skip("stores are made in C, where a fault ends the process")
	}
	f := open(t, newPath(t), quiet())
	s := slot(t, f, 1)
	mem := (*f.chunks.Load())[0].mem
	if err := unix.Mprotect(mem, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	f.tick()
	if err := use(f, func() { _, _ = s.Add(1) }); !errors.Is(err, ErrFault) || !errors.Is(f.Err(), ErrFault) {
		t.Fatal(err, f.Err())
	}
	_, err := f.Slot(id(2))
	for what, err := range map[string]error{"Slot": err, "Turn": s.Turn(1, 2, 3), "Lease": s.Lease(9)} {
		if !errors.Is(err, ErrFault) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if f.tick(); !errors.Is(f.Err(), ErrFault) {
		t.Fatal(f.Err())
	}
	if err := unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	if f.tick(); f.Err() != nil {
		t.Fatal(f.Err())
	}
	if err := s.Turn(1, 2, 3); err != nil || s.Used() != 2 || f.Len() != 1 || slot(t, f, 2).n != 1 {
		t.Fatal(err, s.Used(), f.Len())
	}
}

// A copy that was made with holes has none once it is open.
func TestHoles(t *testing.T) {
	path, content := sampleFile(t)
	write(t, path, content[:headerLen+8192])
	if err := os.Truncate(path, int64(len(content))); err != nil {
		t.Fatal(err)
	}
	f := open(t, path, quiet())
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.fd.Fd()), &st); err != nil || st.Blocks*512 < int64(len(content)) || f.Len() != 5 {
		t.Fatal(st.Blocks, err)
	}
}

// TestFileSizeLimit grows against the limit of the process.
func TestFileSizeLimit(t *testing.T) {
	f := open(t, newPath(t), quiet())
	fill(t, f, minGrowth)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	lim := old
	lim.Cur = uint64(offset(minGrowth) + 5000)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &lim); err != nil {
		t.Fatal(err)
	}
	_, err := f.Slot(id(minGrowth))
	if e := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, syscall.EFBIG) || f.Err() == nil {
		t.Fatal(err)
	}
	fill(t, f, minGrowth+1)
	if f.Err() != nil {
		t.Fatal(f.Err())
	}
}

// TestFullDisk grows on a file system of 256 KiB.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("no file system can be mounted here:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	f := open(t, filepath.Join(dir, "keytoll.counters"), quiet())
	fill(t, f, minGrowth) // 68 KiB
	n := minGrowth
	var err error
	for ; err == nil; n++ {
		_, err = f.Slot(id(n))
	}
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(f.Err(), syscall.ENOSPC) {
		t.Fatal(err, f.Err())
	}
	fill(t, f, minGrowth)
	if got := slot(t, f, 7).Used(); got != 2 {
		t.Fatal(got)
	}
	path := f.path
	mustClose(t, f)
	if f = open(t, path, quiet()); !f.Recovery().Clean || f.Len() != n-1 {
		t.Fatalf("%+v, want %d", f.Recovery(), n-1)
	}
	big := quiet()
	big.Slots = 1 << 16
	if _, err := Open(filepath.Join(dir, "other"), big); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "other*")); len(left) > 0 {
		t.Fatal(left)
	}
	mustClose(t, f)
}
