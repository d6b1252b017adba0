package counter

import (
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// After a sync, whole or piece by piece, counting meets no page that is shut:
// whoever wrote them has opened them again.
func TestNoFaultAfterSync(t *testing.T) {
	f := open(t, newPath(t), manySlots())
	if err := populate(f.header); err != nil {
		t.Skip("this kernel cannot: ", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slots := make([]*Slot, 10_000)
	for n := range slots {
		slots[n] = slot(t, f, n)
	}
	for what, sync := range map[string]func() error{"whole": f.syncAll, "in pieces": f.Flush} {
		countAll(slots)
		for range 3 {
			if err := sync(); err != nil {
				t.Fatal(err)
			}
			// 157 pages; the runtime's own faults are few.
			if n := faultsOf(t, func() { countAll(slots) }); n > 20 {
				t.Errorf("%s: %d faults", what, n)
			}
		}
		for _, s := range slots {
			if err := s.Turn(s.Period()+1, 0, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A sync makes next to no garbage.
func TestSyncAllocates(t *testing.T) {
	f := open(t, newPath(t), manySlots())
	s := slot(t, f, 1)
	for what, sync := range map[string]func() error{"whole": f.syncAll, "in pieces": f.Flush} {
		n := testing.AllocsPerRun(3, func() {
			_, _ = s.Add(1)
			if err := sync(); err != nil {
				t.Fatal(err)
			}
		})
		if n > 8 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
}

func manySlots() Options {
	o := quiet()
	o.Slots = 1 << 14
	return o
}

func countAll(slots []*Slot) {
	for _, s := range slots {
		_, _ = s.Add(1)
	}
}

// faultsOf returns how many pages this thread had to wait for in fn.
func faultsOf(t *testing.T, fn func()) int64 {
	t.Helper()
	var before, after syscall.Rusage
	if err := syscall.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
		t.Fatal(err)
	}
	fn()
	if err := syscall.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
		t.Fatal(err)
	}
	return int64(after.Minflt) - int64(before.Minflt)
}
