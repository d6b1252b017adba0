package usage

import (
	"context"
	"slices"
	"time"
)

// batch is what one flush took of one minute. It is written with the same keys
// and values each time.
type batch struct {
	id     batchID
	minute uint32
	tables []*table
	owners []*shard // of the tables
}

// flight is what one flush took. It is written until that succeeds, and is
// counted from memory until all of it is stored.
type flight struct {
	batches []*batch
	done    done
}

// Flush writes what was counted, in bounded updates with pauses between.
// Recording and reading go on meanwhile. After an error the rest is written by a
// later call.
func (r *Recorder) Flush(ctx context.Context) error { return r.flush(ctx, r.o.Pause) }

func (r *Recorder) flush(ctx context.Context, pause time.Duration) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	if r.batches() < r.o.Backlog {
		r.collect()
	}
	r.mu.Unlock()
	for {
		f := r.next()
		if f == nil {
			return nil
		}
		if err := r.write(ctx, f, pause); err != nil {
			return err
		}
		r.stored(f)
	}
}

// next returns the oldest flight; nil if there is none.
func (r *Recorder) next() *flight {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.pending) == 0 {
		return nil
	}
	return r.pending[0]
}

// stored forgets a flight that is in the storage.
func (r *Recorder) stored(f *flight) {
	r.mu.Lock()
	r.pending[0] = nil
	r.pending = r.pending[1:]
	r.mu.Unlock()
	r.release(f.done.position)
	for _, b := range f.batches {
		for i, t := range b.tables {
			b.owners[i].giveBack(t)
		}
	}
}

// Waiting returns how many minutes' batches wait for the storage.
func (r *Recorder) Waiting() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.batches()
}

func (r *Recorder) batches() (n int) {
	for _, f := range r.pending {
		n += len(f.batches)
	}
	return n
}

// collect makes a batch of each minute that the shards have counts of, and notes
// up to where in the journal that is.
func (r *Recorder) collect() {
	r.draining.Lock()
	defer r.draining.Unlock()
	r.drainNow()
	r.forgetNumbers() // what follows has the whole bound again
	batches := make(map[uint32]*batch)
	var minutes []uint32
	for i := range r.shards {
		s := &r.shards[i]
		for _, t := range s.take() {
			// Hours below were folded for good: a new fold would lose them.
			m := max(t.minute, r.water.minute)
			b := batches[m]
			if b == nil {
				b = &batch{minute: m}
				batches[m] = b
				minutes = append(minutes, m)
			}
			b.tables = append(b.tables, t)
			b.owners = append(b.owners, s)
		}
	}
	if len(minutes) == 0 {
		if r.journal != nil && len(r.pending) == 0 {
			r.journal.Release(r.position) // segments in which nothing was found
		}
		return
	}
	slices.Sort(minutes)
	f := new(flight)
	for _, m := range minutes {
		r.last.number++
		batches[m].id = r.last
		f.batches = append(f.batches, batches[m])
	}
	f.done = done{r.last, r.position}
	r.pending = append(r.pending, f)
}

// write writes a flight: of each batch first the marks go that its rows make
// untrue, then it is entered in the list of batches, then come the rows. Last
// comes what says that all of them count.
func (r *Recorder) write(ctx context.Context, f *flight, pause time.Duration) error {
	w, rest := r.paced(ctx, f, pause)
	for _, b := range f.batches {
		hour, day := b.minute/60, b.minute/1440
		r.mu.Lock() // waits for queries that read the hour
		delete(r.wholeDay, day)
		delete(r.wholeHour, hour)
		r.mu.Unlock()
		for _, c := range []change{
			{unitKey(tagDayDone, day), nil},
			{unitKey(tagHourDone, hour), nil},
			{batchKey(b.id), be.AppendUint32(nil, b.minute)},
		} {
			if err := w.change(c); err != nil {
				return err
			}
		}
		rows, err := newOrder(b.tables, rest)
		if err != nil {
			return err
		}
		if err := w.rows(minuteKey(b.minute, b.id), rows); err != nil {
			return err
		}
	}
	if r.journal != nil {
		if err := w.change(f.done.change()); err != nil {
			return err
		}
	}
	return w.end()
}

// maxPauses is how long the pauses of one flush are together: it must be through
// before the next.
const maxPauses = 20 * time.Second

// paced returns a stream for a flight and what makes its pauses.
func (r *Recorder) paced(ctx context.Context, f *flight, pause time.Duration) (*stream, func() error) {
	if pause <= 0 {
		return newStream(ctx, r.o.Storage, maxChanges, noPause), noPause
	}
	rows := 0
	for _, b := range f.batches {
		for _, t := range b.tables {
			rows += len(t.rows)
		}
	}
	pause = min(pause, maxPauses/time.Duration(1+rows/pacedChanges))
	rest := func() error { return r.rest(ctx, pause) }
	return newStream(ctx, r.o.Storage, pacedChanges, rest), rest
}

// rest leaves the processors to requests for a while, unless the journal fills.
func (r *Recorder) rest(ctx context.Context, d time.Duration) error {
	if r.hurried.Load() {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// waits reports whether a batch of the minutes from from, before to, waits for the
// storage. Part of it may be stored.
func (r *Recorder) waits(from, to uint32) bool {
	return slices.ContainsFunc(r.pending, func(f *flight) bool {
		return slices.ContainsFunc(f.batches, func(b *batch) bool { return from <= b.minute && b.minute < to })
	})
}

// waiting reports whether a stored row's batch is still counted from memory.
func (r *Recorder) waiting(id batchID) bool {
	return len(r.pending) > 0 && id.incarnation == r.last.incarnation && !r.pending[0].batches[0].id.after(id)
}
