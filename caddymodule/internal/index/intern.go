package index

// interner gives each distinct value a number and counts who uses it. Number 0
// is the zero value, for good. Readers may read values by number; the rest is
// the writer's.
type interner[K comparable] struct {
	pool[K]
	numbers map[K]uint32
	users   []uint32
	own     func(K) K // makes a copy that may be kept
}

func newInterner[K comparable](now clock, own func(K) K) *interner[K] {
	var zero K
	n := &interner[K]{pool: pool[K]{now: now}, numbers: make(map[K]uint32), own: own}
	n.acquire(zero)
	return n
}

// acquire returns the number of value and counts one user more.
func (n *interner[K]) acquire(value K) uint32 {
	if i, ok := n.numbers[value]; ok {
		if i != 0 {
			n.users[i]++
		}
		return i
	}
	i, value := n.take(), n.own(value)
	*n.at(i) = value
	n.numbers[value] = i
	if int(i) == len(n.users) {
		n.users = append(n.users, 0)
	}
	n.users[i] = 1
	return i
}

// release counts one user less; the number of a value without users is given
// back. Number 0 is nobody's and stays.
func (n *interner[K]) release(i uint32) {
	if i == 0 {
		return
	}
	n.users[i]--
	if n.users[i] == 0 {
		n.forget(i)
		n.give(i)
	}
}

// forget makes the value of number i get another number from now on, while its
// users keep this one.
func (n *interner[K]) forget(i uint32) {
	if value := *n.at(i); n.numbers[value] == i {
		delete(n.numbers, value)
	}
}
