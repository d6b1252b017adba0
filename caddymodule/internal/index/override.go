package index

import (
	"sync"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// overrides are those of keys, of which few have one.
type overrides struct {
	count atomic.Int64
	mu    sync.RWMutex
	of    map[access.KeyID]*access.Override
}

// Override returns what replaces parts of the plan for a key, or nil. It is not
// to be changed, and may be over. Without any override it costs next to nothing.
func (x *Index) Override(r *Record) *access.Override {
	if x.overrides.count.Load() == 0 {
		return nil
	}
	x.overrides.mu.RLock()
	defer x.overrides.mu.RUnlock()
	return x.overrides.of[r.ID]
}

// put sets the override of a key; nil takes it off.
func (o *overrides) put(id access.KeyID, v *access.Override) {
	if v == nil && o.count.Load() == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if v == nil {
		delete(o.of, id)
	} else {
		if o.of == nil {
			o.of = make(map[access.KeyID]*access.Override)
		}
		copied := *v
		o.of[id] = &copied
	}
	o.count.Store(int64(len(o.of)))
}
