package usage

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
)

// Open returns a Recorder over a storage, in which it begins a new incarnation.
// What the last one counted and did not store is stored when Open returns, if
// there is a journal. Errors: what is wrong with o, of the storage, and
// ErrDamaged.
func Open(ctx context.Context, o Options) (*Recorder, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	r := &Recorder{o: o, bound: int64(o.Series), seed: maphash.MakeSeed(), numbers: make(map[uint32]*number),
		wholeHour: make(map[uint32]bool), wholeDay: make(map[uint32]bool), hurry: make(chan struct{}, 1)}
	err := r.load(ctx)
	if err == nil {
		if err = r.replay(ctx); err == nil {
			return r, nil
		}
	}
	if r.journal != nil {
		err = errors.Join(err, r.journal.Close())
	}
	return nil, fmt.Errorf("opening usage: %w", err)
}

func (r *Recorder) load(ctx context.Context) error {
	for tag, set := range map[byte]map[uint32]bool{tagHourDone: r.wholeHour, tagDayDone: r.wholeDay} {
		var bad error
		err := r.o.Storage.Range(ctx, []byte{tag}, []byte{tag + 1}, func(k, _ []byte) bool {
			if len(k) != unitHead {
				bad = damaged(k)
				return false
			}
			set[be.Uint32(k[1:])] = true
			return true
		})
		if err = errors.Join(err, bad); err != nil {
			return err
		}
	}
	for level, w := range map[byte]*uint32{tagMinute: &r.water.minute, tagHour: &r.water.hour} {
		k, v, err := first(ctx, r.o.Storage, []byte{tagWater, level}, []byte{tagWater, level + 1})
		if err != nil {
			return err
		}
		if k == nil {
			continue
		}
		if len(v) != 4 {
			return damaged(k)
		}
		*w = be.Uint32(v)
	}
	return r.begin(ctx)
}

// begin takes the number after the last incarnation's, or the time if that is
// more: a storage put back to an older state does not repeat numbers.
func (r *Recorder) begin(ctx context.Context) error {
	k, v, err := first(ctx, r.o.Storage, []byte{tagInstance}, []byte{tagInstance + 1})
	if err != nil {
		return err
	}
	var was uint32
	switch {
	case k == nil:
		if _, err := io.ReadFull(r.o.Rand, r.id[:]); err != nil {
			return err
		}
	case len(v) != 4+len(r.id):
		return damaged(k)
	default:
		was = be.Uint32(v)
		copy(r.id[:], v[4:])
	}
	if was == math.MaxUint32 {
		return damaged(k)
	}
	done, err := r.loadDone(ctx, was)
	if err != nil {
		return err
	}
	if err := r.dropUnfinished(ctx, done.batch); err != nil {
		return err
	}
	now := min(max(r.o.Now().Unix(), 0), math.MaxUint32-1<<20)
	r.last.incarnation = max(was+1, uint32(now))
	r.openJournal(done.position)
	if r.journal == nil { // then nothing tells what of a flush is to be dropped
		done.batch = batchID{r.last.incarnation, math.MaxUint32}
	}
	v = append(be.AppendUint32(nil, r.last.incarnation), r.id[:]...)
	return apply(ctx, r.o.Storage, []change{done.change(), {[]byte{tagInstance}, v}})
}
