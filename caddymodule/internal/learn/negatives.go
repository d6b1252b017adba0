package learn

import "time"

// negatives remembers keys that were refused, in two generations: when the young
// one is full or old, it becomes the old one and the old one is forgotten. It
// holds at most two times its size.
type negatives struct {
	keep       time.Duration
	size       int
	young, old map[[32]byte]int64 // until when, in unix nanoseconds
	since      time.Time          // of the young one
}

func newNegatives(keep time.Duration, size int) *negatives {
	return &negatives{keep: keep, size: size, young: make(map[[32]byte]int64)}
}

func (n *negatives) has(d [32]byte, now time.Time) bool {
	until, ok := n.young[d]
	if !ok {
		until, ok = n.old[d]
	}
	return ok && now.UnixNano() < until
}

func (n *negatives) add(d [32]byte, now time.Time) {
	if len(n.young) >= n.size || now.Sub(n.since) >= n.keep {
		n.old, n.young, n.since = n.young, make(map[[32]byte]int64), now
	}
	n.young[d] = now.Add(n.keep).UnixNano()
}
