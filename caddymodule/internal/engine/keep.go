package engine

import (
	"sync"

	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// keeping is how long each configuration in force keeps usage.
type keeping struct {
	mu   sync.Mutex
	by   map[int]usage.Retention
	next int
}

// Keep has usage kept as a configuration says, until it lets go. While there are
// several, the longest time of each kind holds: a configuration that fails to
// start, or one that others are still served under, loses nothing. After the
// last has let go it stays as it was.
func (m *Metering) Keep(r usage.Retention) (release func(), err error) {
	k := &m.keeping
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.by == nil {
		k.by = make(map[int]usage.Retention)
	}
	id := k.next
	k.next++
	k.by[id] = r
	if err := m.keep(); err != nil {
		delete(k.by, id)
		return nil, err
	}
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.by, id)
		_ = m.keep() // each of them was good
	}, nil
}

func (m *Metering) keep() error {
	if len(m.keeping.by) == 0 {
		return nil
	}
	var longest usage.Retention
	for _, r := range m.keeping.by {
		longest.Minute, longest.Hour, longest.Day = max(longest.Minute, r.Minute), max(longest.Hour, r.Hour), max(longest.Day, r.Day)
	}
	return m.Usage.SetRetention(longest)
}
