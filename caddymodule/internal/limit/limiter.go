package limit

import (
	"hash/maphash"
	"math/bits"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

const (
	defaultCapacity = 1 << 20
	maxShards       = 256
	// entriesPerShard is how many entries make another shard worth its lock.
	entriesPerShard = 64
)

// Options are the settings of a Limiter. The zero value is the default.
type Options struct {
	// Capacity is the most buckets the table holds, rounded up to a power of
	// two; an entry takes 32 bytes, and memory grows as they are used.
	// Default: 1048576.
	Capacity int
	// Now reads a monotonic clock in nanoseconds, not negative. It must be
	// safe for concurrent use and never go backwards. Default: the time since
	// New was called.
	Now func() int64
}

// Ask is one limit that a request must meet. Its rate must be valid; a rate
// without requests, burst or window refuses everything.
type Ask struct {
	Slot    *Slot   // the bucket, or nil for the table's under Class and Subject
	Class   uint64  // which limit: keeps apart the buckets of one subject
	Subject Subject // whose
	Rate    access.Rate
	Name    string // of the policy, in the RateLimit fields
}

// Result is the outcome of Take. It describes the tightest ask: of those that
// refuse the one with the longest Retry, else the one with the smallest share
// of its limit remaining.
type Result struct {
	OK        bool
	Index     int           // of the tightest ask; -1 if there was none
	Limit     int64         // requests a full bucket holds
	Remaining int64         // requests left, after this one if it passed
	Reset     time.Duration // until the bucket is full
	Retry     time.Duration // until the same request would pass; 0 if OK
}

// Limiter holds the table of buckets. All methods are safe for concurrent use.
type Limiter struct {
	now    func() int64
	seed   maphash.Seed // random per process: nobody can aim at one shard
	shards []shard
	shift  uint // of a hash, leaves the shard's number
	limit  int  // entries of a full-grown shard, a power of two
}

// New returns a Limiter with an empty table.
func New(o Options) *Limiter {
	if o.Capacity <= 0 {
		o.Capacity = defaultCapacity
	}
	if o.Now == nil {
		base := time.Now()
		o.Now = func() int64 { return int64(time.Since(base)) }
	}
	capacity := ceilPow2(o.Capacity)
	shards := min(max(capacity/entriesPerShard, 1), maxShards)
	return &Limiter{
		now:    o.Now,
		seed:   maphash.MakeSeed(),
		shards: make([]shard, shards),
		shift:  uint(64 - bits.TrailingZeros(uint(shards))),
		limit:  capacity / shards,
	}
}

// Now reads the limiter's clock, for the now of the other methods. Read it
// once per request.
func (l *Limiter) Now() int64 { return clampNow(l.now()) }

// Len returns the number of buckets in the table that owe something. It looks
// at all entries: it is for metrics, not for requests.
func (l *Limiter) Len() int {
	now, n := l.Now(), 0
	for i := range l.shards {
		n += l.shards[i].live(now)
	}
	return n
}

// Take lets a request pass and takes one token for each ask, or refuses it and
// takes none. It is linearizable: the buckets change in one step that no other
// call sees half of. Two asks for the same bucket take two tokens; such a
// request never passes if the burst is smaller than their number. Without asks
// it passes. Take does not allocate for up to 8 asks, but for the growth of
// the table.
func (l *Limiter) Take(now int64, asks []Ask) Result {
	now = clampNow(now)
	switch {
	case len(asks) == 0:
		return Result{OK: true, Index: -1}
	case len(asks) == 1 && asks[0].Slot != nil:
		g := gaugeOf(asks[0].Rate)
		return l.takeSlot(now, asks[0].Slot, &g)
	}
	return l.takeMany(now, asks)
}

// Peek reports whether a would pass at now, and if not, how long until it
// would. It takes nothing.
func (l *Limiter) Peek(now int64, a Ask) (retry time.Duration, ok bool) {
	now = clampNow(now)
	g := gaugeOf(a.Rate)
	if wait := g.excess(max(l.tat(now, &a, &g)-now, 0)); wait > 0 {
		return time.Duration(wait), false
	}
	return 0, true
}

// States appends the state of each ask's bucket to dst, in the order of asks.
// It takes nothing. Each bucket is read at one moment, not all at the same.
func (l *Limiter) States(now int64, asks []Ask, dst []State) []State {
	now = clampNow(now)
	for i := range asks {
		g := gaugeOf(asks[i].Rate)
		dst = append(dst, g.state(now, l.tat(now, &asks[i], &g)))
	}
	return dst
}

// takeSlot is Take for one slot: no lock, and no write when refused.
func (l *Limiter) takeSlot(now int64, s *Slot, g *gauge) Result {
	for spins := 0; ; spins++ {
		w := s.word.Load()
		if w&lockBit != 0 {
			pause(spins)
			continue
		}
		tat := w >> 1
		debt := max(tat-now, 0)
		if wait := g.excess(debt); wait > 0 {
			if less := l.forgive(now, tat, g); less < tat {
				s.word.CompareAndSwap(w, less<<1)
				continue
			}
			return refused(0, g.state(now, tat), wait)
		}
		tat = now + debt + g.interval
		if s.word.CompareAndSwap(w, tat<<1) {
			return passed(0, g.state(now, tat))
		}
	}
}

// forgive returns the TAT, cut down to that of an empty bucket if it owes more
// than g's bucket can: it was filled at another rate. The clock is read anew,
// since to an old reading a bucket at g's own rate may seem to owe more too.
func (l *Limiter) forgive(now, tat int64, g *gauge) int64 {
	if tat-now <= g.span {
		return tat
	}
	return min(tat, l.Now()+g.span)
}

// tat returns the TAT that a's bucket has, or would start from.
func (l *Limiter) tat(now int64, a *Ask, g *gauge) int64 {
	if a.Slot != nil {
		return a.Slot.tat()
	}
	h := l.hash(a.Class, a.Subject)
	s := &l.shards[l.shardOf(h)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, found := s.find(h, a.Class, a.Subject, now); found {
		return s.entries[at].tat
	}
	return s.start(g.class())
}

func passed(i int, s State) Result {
	return Result{OK: true, Index: i, Limit: s.Limit, Remaining: s.Remaining, Reset: s.Reset}
}

func refused(i int, s State, wait int64) Result {
	return Result{Index: i, Limit: s.Limit, Remaining: s.Remaining, Reset: s.Reset, Retry: time.Duration(wait)}
}

func ceilPow2(n int) int { return 1 << bits.Len(uint(n-1)) }
