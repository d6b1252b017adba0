package usage

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"math"
	"slices"
)

// What was counted and is in no storage yet can be kept elsewhere, so that the
// end of the process costs no minute: Live gives it, and Options.Live takes it
// back at the next opening. Its form is
//
//	format 1 byte, id of the storage 8 bytes, incarnation uint32
//	of each batch: number, minute and number of rows uint32, and of each row
//	    the lengths of series and values uint16, series, values
//	CRC-32C of all of that uint32
//
// A batch goes by the number that its flush gives it. So it is known at the
// opening whether it was flushed after all.

const (
	liveFormat = 1
	liveHead   = 1 + 8 + 4
)

var (
	errLive    = errors.New("the copy of usage that was not stored yet is damaged")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Live appends what was counted and is not in the storage; nothing if there is
// nothing. Recording goes on meanwhile.
func (r *Recorder) Live(b []byte) []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	start := len(b)
	b = append(append(b, liveFormat), r.id[:]...)
	b = be.AppendUint32(b, r.last.incarnation)
	empty := len(b)
	for _, p := range r.pending {
		b = appendLive(b, p.id.number, p.minute, rowsOf(p.tables))
	}
	minutes := r.liveRows()
	for i, m := range slices.Sorted(keysOf(minutes)) { // in the order of collect
		b = appendLive(b, r.last.number+1+uint32(i), m, merged(minutes[m]))
	}
	if len(b) == empty {
		return b[:start]
	}
	return be.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

func keysOf(m map[uint32][]row) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// liveRows copies the rows of all shards, by their minutes.
func (r *Recorder) liveRows() map[uint32][]row {
	minutes := make(map[uint32][]row)
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		tables := s.sealed
		if s.live != nil {
			tables = append(slices.Clip(tables), s.live)
		}
		for _, t := range tables {
			if rows := rowsOf([]*table{t}); len(rows) > 0 {
				m := max(t.minute, r.water.minute)
				minutes[m] = append(minutes[m], rows...)
			}
		}
		s.mu.Unlock()
	}
	return minutes
}

// merged sorts rows and adds up those of one series.
func merged(rows []row) []row {
	slices.SortFunc(rows, func(a, b row) int { return bytes.Compare(a.series, b.series) })
	kept := rows[:0]
	for _, x := range rows {
		if n := len(kept); n > 0 && bytes.Equal(kept[n-1].series, x.series) {
			kept[n-1].values.Add(&x.values)
			continue
		}
		kept = append(kept, x)
	}
	return kept
}

func appendLive(b []byte, number, minute uint32, rows []row) []byte {
	b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, number), minute), uint32(len(rows)))
	var values []byte
	for i := range rows {
		values = appendValues(values[:0], &rows[i].values)
		b = be.AppendUint16(be.AppendUint16(b, uint16(len(rows[i].series))), uint16(len(values)))
		b = append(append(b, rows[i].series...), values...)
	}
	return b
}

// liveBatch is a batch of a copy.
type liveBatch struct {
	number, minute uint32
	rows           []change // of series, not keys
}

// parseLive reads what Live wrote.
func parseLive(b []byte) (id [8]byte, incarnation uint32, batches []liveBatch, err error) {
	if len(b) < liveHead+4 || b[0] != liveFormat {
		return id, 0, nil, errLive
	}
	body := b[:len(b)-4]
	if be.Uint32(b[len(body):]) != crc32.Checksum(body, castagnoli) {
		return id, 0, nil, errLive
	}
	copy(id[:], body[1:])
	incarnation = be.Uint32(body[9:])
	for body = body[liveHead:]; len(body) > 0; {
		if len(body) < 12 {
			return id, 0, nil, errLive
		}
		l := liveBatch{number: be.Uint32(body), minute: be.Uint32(body[4:])}
		rows := be.Uint32(body[8:])
		for body = body[12:]; rows > 0; rows-- {
			if len(body) < 4 {
				return id, 0, nil, errLive
			}
			series, values := int(be.Uint16(body)), int(be.Uint16(body[2:]))
			if body = body[4:]; len(body) < series+values {
				return id, 0, nil, errLive
			}
			l.rows = append(l.rows, change{body[:series], body[series : series+values]})
			body = body[series+values:]
		}
		batches = append(batches, l)
	}
	return id, incarnation, batches, nil
}

// recover stores what the last incarnation counted and did not store. A copy of
// another storage, or of one before the last, is passed over. It may be called
// again after an error or a crash.
func (r *Recorder) recover(ctx context.Context, last uint32, live []byte) error {
	id, incarnation, batches, err := parseLive(live)
	if err != nil {
		r.o.OnError(err)
		return nil
	}
	if id != r.id || incarnation != last {
		return nil
	}
	flushed, newest, err := r.flushedBatches(ctx, incarnation)
	if err != nil {
		return err
	}
	for _, l := range batches {
		minute, known := flushed[l.number]
		if known && minute != l.minute || !known && l.number <= newest || l.minute < r.water.minute {
			continue // it was stored, and perhaps folded and deleted since
		}
		if err := r.recoverBatch(ctx, batchID{incarnation, l.number}, &l); err != nil {
			return err
		}
	}
	return nil
}

// flushedBatches returns the minutes of the listed batches of an incarnation, by
// their numbers, and the highest number.
func (r *Recorder) flushedBatches(ctx context.Context, incarnation uint32) (minutes map[uint32]uint32, newest uint32, err error) {
	minutes = make(map[uint32]uint32)
	to := append(batchKey(batchID{incarnation, math.MaxUint32}), 0)
	err = r.o.Storage.Range(ctx, batchKey(batchID{incarnation, 0}), to, func(k, v []byte) bool {
		if len(k) == 9 && len(v) == 4 {
			n := parseBatchKey(k).number
			minutes[n] = be.Uint32(v)
			newest = max(newest, n)
		}
		return true
	})
	return minutes, newest, err
}

// recoverBatch stores the rows of a batch that are not there, as a flush does.
func (r *Recorder) recoverBatch(ctx context.Context, id batchID, l *liveBatch) error {
	head := minuteKey(l.minute, id)
	there := make(map[string]bool)
	err := r.o.Storage.Range(ctx, head, minuteKey(l.minute, batchID{id.incarnation, id.number + 1}), func(k, _ []byte) bool {
		there[string(k)] = true
		return true
	})
	if err != nil {
		return err
	}
	out := r.changes(&batch{id: id, minute: l.minute})
	marks := len(out)
	for _, x := range l.rows {
		if k := append(bytes.Clone(head), x.key...); !there[string(k)] {
			out = append(out, change{k, x.value})
		}
	}
	if len(out) == marks {
		return nil
	}
	return apply(ctx, r.o.Storage, out)
}
