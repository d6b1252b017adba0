package usage

import (
	"context"
	"math"

	"github.com/keytoll/keytoll/caddymodule/internal/journal"
)

// done says what the storage has: all batches up to one, and in them all records
// of the journal up to a position. It is written with the last row of a flush.
type done struct {
	batch    batchID
	position journal.Position
}

func (d *done) change() change {
	v := be.AppendUint32(be.AppendUint32(nil, d.batch.incarnation), d.batch.number)
	return change{[]byte{tagPosition}, d.position.Append(v)}
}

// loadDone reads what the storage has. One that says nothing was written when
// there was no journal: all batches of the last incarnation, was, count.
func (r *Recorder) loadDone(ctx context.Context, was uint32) (d done, err error) {
	k, v, err := first(ctx, r.o.Storage, []byte{tagPosition}, []byte{tagPosition + 1})
	if err != nil {
		return d, err
	}
	if k == nil {
		return done{batch: batchID{was, math.MaxUint32}}, nil
	}
	if len(k) != 1 || len(v) < 8 {
		return d, damaged(k)
	}
	d.batch = batchID{be.Uint32(v), be.Uint32(v[4:])}
	if d.position, err = journal.ParsePosition(v[8:]); err != nil {
		return d, damaged(k)
	}
	return d, nil
}

// dropUnfinished deletes the batches after the last that counts: a process ended
// while it wrote them, and what they are of is in the journal. A batch leaves the
// list when its rows are gone, so that a crash on the way is no harm.
func (r *Recorder) dropUnfinished(ctx context.Context, after batchID) error {
	type listed struct {
		id     batchID
		minute uint32
	}
	var all []listed
	var bad error
	from := append(batchKey(after), 0)
	err := r.o.Storage.Range(ctx, from, []byte{tagBatch + 1}, func(k, v []byte) bool {
		if len(k) != 9 || len(v) != 4 {
			bad = damaged(k)
			return false
		}
		all = append(all, listed{parseBatchKey(k), be.Uint32(v)})
		return true
	})
	if err == nil {
		err = bad
	}
	for _, l := range all {
		if err == nil {
			head := minuteKey(l.minute, l.id)
			err = r.drop(ctx, head, successor(head))
		}
		if err == nil {
			err = apply(ctx, r.o.Storage, []change{{batchKey(l.id), nil}})
		}
	}
	return err
}
