package counter

import (
	"math/bits"
	"time"
)

// minPause is the shortest that a timer is worth.
const minPause = 200 * time.Microsecond

// syncPieces makes durable what was changed before, in pieces of 64 pages. Of
// each, the touched pages are given to the disk and opened again at once, so
// that a request meets a page that is shut for well under a millisecond, if at
// all, and none waits for the disk. Between the pieces it rests, so that they
// are spread evenly over the time, unless the file is being closed. Leases, and all
// else that syncs, may come between.
func (f *File) syncPieces(within time.Duration) error {
	f.dirty.Store(false)
	chunks := *f.chunks.Load()
	all := 0
	for _, c := range chunks {
		all += c.marked()
	}
	r := newRest(f, within, all)
	defer r.timer.Stop()
	for _, c := range chunks {
		for i := range c.marks {
			if c.marks[i].Load() == 0 {
				continue
			}
			if err := f.syncPiece(c, i); err != nil {
				return err
			}
			r.rest()
		}
	}
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	if f.has(troubleSync) { // somebody else's sync failed meanwhile
		return f.syncWhole()
	}
	return f.finish()
}

// finish makes durable what was started, and the header. It is called with
// syncMu held.
func (f *File) finish() error {
	if err := f.gone(); err != nil {
		return err
	}
	if err := f.sys.finish(f); err != nil {
		return f.syncFailed(err)
	}
	f.openHeader()
	return nil
}

// syncHeader makes durable what was written into the header.
func (f *File) syncHeader() error {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	if !f.pieces || f.has(troubleSync) {
		return f.syncWhole()
	}
	return f.finish()
}

// syncPiece starts writing the touched pages of word i, and those between them,
// which are clean but for what a sync left open.
func (f *File) syncPiece(c *chunk, i int) error {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	if err := f.gone(); err != nil {
		return err
	}
	marks := c.marks[i].Swap(0)
	if marks == 0 { // a whole sync came between
		return nil
	}
	first, n := c.slots(i, bits.TrailingZeros64(marks), pagesInWord-bits.LeadingZeros64(marks))
	if err := f.sys.start(f, offset(first), int64(n)*slotLen); err != nil {
		return f.syncFailed(err)
	}
	f.open(c, i, marks)
	return nil
}

// marked returns how many words have marks.
func (c *chunk) marked() (n int) {
	for i := range c.marks {
		if c.marks[i].Load() != 0 {
			n++
		}
	}
	return n
}

// rest spreads so many steps over a time.
type rest struct {
	f         *File
	within    time.Duration
	timer     *time.Timer
	start     time.Time
	done, all int
}

func newRest(f *File, within time.Duration, all int) *rest {
	return &rest{f: f, within: within, timer: time.NewTimer(time.Hour), start: time.Now(), all: max(all, 1)}
}

// rest waits until it is time for the next step.
func (r *rest) rest() {
	r.done++
	wait := time.Duration(int64(r.within)*int64(min(r.done, r.all))/int64(r.all)) - time.Since(r.start)
	if wait < minPause {
		return
	}
	r.timer.Reset(wait)
	select {
	case <-r.timer.C:
	case <-r.f.stop:
	}
}
