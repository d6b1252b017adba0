package counter

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// The kinds of trouble that a file can be in at once, the worst first.
const (
	troubleGone  = iota // closed or lost, for good
	troubleFault        // a page could not be read or written
	troubleSync         // the disk did not take what was written
	troubleGrow         // there is no room for more slots
	troubleKinds
)

// troubles is what is wrong with a file now.
type troubles struct {
	shown    atomic.Pointer[error] // the worst; nil if there is none
	risk     atomic.Pointer[error] // likewise, without troubleGrow
	goneErr  atomic.Pointer[error]
	troubled atomic.Uint32 // bits of kinds

	errMu    sync.Mutex
	errs     [troubleKinds]error
	faultAt  uintptr
	reported time.Time
	now      func() time.Time
}

// Err returns what is wrong now, nil if nothing is. Until a sync succeeds
// again counters go on in memory; they are safe from a kill, not from a power
// cut. It costs a nanosecond.
func (f *File) Err() error {
	if p := f.shown.Load(); p != nil {
		return *p
	}
	return nil
}

// Risk returns what is wrong with the counters that there are: what Err does,
// but for a want of room, which only those without a slot are refused for. It
// costs a nanosecond.
func (f *File) Risk() error {
	if p := f.risk.Load(); p != nil {
		return *p
	}
	return nil
}

func (f *File) gone() error {
	if p := f.goneErr.Load(); p != nil {
		return *p
	}
	return nil
}

func (f *File) has(kind int) bool { return f.troubled.Load()&(1<<kind) != 0 }

// set notes that there is a trouble, or, with nil, that it is over.
func (f *File) set(kind int, err error) {
	if err == nil && !f.has(kind) {
		return
	}
	f.errMu.Lock()
	f.errs[kind] = err
	var worst, risk error
	bits := uint32(0)
	for k := troubleKinds - 1; k >= 0; k-- {
		if f.errs[k] != nil {
			worst, bits = f.errs[k], bits|1<<k
			if k != troubleGrow {
				risk = worst
			}
		}
	}
	f.troubled.Store(bits)
	show(&f.shown, worst)
	show(&f.risk, risk)
	if kind == troubleGone {
		f.goneErr.Store(&err)
	}
	now := f.now()
	tell := err != nil && f.opt.OnError != nil && !errors.Is(err, ErrClosed) &&
		(f.reported.IsZero() || now.Sub(f.reported) >= reportEvery)
	if tell {
		f.reported = now
	}
	f.errMu.Unlock()
	if tell {
		f.opt.OnError(err)
	}
}

func show(at *atomic.Pointer[error], err error) {
	if err == nil {
		at.Store(nil)
	} else {
		at.Store(&err)
	}
}

// Guard is to be deferred by whoever uses slots, before any lock is taken:
//
//	defer f.Guard(debug.SetPanicOnFault(true), &err)
//
// A page that the disk does not give, or a file that was cut off or closed,
// would otherwise end the process. With Guard the function ends there, its
// other deferred calls run, and err is ErrFault, ErrLost or ErrClosed. Other
// panics go on. It costs a few nanoseconds and no memory.
func (f *File) Guard(old bool, err *error) {
	debug.SetPanicOnFault(old)
	if r := recover(); r != nil {
		*err = f.fault(r)
	}
}

// guarded runs fn under a Guard.
func (f *File) guarded(fn func()) (err error) {
	defer f.Guard(debug.SetPanicOnFault(true), &err)
	fn()
	return nil
}

// fault returns the error for what was recovered, or panics again.
func (f *File) fault(r any) error {
	e, ok := r.(interface {
		error
		Addr() uintptr
	})
	if !ok || !f.owns(e.Addr()) {
		panic(r)
	}
	if err := f.gone(); err != nil {
		return err
	}
	if err := f.checkSize(); err != nil {
		return err
	}
	err := f.wrap(fmt.Errorf("%w: a fault at slot memory", ErrFault))
	f.errMu.Lock()
	f.faultAt = e.Addr()
	f.errMu.Unlock()
	f.set(troubleFault, err)
	return err
}

func within(mem []byte, at uintptr) bool {
	return len(mem) > 0 && at-uintptr(unsafe.Pointer(&mem[0])) < uintptr(len(mem))
}

func (f *File) owns(at uintptr) bool {
	for _, c := range *f.chunks.Load() {
		if within(c.mem, at) {
			return true
		}
	}
	return within(f.header, at)
}

// probe sees whether the page that faulted is there again.
func (f *File) probe() {
	if !f.has(troubleFault) {
		return
	}
	f.errMu.Lock()
	at := f.faultAt
	f.errMu.Unlock()
	err := f.guarded(func() {
		for _, c := range *f.chunks.Load() {
			if within(c.mem, at) {
				i := int(at-uintptr(unsafe.Pointer(&c.recs[0]))) / int(slotLen)
				c.recs[min(max(i, 0), len(c.recs)-1)].used.Add(0)
			}
		}
		if within(f.header, at) {
			f.journal.slot.Add(0)
		}
	})
	if err == nil {
		f.set(troubleFault, nil)
	}
}

// checkSize sees whether somebody cut off the file. What was in the part that
// is gone is gone, and reads as zero if the file grows again: all slots are
// closed then.
func (f *File) checkSize() error {
	info, err := f.fd.Stat()
	if errors.Is(err, os.ErrClosed) {
		return f.wrap(ErrClosed)
	}
	if err != nil {
		return nil // says nothing of the size
	}
	f.mu.RLock()
	want := offset(f.capacity)
	f.mu.RUnlock()
	if info.Size() >= want {
		return nil
	}
	err = f.wrap(fmt.Errorf("%w: %d bytes of %d are left", ErrLost, info.Size(), want))
	f.set(troubleGone, err)
	f.sealAll()
	return err
}

// sealAll makes every later use of a slot a fault.
func (f *File) sealAll() {
	f.mu.RLock() // extend looks whether the file is gone under mu
	defer f.mu.RUnlock()
	for _, c := range *f.chunks.Load() {
		f.sys.seal(c.mem)
	}
	f.sys.seal(f.header)
}
