package usage

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Recorder counts requests and keeps the counts. It is safe for concurrent use.
type Recorder struct {
	o      Options
	bound  int64
	seed   maphash.Seed
	number atomic.Pointer[number] // of the newest minute
	shards [shards]shard

	// mu guards what follows and keeps the levels of the storage in step: it is
	// held for reading by queries and exports, for writing by all that changes
	// them. Record does not take it.
	mu        sync.RWMutex
	id        [8]byte
	last      batchID
	pending   []*batch
	wholeHour map[uint32]bool // that have a mark
	wholeDay  map[uint32]bool
	water     water
	waterDue  bool // the storage may not have it yet
}

// water is below what minutes and hours all was deleted, and counted in the
// level above.
type water struct{ minute, hour uint32 }

// Open returns a Recorder over a storage, in which it begins a new incarnation.
// Errors: what is wrong with o, of the storage, and ErrDamaged.
func Open(ctx context.Context, o Options) (*Recorder, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	r := &Recorder{o: o, bound: int64(o.Series), seed: maphash.MakeSeed(),
		wholeHour: make(map[uint32]bool), wholeDay: make(map[uint32]bool)}
	if err := r.load(ctx); err != nil {
		return nil, fmt.Errorf("opening usage: %w", err)
	}
	return r, nil
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
		if len(r.o.Live) > 0 {
			if err := r.recover(ctx, was, r.o.Live); err != nil {
				return err
			}
		}
	}
	r.o.Live = nil
	if was == math.MaxUint32 {
		return damaged(k)
	}
	now := min(max(r.o.Now().Unix(), 0), math.MaxUint32-1<<20)
	r.last.incarnation = max(was+1, uint32(now))
	v = append(be.AppendUint32(nil, r.last.incarnation), r.id[:]...)
	return apply(ctx, r.o.Storage, []change{{[]byte{tagInstance}, v}})
}

// Record counts one request that ended at the unix second at. A series that is
// known in the present minute costs no allocation. A request of the minute
// before, that comes late, is counted in the present one.
func (r *Recorder) Record(at int64, series Series, sample Sample) {
	if len(series.Route) > MaxRoute {
		series.Route = series.Route[:MaxRoute]
	}
	minute := minuteOf(at)
	i := shardOf(&series.Key)
	s := &r.shards[i]
	if !s.mu.TryLock() {
		s = &r.shards[i^1] // a flush adds the two up
		s.mu.Lock()
	}
	v := r.open(s, minute).row(&series, r.bound)
	if v != nil {
		v.count(&sample)
	}
	s.mu.Unlock()
	if v == nil {
		r.recordOther(minute, &series, &sample)
	}
}

// recordOther counts what is beyond the bound, in a shard of the tenant.
func (r *Recorder) recordOther(minute uint32, series *Series, sample *Sample) {
	tenant := maphash.String(r.seed, series.Tenant)
	s := &r.shards[tenant%shards]
	s.mu.Lock()
	r.open(s, minute).other(series, tenant, r.bound).count(sample)
	s.mu.Unlock()
}

// open returns the table in which a minute is counted. The shard is locked.
func (r *Recorder) open(s *shard, minute uint32) *table {
	if s.live == nil || minute != s.live.minute && minute+1 != s.live.minute {
		r.turn(s, minute)
	}
	return s.live
}

// Tick does all that is due: it flushes, folds and deletes what is older than its
// retention. It is meant to be called once a minute. After an error the next
// call goes on where this one ended.
func (r *Recorder) Tick(ctx context.Context) error {
	if err := r.Flush(ctx); err != nil {
		return err
	}
	return errors.Join(r.Fold(ctx), r.Trim(ctx))
}

// Run calls Tick for each tick until ctx ends, and tells OnError of its errors.
func (r *Recorder) Run(ctx context.Context, ticks <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
			if err := r.Tick(ctx); err != nil && ctx.Err() == nil {
				r.o.OnError(fmt.Errorf("keeping usage: %w", err))
			}
		}
	}
}

// Close flushes what was counted. What is recorded afterwards is kept only by
// another call. After an error nothing is lost yet: it may be called again.
func (r *Recorder) Close(ctx context.Context) error { return r.Flush(ctx) }

func minuteOf(at int64) uint32 { return uint32(min(max(at, 0)/60, math.MaxUint32-1)) }
