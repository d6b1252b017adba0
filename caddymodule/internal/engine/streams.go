package engine

import (
	"sync"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/store"
)

const streamShards = 64

// Ender is a request that can be ended. End must not call Stream.Done and must
// not wait for who does; it may be called after the request ended by itself
// began to, but not after its Done returned.
type Ender interface{ End() }

// Stream is one request in flight, to be kept inside whatever the caller has of
// the request. It must not be copied while it is registered. The zero Stream is
// not registered.
type Stream struct {
	proof      gate.Proof
	ender      Ender
	in         *streamShard
	prev, next *Stream // guarded by in.mu
	linked     bool    // likewise

	over bool       // guarded by mu
	mu   sync.Mutex // held while End runs
}

// Streams is the requests in flight that end when their key does. It is safe
// for concurrent use.
type Streams struct {
	shards [streamShards]streamShard
	index  *index.Index
	now    func(started int64) int64 // unix second of the limiter's time
}

type streamShard struct {
	mu    sync.Mutex
	first *Stream
	count int
	_     [40]byte // shards in cache lines of their own
}

// Add registers a request that was let in, until st.Done. From then on, when
// its key is revoked, disabled or deleted, expires, or loses the secret that
// the request came with, or its tenant is suspended or deleted, end.End is
// called once, on a goroutine of its own: at once upon a change, within a second
// for an end of time. If that has happened already it is called now. A request
// without a key is not registered. It does not allocate.
func (s *Streams) Add(st *Stream, c *gate.Call, end Ender) {
	if c.Record == nil {
		return
	}
	st.proof, st.ender = c.Proof(), end
	h := &s.shards[spread(&st.proof.ID)%streamShards]
	st.in, st.over = h, false
	h.mu.Lock()
	h.link(st)
	h.mu.Unlock()
	// The key may have gone after the decision and before the line above.
	if !st.proof.Good(s.index, c.Record, s.now(c.Started)) {
		h.mu.Lock()
		still := h.unlink(st)
		h.mu.Unlock()
		if still {
			go st.finish()
		}
	}
}

// Done ends the registration, and reports false if End was never called. When
// it returns End is not running and will not be called. It may be called more
// than once, and on a Stream that was never added.
func (st *Stream) Done() (ended bool) {
	if st.in == nil {
		return false
	}
	st.in.mu.Lock()
	still := st.in.unlink(st)
	st.in.mu.Unlock()
	if still {
		return false // nobody took it out to end it, and nobody can
	}
	st.mu.Lock()
	st.over = true
	st.mu.Unlock()
	return true
}

// End ends the request as if its key had gone, unless Done was called.
func (st *Stream) End() {
	if st.in == nil {
		return
	}
	st.in.mu.Lock()
	still := st.in.unlink(st)
	st.in.mu.Unlock()
	if still {
		go st.finish()
	}
}

// Count returns how many requests are registered.
func (s *Streams) Count() (n int64) {
	for i := range s.shards {
		h := &s.shards[i]
		h.mu.Lock()
		n += int64(h.count)
		h.mu.Unlock()
	}
	return n
}

// changed looks at the streams that a change may be about.
func (s *Streams) changed(c *store.Change, now int64) {
	switch {
	case c.Key != nil:
		s.checkKey(&c.Key.ID, now)
	case c.KeyGone != nil:
		s.checkKey(&c.KeyGone.ID, now)
	case c.Tenant != nil:
		s.check(now, func(p *gate.Proof) bool { return p.Tenant == c.Tenant.ID })
	case c.TenantGone != "":
		s.check(now, func(p *gate.Proof) bool { return p.Tenant == c.TenantGone })
	}
}

func (s *Streams) checkKey(id *access.KeyID, now int64) {
	h := &s.shards[spread(id)%streamShards]
	end(h.collect(nil, s.index, now, func(p *gate.Proof) bool { return p.ID == *id }))
}

// check ends those of the streams that about says yes to, nil is all, whose
// proof is no longer good.
func (s *Streams) check(now int64, about func(*gate.Proof) bool) {
	var doomed []*Stream
	for i := range s.shards {
		doomed = s.shards[i].collect(doomed, s.index, now, about)
	}
	end(doomed)
}

// collect takes out the streams to end.
func (h *streamShard) collect(doomed []*Stream, x *index.Index, now int64, about func(*gate.Proof) bool) []*Stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	for st := h.first; st != nil; {
		next := st.next
		if (about == nil || about(&st.proof)) && !st.proof.Good(x, x.ByID(st.proof.ID), now) {
			h.unlink(st)
			doomed = append(doomed, st)
		}
		st = next
	}
	return doomed
}

// end ends streams that were taken out, without waiting: an End may have to
// write to a client that does not read.
func end(doomed []*Stream) {
	for _, st := range doomed {
		go st.finish()
	}
}

func (st *Stream) finish() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.over {
		st.over = true
		st.ender.End()
	}
}

func (h *streamShard) link(st *Stream) {
	st.prev, st.next, st.linked = nil, h.first, true
	if h.first != nil {
		h.first.prev = st
	}
	h.first = st
	h.count++
}

// unlink reports whether st was linked.
func (h *streamShard) unlink(st *Stream) bool {
	if !st.linked {
		return false
	}
	if st.prev == nil {
		h.first = st.next
	} else {
		st.prev.next = st.next
	}
	if st.next != nil {
		st.next.prev = st.prev
	}
	st.prev, st.next, st.linked = nil, nil, false
	h.count--
	return true
}
