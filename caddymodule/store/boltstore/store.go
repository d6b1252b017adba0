package boltstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// tagPurpose names the key of the record tags among those of a master key.
const tagPurpose = "record tag"

// Store is an open database. It is safe for concurrent use.
type Store struct {
	path    string
	masters []token.Master // to open the database with, in this order
	master  token.Master   // its root; from roots.go on
	roots   atomic.Pointer[roots]
	db      *bolt.DB
	file    *os.File // of db; for undoing a commit that failed half-way
	count   counter
	side    *sideFile
	old     bool      // the database is of an older schema version; by the writer
	taggers sync.Pool // of *tagger

	checked  chan struct{} // closed when checkErr is set
	checkErr error
	replayed int // keys that the opening revoked

	mu     sync.Mutex
	closed bool
	failed error          // why nothing can be done any more
	stuck  bool           // bbolt holds locks it will not let go
	active sync.WaitGroup // calls that Close waits for

	writing chan struct{} // holds one token while a writer or Follow runs
	commits uint64        // number of the last commit; by the writer
	apply   func(store.Change)
}

var _ store.Store = (*Store)(nil)

// Master returns the master key that the database was made with, from which the
// other secrets of the installation are derived. It may open the database no
// more; see SetMasters.
func (s *Store) Master() token.Master { return s.master }

// enter admits a call once the database was checked; leave with active.Done.
func (s *Store) enter(ctx context.Context) error {
	if err := s.admit(); err != nil {
		return err
	}
	err := s.awaitCheck(ctx)
	if err != nil {
		s.active.Done()
	}
	return err
}

// admit counts a call that Close has to wait for.
func (s *Store) admit() error {
	s.mu.Lock()
	err := s.failed
	if s.closed {
		err = store.ErrClosed
	}
	if err == nil {
		s.active.Add(1)
	}
	s.mu.Unlock()
	return err
}

func (s *Store) awaitCheck(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-s.checked:
		return s.checkErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// View implements store.Store. A memory fault or a panic of bbolt is
// ErrDamaged; a panic of fn goes on. fn must not call
// Update or wait for one: an Update that makes a large file larger waits until
// no View runs.
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.active.Done()
	return s.view(fn)
}

func (s *Store) view(fn func(store.Reader) error) (err error) {
	r := &reader{s: s, tagger: s.taggers.Get().(*tagger), inside: true}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer r.rescue(&err)
	if r.tx, err = s.db.Begin(false); err != nil {
		return storageError(s.path, err)
	}
	defer r.tx.Rollback()
	r.inside = false
	err = fn(r)
	s.taggers.Put(r.tagger)
	return err
}

// Update implements store.Store. fn is run once. Neither it nor the follower
// may call View, Update or Close.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.active.Done()
	release, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	t, err := s.update(fn)
	if err != nil {
		return err
	}
	s.committed(t)
	if s.apply != nil {
		for _, c := range t.changes {
			s.apply(c)
		}
	}
	return nil
}

// committed notes in the files beside the database that t was committed.
func (s *Store) committed(t *tx) {
	s.commits++
	s.old = false
	if t.roots != nil {
		s.roots.Store(t.roots)
	}
	s.count.set(s.commits)
	s.side.add(t.entries)
}

// lock makes its caller the only writer.
func (s *Store) lock(ctx context.Context) (release func(), err error) {
	select {
	case s.writing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	release = func() { <-s.writing }
	s.mu.Lock()
	err = s.failed
	s.mu.Unlock()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (s *Store) update(fn func(store.Tx) error) (t *tx, err error) {
	t = &tx{reader: reader{s: s, tagger: s.taggers.Get().(*tagger), inside: true}}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer t.rescue(&err)
	if t.tx, err = s.db.Begin(true); err != nil {
		return nil, storageError(s.path, err)
	}
	defer s.rollback(t.tx)
	if s.old {
		if err = upgrade(t.tx); err != nil {
			return nil, storageError(s.path, err)
		}
	}
	t.inside = false
	if err = fn(t); err != nil {
		return nil, err
	}
	if len(t.buried) > 0 || t.learnt != nil {
		if err = t.noteBuried(); err != nil {
			return nil, err
		}
	}
	t.inside = true
	if err = t.countCommit(); err != nil {
		return nil, storageError(s.path, err)
	}
	undo := s.prepareUndo(t.tx)
	if err = t.tx.Commit(); err != nil {
		return nil, s.commitFailed(err, undo)
	}
	t.inside = false
	s.taggers.Put(t.tagger)
	return t, nil
}

// rollback ends a transaction that may have ended. If bbolt cannot, for what it
// holds in memory does not fit together, the store is of no further use.
func (s *Store) rollback(tx *bolt.Tx) {
	defer func() {
		if p := recover(); p != nil {
			s.fail(damaged(s.path, "%v", p), true)
		}
	}()
	_ = tx.Rollback()
}

// fail has all later calls return err.
func (s *Store) fail(err error, stuck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	s.stuck = s.stuck || stuck
}

// commitFailed returns the error of a failed commit. If bbolt had written the
// meta page and could not sync it, the change can be seen although it may not
// last. It is taken back then, and as bbolt cannot go on from there the store
// must be opened again.
func (s *Store) commitFailed(cause error, undo func() error) error {
	err := fmt.Errorf("database %s: nothing was changed, the commit failed: %w", s.path, cause)
	var n uint64
	look := guard(s.path, func() error {
		return s.db.View(func(tx *bolt.Tx) (err error) {
			n, err = s.commitsIn(tx.Bucket(bucketMeta))
			return err
		})
	})
	if look == nil && n == s.commits {
		return err
	}
	err = fmt.Errorf("database %s: a commit failed half-way and the database must be opened again: %w", s.path,
		errors.Join(cause, look, undo()))
	s.fail(err, false)
	return err
}

// prepareUndo keeps the older meta page, which the commit of tx will overwrite.
// Putting it back makes the state before the commit the newest again.
func (s *Store) prepareUndo(tx *bolt.Tx) (undo func() error) {
	at := int64(tx.ID()%2) * int64(s.db.Info().PageSize)
	old := make([]byte, metaLen)
	if _, err := s.file.ReadAt(old, at); err != nil {
		return func() error { return err }
	}
	return func() error {
		_, err := s.file.WriteAt(old, at)
		return errors.Join(err, s.file.Sync())
	}
}

// Close implements store.Store. An error may also say that the list of
// revocations could not be written; the next opening does it.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	s.closed = true
	s.mu.Unlock()
	s.active.Wait()
	<-s.checked
	s.count.close()
	err := s.side.close()
	if err != nil {
		err = fmt.Errorf("list of revocations: %w", err)
	}
	if s.stuck {
		release(s.file)
		return err
	}
	return errors.Join(storageError(s.path, guard(s.path, s.db.Close)), err)
}
