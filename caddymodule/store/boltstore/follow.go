package boltstore

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
)

const (
	loaders   = 2   // goroutines that check and decode records
	batchSize = 512 // keys handed over at a time
)

var errFollower = errors.New("the store has a follower already")

// Follow implements store.Store. Keys come in no particular order. Writers wait
// until it returns. It returns ErrDamaged if any record fails its tag or does
// not fit the others; what apply was given must not be used then. apply must
// not call the store.
func (s *Store) Follow(ctx context.Context, apply func(store.Change)) error {
	// The check of the pages goes on while the records are loaded.
	if err := s.admit(); err != nil {
		return err
	}
	defer s.active.Done()
	release, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	if s.apply != nil {
		return errFollower
	}
	if err := s.load(ctx, apply); err != nil {
		return err
	}
	if err := s.awaitCheck(ctx); err != nil {
		return err
	}
	s.apply = apply
	return nil
}

// loading is one pass over all records.
type loading struct {
	s       *Store
	tenants map[string]string
	next    atomic.Int32 // range of key ids to be taken next
	full    chan []access.KeyHead
	empty   chan []access.KeyHead
	stop    context.Context

	// The keys and the entries of tenant_keys must say the same. Their hashes
	// are summed in both places, so that no one has to be looked up.
	seed maphash.Seed
	keys atomic.Uint64
	refs atomic.Uint64
}

func (s *Store) load(ctx context.Context, apply func(store.Change)) error {
	l := &loading{s: s, seed: maphash.MakeSeed(), tenants: map[string]string{},
		full: make(chan []access.KeyHead, 2*loaders), empty: make(chan []access.KeyHead, 4*loaders)}
	if err := s.view(func(r store.Reader) error {
		return r.Tenants("", func(t *access.Tenant) bool {
			l.tenants[t.ID] = t.ID
			apply(store.Change{Tenant: t})
			return ctx.Err() == nil
		})
	}); err != nil {
		return err
	}
	if err := l.run(ctx, apply); err != nil {
		return err
	}
	if l.keys.Load() != l.refs.Load() {
		return damaged(s.path, "the list of keys by tenant does not fit the keys")
	}
	return l.loadProviders(ctx, apply)
}

// run has the loaders fill batches and hands these to apply.
func (l *loading) run(ctx context.Context, apply func(store.Change)) error {
	stop, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.stop = stop
	for range cap(l.empty) {
		l.empty <- make([]access.KeyHead, 0, batchSize)
	}
	var group sync.WaitGroup
	start := func(fn func(*bolt.Tx) error) {
		group.Go(func() {
			if err := guard(l.s.path, func() error { return l.s.db.View(fn) }); err != nil {
				cancel(err)
			}
		})
	}
	for range loaders {
		start(l.loadKeys)
	}
	start(l.sumRefs)
	start(l.openBlobs)
	go func() { group.Wait(); close(l.full) }()
	for batch := range l.full {
		if stop.Err() == nil {
			for i := range batch {
				apply(store.Change{Key: &batch[i]})
			}
		}
		l.empty <- batch[:0] // never blocks: there is room for all of them
	}
	return context.Cause(stop)
}

// bounds are where the ranges of key ids begin: before all ids, and at each
// character that an id can start with but the least.
const bounds = "\x00123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// loadKeys takes ranges until none is left.
func (l *loading) loadKeys(tx *bolt.Tx) error {
	w := &loader{loading: l, tagger: l.s.taggers.Get().(*tagger),
		names: newNames(l.tenants), batch: <-l.empty}
	c := tx.Bucket(bucketKeys).Cursor()
	for {
		i := int(l.next.Add(1)) - 1
		if i >= len(bounds) {
			break
		}
		var end []byte
		if i+1 < len(bounds) {
			end = []byte{bounds[i+1]}
		}
		k, v := c.Seek([]byte{bounds[i]})
		for ; k != nil && (end == nil || bytes.Compare(k, end) < 0); k, v = c.Next() {
			if err := w.add(k, v); err != nil {
				return err
			}
		}
	}
	l.full <- w.batch
	l.s.taggers.Put(w.tagger)
	l.keys.Add(w.sum)
	return nil
}

// loader is what one of the goroutines needs for itself.
type loader struct {
	*loading
	tagger *tagger
	names  names
	batch  []access.KeyHead
	ref    []byte
	sum    uint64
}

func (w *loader) add(id, value []byte) error {
	record, ok := w.tagger.open(bucketKeys, id, value)
	if !ok {
		return damaged(w.s.path, "record %q in keys fails its tag", id)
	}
	w.batch = w.batch[:len(w.batch)+1]
	h := &w.batch[len(w.batch)-1]
	if _, err := decodeHead(h, id, record, &w.names); err != nil {
		return damaged(w.s.path, "key %q: %v", id, err)
	}
	w.ref = append(append(append(w.ref[:0], h.Tenant...), 0), id...)
	w.sum += maphash.Bytes(w.seed, w.ref)
	if len(w.batch) < cap(w.batch) {
		return nil
	}
	w.full <- w.batch
	w.batch = <-w.empty
	return w.stop.Err()
}

func (l *loading) sumRefs(tx *bolt.Tx) error {
	var sum uint64
	c := tx.Bucket(bucketTenantKeys).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		sum += maphash.Bytes(l.seed, k)
	}
	l.refs.Add(sum)
	return nil
}

// openBlobs checks the tags of the blobs. A name that was damaged would
// otherwise be a blob that was never there.
func (l *loading) openBlobs(tx *bolt.Tx) error {
	t := l.s.taggers.Get().(*tagger)
	defer l.s.taggers.Put(t)
	c := tx.Bucket(bucketBlobs).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if _, ok := t.open(bucketBlobs, k, v); !ok {
			return damaged(l.s.path, "record %q in blobs fails its tag", k)
		}
	}
	return nil
}
