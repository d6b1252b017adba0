//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package counter

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestFailingDisk lets syncs fail: the counters go on, Err says so, OnError is
// told once a minute, and all is well again by itself.
func TestFailingDisk(t *testing.T) {
	var fail atomic.Pointer[error]
	syncs := make(chan error)
	sys := theSystem
	failing := func(sync func(*File) error) func(*File) error {
		return func(f *File) error {
			p := fail.Load()
			if p == nil {
				return sync(f)
			}
			syncs <- *p
			return *p
		}
	}
	sys.syncAll, sys.finish = failing(sys.syncAll), failing(sys.finish)
	o := quiet()
	o.Sync = time.Millisecond
	told := make(chan error, 100)
	o.OnError = func(err error) { told <- err }
	path := newPath(t)
	f := openSys(t, path, o, sys)
	var clock atomic.Int64
	f.errMu.Lock()
	f.now = func() time.Time { return time.Unix(1e9+clock.Load(), 0) }
	f.errMu.Unlock()
	s := slot(t, f, 1)
	for n, errno := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		clock.Add(60)
		fail.Store(&errno)
		for i := range 5 {
			if _, err := s.Add(1); err != nil {
				t.Fatal(err)
			}
			<-syncs // tried again each time
			if i > 0 && (!errors.Is(f.Err(), errno) || !errors.Is(f.Risk(), errno)) {
				t.Fatal(f.Err(), f.Risk())
			}
			clock.Add(10)
		}
		if len(told) != 1 {
			t.Fatalf("told %d times within a minute", len(told))
		}
		if err := <-told; !errors.Is(err, errno) || !strings.Contains(err.Error(), path) {
			t.Fatal(err)
		}
		fail.Store(nil)
		for await(f, func() bool { return f.Err() == nil && f.Risk() == nil }, syncs); len(told) > 0; {
			<-told
		}
		if s.Used() != int64(5*(n+1)) {
			t.Fatal(s.Used())
		}
	}
	mustClose(t, f)
	if f = open(t, path, quiet()); !f.Recovery().Clean || slot(t, f, 1).Used() != 15 {
		t.Fatalf("%+v", f.Recovery())
	}
}

// await lets the file go on until ok.
func await(f *File, ok func() bool, syncs chan error) {
	for !ok() {
		select {
		case <-syncs:
		default:
			f.dirty.Store(true)
		}
	}
}

func TestCloseOnAFailingDisk(t *testing.T) {
	d := &powerDisk{image: newPath(t)}
	path := newPath(t)
	f := openSys(t, path, quiet(), d.system())
	slot(t, f, 1).SetUsed(5)
	d.fail = syscall.EIO
	if err := f.Close(); !errors.Is(err, d.fail) {
		t.Fatal(err)
	}
	if _, err := openWith(path, quiet(), d.system()); !errors.Is(err, d.fail) {
		t.Fatal(err)
	}
	d.fail = nil
	f = openSys(t, path, quiet(), d.system())
	if f.Recovery().Clean || slot(t, f, 1).Used() != 5 {
		t.Fatalf("%+v", f.Recovery())
	}
}

// TestNoRoom lets growth fail, and then not: the slots that there are go on.
func TestNoRoom(t *testing.T) {
	full := true
	sys := theSystem
	sys.allocate = func(fd *os.File, off, n int64) error {
		if full && off > headerLen {
			_, err := fd.WriteAt(make([]byte, 1000), off) // a bit of room was left
			return errors.Join(syscall.ENOSPC, err)
		}
		return theSystem.allocate(fd, off, n)
	}
	path := newPath(t)
	f := openSys(t, path, quiet(), sys)
	fill(t, f, minGrowth)
	if _, err := f.Slot(id(minGrowth)); !errors.Is(err, syscall.ENOSPC) || !errors.Is(f.Err(), syscall.ENOSPC) {
		t.Fatal(err, f.Err())
	}
	if f.Risk() != nil {
		t.Fatal("a want of room puts what is counted at risk:", f.Risk())
	}
	if info, err := os.Stat(path); err != nil || info.Size() != offset(minGrowth) {
		t.Fatal(info.Size(), err)
	}
	f.tick()
	fill(t, f, minGrowth)
	full = false
	f.tick() // makes room by itself
	if f.Err() != nil || f.capacity != 2*minGrowth {
		t.Fatal(f.Err(), f.capacity)
	}
	if s := slot(t, f, minGrowth); s.Used() != 0 || slot(t, f, 3).Used() != 2 {
		t.Fatal(s.Used())
	}
}

// fill adds one to each of n slots.
func fill(t *testing.T, f *File, n int) {
	t.Helper()
	for i := range n {
		if _, err := slot(t, f, i).Add(1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFileAccess(t *testing.T) {
	path, content := sampleFile(t)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	mustClose(t, open(t, path, quiet()))
	for _, p := range []string{path, func() string { p := newPath(t); mustClose(t, open(t, p, quiet())); return p }()} {
		if info, err := os.Stat(p); err != nil || info.Mode() != 0o600 {
			t.Fatal(info.Mode(), err)
		}
	}
	if left, err := filepath.Glob(path + ".new-*"); err != nil || len(left) > 0 {
		t.Fatal(left, err)
	}
	if _, err := Open(filepath.Dir(path), quiet()); err == nil {
		t.Fatal("a directory was opened")
	}
	if _, err := Open(filepath.Join(path, "x"), quiet()); err == nil {
		t.Fatal("a file below a file was opened")
	}
	_ = content
}

// TestTwoProcesses opens the file while a child has it.
func TestTwoProcesses(t *testing.T) {
	path := newPath(t)
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	if _, err := in.ReadByte(); err != nil { // it counts
		t.Fatal(err)
	}
	if _, err := Open(path, quiet()); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	f := open(t, path, quiet())
	if _, err := Open(path, quiet()); !errors.Is(err, ErrLocked) {
		t.Fatal("twice in one process:", err)
	}
	mustClose(t, f)
	mustClose(t, open(t, path, quiet()))
}
