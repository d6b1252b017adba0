package index

import (
	"sync/atomic"
	"time"
)

// chunkLen is the number of elements that a slab grows by. A small
// installation should pay for few keys, and at ten million the directory of
// chunks still fits the processor's second cache.
const chunkLen = 1024

// reuseAfter is how long an element that was given back keeps what it says.
// Readers hold elements for microseconds and leave no trace of it, so time is
// the only proof that none is left.
const reuseAfter = time.Hour

// clock tells the time since some moment, and is monotonic.
type clock func() time.Duration

// slab is an array that grows by whole chunks. Elements never move, as readers
// hold their addresses. One goroutine grows it, any number may read.
type slab[T any] struct {
	dir atomic.Pointer[[]*[chunkLen]T]
}

// at returns element i, which ensure must have made.
func (s *slab[T]) at(i uint32) *T {
	return &(*s.dir.Load())[i/chunkLen][i%chunkLen]
}

// chunks returns all there are, also the elements not in use.
func (s *slab[T]) chunks() []*[chunkLen]T {
	if d := s.dir.Load(); d != nil {
		return *d
	}
	return nil
}

// ensure makes element i exist.
func (s *slab[T]) ensure(i uint32) {
	old := s.chunks()
	want := int(i/chunkLen) + 1
	if len(old) >= want {
		return
	}
	// A copy, because a reader may be using the old directory.
	dir := make([]*[chunkLen]T, want)
	for n := copy(dir, old); n < want; n++ {
		dir[n] = new([chunkLen]T)
	}
	s.dir.Store(&dir)
}

// pool hands out the elements of a slab. Only the writer uses take and give.
type pool[T any] struct {
	slab[T]
	now   clock
	next  uint32
	given queue
}

// take returns an element that no reader can hold any more. It may still hold
// what it said in its earlier life.
func (p *pool[T]) take() uint32 {
	if len(p.given.items) > 0 {
		if i, ok := p.given.pop(p.now() - reuseAfter); ok {
			return i
		}
	}
	i := p.next
	p.ensure(i)
	p.next++
	return i
}

// give takes back element i, to be used again after reuseAfter.
func (p *pool[T]) give(i uint32) { p.given.push(i, p.now()) }

// queue is a first-in, first-out list of element numbers and when they came.
type queue struct {
	items []queued
	head  int
}

type queued struct {
	i  uint32
	at time.Duration
}

func (q *queue) push(i uint32, now time.Duration) {
	if q.head > 0 && q.head*2 >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, queued{i, now})
}

// pop returns the oldest number if it came no later than before.
func (q *queue) pop(before time.Duration) (uint32, bool) {
	if q.head == len(q.items) || q.items[q.head].at > before {
		return 0, false
	}
	i := q.items[q.head].i
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = nil, 0
	}
	return i, true
}
