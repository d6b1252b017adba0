package usage

import (
	"bytes"
	"context"
)

// cursor is how far an export got: past a batch, or past one of its series.
type cursor struct {
	batch  batchID
	whole  bool   // past all of the batch
	series []byte // as stored; the last one that was acknowledged
}

func (c cursor) encode() []byte {
	b := batchKey(c.batch)[1:]
	if c.whole {
		return append(b, 1)
	}
	return append(append(b, 0), c.series...)
}

func parseCursor(b []byte) (c cursor, ok bool) {
	if len(b) < 9 || b[8] > 1 || b[8] == 1 && len(b) > 9 {
		return c, false
	}
	return cursor{batchID{be.Uint32(b), be.Uint32(b[4:])}, b[8] == 1, bytes.Clone(b[9:])}, true
}

// read returns up to most events after c, and how far that is. Without an event
// it may be further all the same.
func (e *Exporter) read(ctx context.Context, c cursor, most int) ([]Event, cursor, error) {
	r := e.o.Recorder
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []Event
	for {
		from := batchKey(c.batch)
		if c.whole {
			from = append(from, 0)
		}
		k, v, err := first(ctx, r.o.Storage, from, []byte{tagBatch + 1})
		if err != nil || k == nil {
			return out, c, err
		}
		if len(k) != 9 || len(v) != 4 {
			return nil, c, damaged(k)
		}
		id := parseBatchKey(k)
		if r.waiting(id) {
			return out, c, nil
		}
		if id != c.batch || c.whole {
			c = cursor{batch: id}
		}
		if out, c, err = e.readBatch(ctx, be.Uint32(v), c, out, most); err != nil || !c.whole {
			return out, c, err
		}
	}
}

// readBatch appends the events of one batch that come after c.
func (e *Exporter) readBatch(ctx context.Context, minute uint32, c cursor, out []Event, most int) ([]Event, cursor, error) {
	head := minuteKey(minute, c.batch)
	from := append(bytes.Clone(head), c.series...)
	if len(c.series) > 0 {
		from = append(from, 0)
	}
	var failed error
	full := false
	err := e.o.Recorder.o.Storage.Range(ctx, from, successor(head), func(k, value []byte) bool {
		if full = len(out) >= most; full {
			return false
		}
		var s Series
		var v Values
		if s, failed = parseSeries(k, minuteHead); failed == nil {
			v, failed = parseValues(k, value)
		}
		if failed != nil {
			return false
		}
		if s.Tenant != "" { // else it is on nobody's bill
			out = append(out, e.event(k, minute, &s, &v))
		}
		c.series = bytes.Clone(k[minuteHead:])
		return true
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return nil, c, err
	}
	if !full {
		c = cursor{batch: c.batch, whole: true}
	}
	return out, c, nil
}
