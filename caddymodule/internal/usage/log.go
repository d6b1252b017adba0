package usage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/journal"
)

// How often the journal is drained and written to the disk.
const (
	drainEvery   = 100 * time.Millisecond
	drainsOfSync = 10
	tellEvery    = time.Minute
	hurryAgain   = 5 * time.Second // after an error of the storage
)

// firstSequence is where the sequences of an incarnation begin in the journal:
// as incarnations do, they only ever grow.
func firstSequence(incarnation uint32) uint64 { return uint64(incarnation) << 20 }

// openJournal opens the journal, if there is to be one. What is there and is none
// of this storage is moved aside: it may be somebody's. Without a journal all
// goes on, and the end of the process costs what was not flushed.
func (r *Recorder) openJournal(after journal.Position) {
	r.position = after
	if r.o.Journal == "" {
		return
	}
	o := journal.Options{ID: r.id, After: after, From: firstSequence(r.last.incarnation), Segments: r.o.segments}
	j, err := journal.Open(r.o.Journal, o)
	if errors.Is(err, journal.ErrDamaged) || errors.Is(err, journal.ErrOther) {
		to, moved := journal.SetAside(r.o.Journal)
		if moved == nil {
			r.o.OnError(fmt.Errorf("%w; it is %s now, and what it has of usage is not counted", err, to))
			j, err = journal.Open(r.o.Journal, o)
		}
		err = errors.Join(err, moved)
	}
	if err == nil {
		r.journal = j
	} else if !errors.Is(err, journal.ErrUnsupported) {
		r.o.OnError(fmt.Errorf("usage is kept in memory until it is flushed: %w", err))
	}
}

// replay stores what the last incarnation left in the journal.
func (r *Recorder) replay(ctx context.Context) error {
	if r.journal == nil {
		return nil
	}
	if p := r.journal.Position(); len(p.Open) == 0 {
		return nil
	}
	return r.flush(ctx, 0)
}

// drain counts what is in the journal. So whoever looks at the tables sees each
// request whose Record has returned.
func (r *Recorder) drain() {
	if r.journal == nil {
		return
	}
	r.draining.Lock()
	defer r.draining.Unlock()
	r.drainNow()
}

// drainNow is drain for who holds draining.
func (r *Recorder) drainNow() {
	if r.journal == nil {
		return
	}
	bad := r.journal.Drain(r.request)
	r.broken += bad
	r.position = r.journal.Position()
}

// release lets the journal use again what the storage has.
func (r *Recorder) release(p journal.Position) {
	if r.journal == nil {
		return
	}
	r.draining.Lock()
	defer r.draining.Unlock()
	r.journal.Release(p)
}

// keep drains the journal, writes it to the disk and makes room in it, until ctx
// ends.
func (r *Recorder) keep(ctx context.Context) {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	turns(ctx, tick.C, r.journal.Full(), r.makeRoom)
}

// turns calls do for each tick, one of drainsOfSync with sync, and whenever full
// receives. But if there was no room then, full waits for the next tick: each
// request would wake it.
func turns(ctx context.Context, ticks <-chan time.Time, full <-chan struct{}, do func(sync bool) (room bool)) {
	for n, asked := 0, full; ; {
		select {
		case <-ctx.Done():
			return
		case <-asked:
			if !do(false) {
				asked = nil
			}
		case <-ticks:
			n++
			do(n%drainsOfSync == 0)
			asked = full
		}
	}
}

// makeRoom is what keep does, with the disk too if sync is set. It reports whether
// the journal has room.
func (r *Recorder) makeRoom(sync bool) (room bool) {
	r.draining.Lock()
	r.drainNow()
	err := r.journal.Err()
	if err == nil && (sync || time.Since(r.grew) > time.Second) {
		if err = r.journal.Prepare(); err != nil {
			r.grew = time.Now() // and not each time
		}
	}
	if sync && r.journal.Err() == nil { // also where the disk is full
		err = errors.Join(err, r.journal.Sync())
	}
	bad := r.broken
	r.broken = 0
	r.draining.Unlock()
	if bad > 0 {
		err = errors.Join(err, fmt.Errorf("%d records of usage were changed in the journal by somebody else", bad))
	}
	r.tell(err)
	waiting, of := r.journal.Waiting()
	r.hurried.Store(2*waiting >= of)
	if 2*waiting >= of {
		select {
		case r.hurry <- struct{}{}:
		default: // it is known
		}
	}
	return r.journal.Room()
}

// tell tells of what is wrong with the journal, once a minute at most.
func (r *Recorder) tell(err error) {
	missed := r.missed.Load()
	if err == nil && missed == r.toldMissed || !r.told.IsZero() && r.o.Now().Sub(r.told) < tellEvery {
		return
	}
	if missed > r.toldMissed {
		err = errors.Join(fmt.Errorf("%d requests had no room in the journal of usage: they are kept in memory until they are flushed", missed-r.toldMissed), err)
	}
	r.told, r.toldMissed = r.o.Now(), missed
	r.o.OnError(err)
}
