package limit

import (
	"math"
	"unsafe"
)

// inlineAsks is the number of asks that Take handles without allocating.
const inlineAsks = 8

// slotShard is the shard number of slots, which are locked after all shards.
const slotShard = math.MaxInt32

// step is the work for one ask. Steps are sorted into the order of locking, in
// which those for the same bucket are neighbours.
type step struct {
	ask   int
	shard int32
	at    int32  // place in the shard, or ^class of an overflow bucket
	key   uint64 // hash, or address of the slot
	gauge gauge
	old   entry // what stood there; of slots and overflow the TAT alone
}

// heap is never true. Storing into escaped makes the compiler keep every Slot
// off the stack: their addresses are the order of locking, and stacks move.
var (
	heap    bool
	escaped *Slot
)

// takeMany is Take for any asks. With everything locked it takes from each
// bucket in turn, and puts all back if one of them refuses.
func (l *Limiter) takeMany(now int64, asks []Ask) Result {
	var room [inlineAsks]step
	steps := room[:]
	if len(asks) > len(room) {
		steps = make([]step, len(asks))
	}
	steps = steps[:len(asks)]
	l.plan(steps, asks)
	l.lock(steps, asks)
	r := l.apply(now, steps, asks)
	if r.OK {
		r = l.tightest(now, steps, asks)
	} else {
		l.undo(steps, asks)
	}
	l.unlock(steps, asks)
	return r
}

// plan fills in the steps and sorts them.
func (l *Limiter) plan(steps []step, asks []Ask) {
	for i := range asks {
		st := step{ask: i, gauge: gaugeOf(asks[i].Rate)}
		if s := asks[i].Slot; s != nil {
			if heap {
				escaped = s
			}
			st.shard, st.key = slotShard, uint64(uintptr(unsafe.Pointer(s)))
		} else {
			st.key = l.hash(asks[i].Class, asks[i].Subject)
			st.shard = int32(l.shardOf(st.key))
		}
		j := i
		for ; j > 0 && st.before(&steps[j-1]); j-- {
			steps[j] = steps[j-1]
		}
		steps[j] = st
	}
}

func (st *step) before(o *step) bool {
	return st.shard < o.shard || st.shard == o.shard && st.key < o.key
}

func (l *Limiter) lock(steps []step, asks []Ask) {
	for i := range steps {
		st := &steps[i]
		switch {
		case st.shard != slotShard:
			if i == 0 || steps[i-1].shard != st.shard {
				l.shards[st.shard].mu.Lock()
			}
		case !again(steps, i, asks):
			asks[st.ask].Slot.lock()
		}
	}
}

func (l *Limiter) unlock(steps []step, asks []Ask) {
	for i := range steps {
		st := &steps[i]
		switch {
		case st.shard != slotShard:
			if i == 0 || steps[i-1].shard != st.shard {
				l.shards[st.shard].mu.Unlock()
			}
		case !again(steps, i, asks):
			asks[st.ask].Slot.unlock()
		}
	}
}

// again reports whether step i is for the same bucket as the step before.
func again(steps []step, i int, asks []Ask) bool {
	if i == 0 || steps[i-1].key != steps[i].key || steps[i-1].shard != steps[i].shard {
		return false
	}
	a, b := &asks[steps[i-1].ask], &asks[steps[i].ask]
	return a.Slot == b.Slot && (a.Slot != nil || a.Class == b.Class && a.Subject == b.Subject)
}

// apply takes from every bucket, from those that refuse too: only so does the
// wait come out right when several asks share a bucket. Growth of the table
// moves entries, so it starts over after that.
func (l *Limiter) apply(now int64, steps []step, asks []Ask) Result {
	r := Result{OK: true}
	for i := 0; i < len(steps); i++ {
		st := &steps[i]
		a := &asks[st.ask]
		tat, ok := l.locate(now, steps, i, asks)
		if !ok {
			l.undo(steps[:i], asks)
			l.shards[st.shard].grow(l, now)
			r, i = Result{OK: true}, -1
			continue
		}
		if wait := st.gauge.excess(max(tat-now, 0)); wait > 0 && (r.OK || wait > int64(r.Retry)) {
			r = refused(st.ask, st.gauge.state(now, tat), wait)
		}
		l.put(st, a, max(tat, now)+st.gauge.interval)
	}
	return r
}

// locate finds the bucket of step i, notes what stands in its place, and
// returns its TAT. It returns false if the shard must grow to hold it.
func (l *Limiter) locate(now int64, steps []step, i int, asks []Ask) (tat int64, ok bool) {
	st := &steps[i]
	a := &asks[st.ask]
	if a.Slot != nil {
		tat = a.Slot.held()
		if !again(steps, i, asks) {
			tat = l.forgive(now, tat, &st.gauge)
		}
		st.old.tat = tat
		return tat, true
	}
	s := &l.shards[st.shard]
	class := st.gauge.class()
	switch at, found := s.find(st.key, a.Class, a.Subject, now); {
	case found:
		st.at, st.old = int32(at), s.entries[at]
		if !again(steps, i, asks) {
			st.old.tat = l.forgive(now, st.old.tat, &st.gauge)
		}
		return st.old.tat, true
	case at >= 0:
		s.claim(at)
		st.at, st.old = int32(at), s.entries[at]
	case len(s.entries) < l.limit:
		return 0, false
	default:
		st.at, st.old.tat = ^int32(class), s.over[class]
	}
	return s.start(class), true
}

// put stores the TAT of a located step.
func (l *Limiter) put(st *step, a *Ask, tat int64) {
	switch {
	case a.Slot != nil:
		a.Slot.hold(tat)
	case st.at >= 0:
		l.shards[st.shard].entries[st.at] = entry{a.Class, a.Subject, tat}
	default:
		l.shards[st.shard].over[^st.at] = tat
	}
}

// undo puts back what stood before apply, last first.
func (l *Limiter) undo(steps []step, asks []Ask) {
	for i := len(steps) - 1; i >= 0; i-- {
		st := &steps[i]
		switch s := asks[st.ask].Slot; {
		case s != nil:
			s.hold(st.old.tat)
		case st.at >= 0:
			l.shards[st.shard].entries[st.at] = st.old
		default:
			l.shards[st.shard].over[^st.at] = st.old.tat
		}
	}
}

// tightest reads the buckets after apply.
func (l *Limiter) tightest(now int64, steps []step, asks []Ask) Result {
	var best State
	index := -1
	for i := range steps {
		st := &steps[i]
		a := &asks[st.ask]
		var tat int64
		switch {
		case a.Slot != nil:
			tat = a.Slot.held()
		case st.at >= 0:
			tat = l.shards[st.shard].entries[st.at].tat
		default:
			tat = l.shards[st.shard].over[^st.at]
		}
		s := st.gauge.state(now, tat)
		if index < 0 || s.tighter(best) || !best.tighter(s) && st.ask < index {
			best, index = s, st.ask
		}
	}
	return passed(index, best)
}
