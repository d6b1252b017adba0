package engine

import (
	"context"
	"errors"
	"sync"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// maxUses is how many last uses wait to be stored. Half of them are stored
// early; those past it, which only a store that fails brings about, are lost.
const maxUses = 100_000

// usesPerTx is how many uses one transaction stores.
const usesPerTx = 1000

// Uses is the last uses of keys: those that are stored and those that wait. It
// is safe for concurrent use.
type Uses struct {
	mu      sync.Mutex
	pending map[access.KeyID]access.Use
	writing map[access.KeyID]access.Use // nil unless they are just being stored

	store store.Store
	early func() // asks for a flush
}

// Last returns the last use of a key, the zero Use if it was never used. It is
// up to a minute old.
func (u *Uses) Last(ctx context.Context, id access.KeyID) (use access.Use, err error) {
	err = u.store.View(ctx, func(r store.Reader) error {
		use, err = r.Use(id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return u.Newer(id, use), err
}

// Newer returns the use of a key that waits to be stored, if there is one that
// is newer than stored, else stored. It is for whoever has read stored anyway.
func (u *Uses) Newer(id access.KeyID, stored access.Use) access.Use {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, m := range []map[access.KeyID]access.Use{u.writing, u.pending} {
		if p, ok := m[id]; ok && p.At >= stored.At {
			stored = p
		}
	}
	return stored
}

func (u *Uses) add(id access.KeyID, use access.Use) {
	u.mu.Lock()
	_, there := u.pending[id]
	if there || len(u.pending) < maxUses {
		u.pending[id] = use
	}
	early := !there && len(u.pending) == maxUses/2
	u.mu.Unlock()
	if early {
		u.early()
	}
}

// crowded reports whether so many wait that they should be stored early.
func (u *Uses) crowded() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.pending) >= maxUses/2
}

// flush stores what waits. One goroutine at a time may call it.
func (u *Uses) flush(record func(map[access.KeyID]access.Use) error) error {
	u.mu.Lock()
	batch := u.pending
	if len(batch) == 0 {
		u.mu.Unlock()
		return nil
	}
	u.pending, u.writing = make(map[access.KeyID]access.Use), batch
	u.mu.Unlock()
	if record == nil {
		record = u.record
	}
	err := record(batch)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.writing = nil
	if err == nil {
		return nil
	}
	for id, use := range batch {
		if _, newer := u.pending[id]; !newer && len(u.pending) < maxUses {
			u.pending[id] = use
		}
	}
	return err
}

// record stores uses by the engine's own means.
func (u *Uses) record(uses map[access.KeyID]access.Use) error {
	ids := make([]access.KeyID, 0, len(uses))
	for id := range uses {
		ids = append(ids, id)
	}
	for len(ids) > 0 {
		n := min(len(ids), usesPerTx)
		err := u.store.Update(context.Background(), func(tx store.Tx) error {
			for _, id := range ids[:n] {
				if err := tx.PutUse(id, uses[id]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}
