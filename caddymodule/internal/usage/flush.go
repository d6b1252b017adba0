package usage

import (
	"bytes"
	"context"
	"slices"
)

// batch is what one flush took of one minute. It is written until that succeeds,
// with the same keys and values each time, and is counted from memory until then.
type batch struct {
	id     batchID
	minute uint32
	tables []*table
	owners []*shard // of the tables
}

// row is a series as it is stored.
type row struct {
	series []byte
	values Values
}

// Flush writes what was counted, in bounded updates. Recording goes on meanwhile.
// After an error the rest is written by a later call.
func (r *Recorder) Flush(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) < r.o.Backlog {
		r.collect()
	}
	for len(r.pending) > 0 {
		b := r.pending[0]
		if err := apply(ctx, r.o.Storage, r.changes(b)); err != nil {
			return err
		}
		r.pending[0] = nil
		r.pending = r.pending[1:]
		for i, t := range b.tables {
			b.owners[i].giveBack(t)
		}
	}
	return nil
}

// Waiting returns how many minutes' batches wait for the storage.
func (r *Recorder) Waiting() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.pending)
}

// collect makes a batch of each minute that the shards have counts of.
func (r *Recorder) collect() {
	r.number.Store(nil) // what follows has the whole bound again
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
	slices.Sort(minutes)
	for _, m := range minutes {
		r.last.number++
		batches[m].id = r.last
		r.pending = append(r.pending, batches[m])
	}
}

// changes returns what writes a batch: first the marks go that its rows make
// untrue, then it is entered in the list of batches, then come the rows.
func (r *Recorder) changes(b *batch) []change {
	hour, day := b.minute/60, b.minute/1440
	out := []change{
		{unitKey(tagDayDone, day), nil},
		{unitKey(tagHourDone, hour), nil},
		{batchKey(b.id), be.AppendUint32(nil, b.minute)},
	}
	delete(r.wholeDay, day)
	delete(r.wholeHour, hour)
	return appendRows(out, minuteKey(b.minute, b.id), b.tables)
}

// appendRows appends a Put for each series of the tables, in order.
func appendRows(out []change, head []byte, tables []*table) []change {
	rows := rowsOf(tables)
	out = slices.Grow(out, len(rows))
	for i := range rows {
		k := append(bytes.Clone(head), rows[i].series...)
		out = append(out, change{k, appendValues(nil, &rows[i].values)})
	}
	return out
}

// rowsOf returns the series of the tables, in order, those that are in several
// of them added up.
func rowsOf(tables []*table) []row {
	n := 0
	for _, t := range tables {
		n += len(t.rows)
	}
	rows := make([]row, 0, n)
	for _, t := range tables {
		for i := range t.rows {
			rows = append(rows, row{appendSeries(nil, &t.rows[i].series), t.rows[i].values})
		}
	}
	return merged(rows)
}

// waits reports whether a batch of the minutes from from, before to, waits for the
// storage. Part of it may be stored.
func (r *Recorder) waits(from, to uint32) bool {
	return slices.ContainsFunc(r.pending, func(b *batch) bool { return from <= b.minute && b.minute < to })
}

// waiting reports whether a stored row's batch is still counted from memory.
func (r *Recorder) waiting(id batchID) bool {
	return len(r.pending) > 0 && id.incarnation == r.last.incarnation && !r.pending[0].id.after(id)
}
