package counter

import (
	"sync"
	"time"
)

// spread is the time over which the pieces of a sync are spread. The next one
// begins so much earlier: what came right after its piece was written still
// waits no longer than Options.Sync for the next.
func (f *File) spread() time.Duration { return min(f.opt.Sync/4, 250*time.Millisecond) }

// run writes to the disk until the file is closed.
func (f *File) run() {
	defer f.done.Done()
	every := f.opt.Sync
	if f.pieces {
		every -= f.spread()
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-t.C:
			f.tick()
		}
	}
}

// tick is what is done each Options.Sync.
func (f *File) tick() {
	if f.gone() != nil || f.checkSize() != nil {
		return
	}
	f.probe()
	f.growAhead()
	if f.dirty.Load() || f.has(troubleSync) {
		_ = f.sync(f.spread()) // it is in Err
	}
}

// sync makes durable what was changed before, within about the time that it is
// given, but never as one long piece of work where it need not be.
func (f *File) sync(within time.Duration) error {
	if f.pieces && !f.has(troubleSync) {
		return f.syncPieces(within)
	}
	return f.syncAll()
}

// Flush writes everything to the disk and returns when it is there.
func (f *File) Flush() error {
	if err := f.gone(); err != nil {
		return err
	}
	return f.sync(0)
}

// syncAll makes durable what was changed before. The system knows which pages
// those are.
func (f *File) syncAll() error {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	return f.syncWhole()
}

// syncWhole is syncAll for who has syncMu.
func (f *File) syncWhole() error {
	f.dirty.Store(false)
	chunks := *f.chunks.Load()
	for _, c := range chunks {
		c.take()
	}
	err := f.sys.syncAll(f)
	if err != nil {
		return f.syncFailed(err)
	}
	f.set(troubleSync, nil)
	if f.stopping() {
		return nil
	}
	f.openHeader()
	for _, c := range chunks {
		for i, marks := range c.taken {
			f.open(c, i, marks)
		}
	}
	return nil
}

// syncFailed is called with syncMu held. A system reports a page that it could
// not write once, and then takes it for written. So all pages are made dirty
// again before anybody else can ask.
func (f *File) syncFailed(err error) error {
	_ = f.guarded(func() {
		f.journal.slot.Add(0)
		for _, c := range *f.chunks.Load() {
			for i := 0; i < len(c.recs); i += recordsPerTouch {
				c.recs[i].used.Add(0)
			}
			c.recs[len(c.recs)-1].used.Add(0)
		}
	})
	f.dirty.Store(true)
	err = f.wrap(err)
	f.set(troubleSync, err)
	return err
}

// leaseQueue gathers leases that wait for the disk.
type leaseQueue struct {
	mu   sync.Mutex
	next *leaseBatch
}

type leaseBatch struct {
	slots []uint32
	done  chan struct{}
	err   error // once done is closed
}

// fewPages are written one by one; for more, everything is.
const fewPages = 4

// syncSlot makes slot n durable as it is now. Those who come while the disk is
// busy wait for one sync together.
func (f *File) syncSlot(n uint32) error {
	q := &f.leases
	q.mu.Lock()
	b := q.next
	if b != nil {
		b.slots = append(b.slots, n)
		q.mu.Unlock()
		<-b.done
		return b.err
	}
	b = &leaseBatch{slots: []uint32{n}, done: make(chan struct{})}
	q.next = b
	q.mu.Unlock()
	f.syncBatch(b)
	return b.err
}

func (f *File) syncBatch(b *leaseBatch) {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	f.leases.mu.Lock()
	f.leases.next = nil
	f.leases.mu.Unlock()
	defer close(b.done)
	if b.err = f.gone(); b.err != nil {
		return
	}
	pages := map[[2]uint32]uint32{} // chunk and page → a slot of it
	for _, n := range b.slots {
		c, _ := f.record(n)
		pages[[2]uint32{c.first, (n - c.first) / recordsPerTouch}] = n
	}
	var err error
	if len(pages) > fewPages {
		err = f.sys.syncAll(f)
	} else {
		for _, n := range pages {
			if err = f.sys.syncSlot(f, n); err != nil {
				break
			}
		}
	}
	if err != nil {
		b.err = f.syncFailed(err)
	}
}
