package usage

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/journal"
)

// Recorder counts requests and keeps the counts. It is safe for concurrent use.
type Recorder struct {
	o      Options
	bound  int64
	seed   maphash.Seed
	shards [shards]shard

	numbersMu sync.Mutex
	numbers   map[uint32]*number // of the minutes since the last flush

	// draining is for who reads the journal or makes room in it.
	draining   sync.Mutex
	journal    *journal.File // nil if there is none
	position   journal.Position
	broken     int // records, not told yet
	grew       time.Time
	missed     atomic.Int64  // requests that the journal had no room for
	toldMissed int64         // keep's
	told       time.Time     // likewise
	hurry      chan struct{} // receives when the journal fills
	hurried    atomic.Bool

	// writing is for who changes the storage. It comes before mu.
	writing sync.Mutex

	// mu guards what follows and keeps the levels of the storage in step: it is
	// held for reading by queries and exports, for writing by all that changes
	// what they go by. Record does not take it.
	mu        sync.RWMutex
	id        [8]byte
	last      batchID
	pending   []*flight
	wholeHour map[uint32]bool // that have a mark
	wholeDay  map[uint32]bool
	water     water
	waterDue  bool // the storage may not have it yet
}

// water is below what minutes and hours all was deleted, and counted in the
// level above.
type water struct{ minute, hour uint32 }

// Request is one request that has ended, as the journal has it.
type Request = journal.Record

// The Numbers of a Request.
const (
	Credits  = iota // the final price, micro-credits
	BytesIn         // of the request's body
	BytesOut        // of the answer's
	Micros          // how long it took, microseconds
)

// SecondOf is the Second of a Request that ended at a unix second. Before 1970 it
// is the first there is, and from 2106 on the last.
func SecondOf(unix int64) uint32 { return uint32(min(max(unix, 0), math.MaxUint32)) }

// Record counts one request. It costs no allocation and waits for nobody, but
// where there is no journal, or no room in it: then for those who count the same
// key, and a series that is new in its minute is allocated.
func (r *Recorder) Record(x *Request) {
	if len(x.Route) > MaxRoute {
		x.Route = x.Route[:MaxRoute]
	}
	if r.journal != nil {
		if r.journal.Append(x) {
			return
		}
		r.missed.Add(1)
	}
	r.request(x)
}

// request adds a request to the tables.
func (r *Recorder) request(x *Request) {
	r.count(int64(x.Second), &Series{Tenant: x.Tenant, Key: x.Key, Route: x.Route, Class: Class(x.Class), Flags: Flags(x.Flags)}, &x.Numbers)
}

// count adds a request to the tables. The series' names are copied where they are
// kept.
func (r *Recorder) count(at int64, series *Series, numbers *[journal.Numbers]int64) {
	minute := minuteOf(at)
	i := shardOf(&series.Key)
	s := &r.shards[i]
	if !s.mu.TryLock() {
		s = &r.shards[i^1] // a flush adds the two up
		s.mu.Lock()
	}
	v := r.open(s, minute).row(series, r.bound)
	if v != nil {
		v.count(numbers)
	}
	s.mu.Unlock()
	if v == nil {
		r.recordOther(minute, series, numbers)
	}
}

// recordOther counts what is beyond the bound, in a shard of the tenant.
func (r *Recorder) recordOther(minute uint32, series *Series, numbers *[journal.Numbers]int64) {
	tenant := maphash.String(r.seed, series.Tenant)
	s := &r.shards[tenant%shards]
	s.mu.Lock()
	r.open(s, minute).other(series, tenant, r.bound).count(numbers)
	s.mu.Unlock()
}

// open returns the table in which a minute is counted. The shard is locked.
func (r *Recorder) open(s *shard, minute uint32) *table {
	if s.live == nil || minute != s.live.minute {
		return r.turn(s, minute)
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

// Run calls Tick for each tick until ctx ends, and tells OnError of its errors. It
// flushes before a tick, too, if the journal fills.
func (r *Recorder) Run(ctx context.Context, ticks <-chan time.Time) {
	var all sync.WaitGroup
	defer all.Wait()
	if r.journal != nil {
		all.Go(func() { r.keep(ctx) })
	}
	hurry, again := r.hurry, (<-chan time.Time)(nil)
	for {
		do := r.Tick
		select {
		case <-ctx.Done():
			return
		case <-again:
			hurry, again = r.hurry, nil
			continue
		case <-ticks:
		case <-hurry:
			do = r.Flush
		}
		if err := do(ctx); err != nil && ctx.Err() == nil {
			r.o.OnError(fmt.Errorf("keeping usage: %w", err))
			hurry, again = nil, time.After(hurryAgain) // a storage that fails is not asked at each request
		}
	}
}

// Close flushes what was counted, without pauses, and lets go of the journal. What
// is recorded afterwards is kept only by another call. After an error nothing is
// lost: it may be called again, and the next Open finds all in the journal.
func (r *Recorder) Close(ctx context.Context) error {
	if r.journal != nil {
		r.journal.Stop()
	}
	err := r.flush(ctx, 0)
	if r.journal == nil {
		return err
	}
	r.draining.Lock()
	defer r.draining.Unlock()
	return errors.Join(err, r.journal.Close())
}

func minuteOf(at int64) uint32 { return uint32(min(max(at, 0)/60, math.MaxUint32-1)) }
