// Package engine is the state behind every configuration: one open store, the
// index of its keys, and the token buckets. It is opened once per place of
// storage and outlives configuration reloads.
package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/gate"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/internal/limit"
	"github.com/keytoll/keytoll/caddymodule/internal/provider"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// The blobs that hold the token buckets between a clean stop and the next
// start.
const (
	blobStopped = "limit/stopped" // unix nanoseconds of the stop, big-endian
	blobKeys    = "limit/keys"
	blobTable   = "limit/table"
)

// Keeper is a store that knows its master keys. Every backend's Store is one.
type Keeper interface {
	store.Store
	// Master returns the master key that the store was made with. All that the
	// engine derives comes from it, also once another one has taken its place.
	Master() token.Master
	// Opens reports whether m is one of the master keys that open the store now.
	Opens(m token.Master) bool
	// SetMasters has these master keys and no others open the store from now on,
	// durably.
	SetMasters(ctx context.Context, masters ...token.Master) error
}

// Engine is the state of one gateway. All methods are safe for concurrent use.
type Engine struct {
	gate.State
	Store  store.Store
	Master token.Master
	Counts Counts

	Uses     Uses     // last uses of keys
	Refusals Refusals // last refusals of keys
	Streams  Streams  // requests that end with their key

	// Unsealed keeps stored provider keys that were used a moment ago.
	Unsealed *provider.Cache

	hooks      atomic.Pointer[Hooks]
	foreign    foreign
	jobs       jobs
	clock      func() time.Time
	stop       chan struct{}  // closed by Close
	background sync.WaitGroup // of the engine's goroutines

	wall   atomic.Int64 // Unix nanoseconds at the limiter's time 0
	walled atomic.Int64 // the limiter's time until which wall holds

	replayTold atomic.Bool
	place      string // of the store
	metered    metered
	headroom   []byte // see headroom
}

// headroom is heap that nobody writes to, and that so costs addresses and no
// memory. The collector lets the heap grow to twice what is alive. A Caddy with
// few keys has some 4 MB alive, and is collected after every 5 MB, which is 300
// proxied requests: that costs more than the whole gate does. The headroom more
// than doubles what lies between two collections. With it the process has some
// 5 MB more memory in use.
const headroom = 4 << 20

// Wall returns the time of day at the limiter's time now. It reads the clock
// once a second, so a clock that is set shows within a second.
func (e *Engine) Wall(now int64) time.Time { return time.Unix(0, e.unixNano(now)) }

// Unix returns Wall as a unix second.
func (e *Engine) Unix(now int64) int64 { return e.unixNano(now) / int64(time.Second) }

// unixNano takes a clock that is before 1970 for one that is there.
func (e *Engine) unixNano(now int64) int64 {
	if now >= e.walled.Load() {
		e.look(now)
	}
	return e.wall.Load() + now
}

// look reads the clock.
func (e *Engine) look(now int64) {
	e.wall.Store(max(e.clock().UnixNano(), 0) - e.Limiter.Now())
	e.walled.Store(now + int64(time.Second))
}

// Counts are what the metrics read.
type Counts struct {
	Requests    [access.NumReasons]atomic.Uint64
	StoreErrors atomic.Uint64
	Bypassed    atomic.Uint64    // requests that went without credits, with a provider key of the caller's
	Verified    [3]atomic.Uint64 // provider keys, by Verdict
	Decisions   Histogram        // of one request in 64
}

// Open opens the store of a backend and loads its keys. The buckets of the last
// clean stop are taken over, less the time that has passed since; a clock that
// was set back counts as no time.
func Open(ctx context.Context, b store.Backend) (*Engine, error) {
	st, err := b.Open(ctx)
	if err != nil {
		return nil, err
	}
	e, err := load(ctx, st, time.Now)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	e.place = b.Identity()
	e.run()
	return e, nil
}

// load makes an engine that run is still to be called of.
func load(ctx context.Context, st store.Store, clock func() time.Time) (*Engine, error) {
	k, ok := st.(Keeper)
	if !ok {
		return nil, fmt.Errorf("storage %T does not say which master key it was opened with", st)
	}
	e := &Engine{Store: st, Master: k.Master(), clock: clock, stop: make(chan struct{}), jobs: newJobs(), foreign: newForeign(), headroom: make([]byte, headroom)}
	e.hooks.Store(new(Hooks))
	e.Index, e.Unsealed = index.New(), newUnsealed()
	e.Index.OnProviderGone = e.Unsealed.Drop
	e.Limiter = limit.New(limit.Options{})
	e.Digester = token.NewDigester(e.Master)
	e.Foreign, e.Adopt = e.askForeign, e.adoptLater
	e.Uses.pending, e.Uses.store, e.Uses.early = make(map[access.KeyID]access.Use), st, e.wake
	e.Streams.index, e.Streams.now = e.Index, e.Unix
	if err := st.Follow(ctx, e.apply); err != nil {
		return nil, fmt.Errorf("loading keys: %w", err)
	}
	return e, e.restoreBuckets(ctx)
}

func (e *Engine) restoreBuckets(ctx context.Context) error {
	return e.Store.View(ctx, func(r store.Reader) error {
		stopped, err := r.Blob(blobStopped)
		if errors.Is(err, store.ErrNotFound) || err == nil && len(stopped) != 8 {
			return nil
		}
		if err != nil {
			return err
		}
		elapsed := time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(stopped))))
		keys, err := r.Blob(blobKeys)
		if err == nil {
			err = e.Index.RestoreBuckets(e.Limiter.Now(), elapsed, keys)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("restoring token buckets: %w", err)
		}
		table, err := r.Blob(blobTable)
		if err == nil {
			err = e.Limiter.Restore(e.Limiter.Now(), elapsed, table)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("restoring token buckets: %w", err)
		}
		return nil
	})
}

// Close stores the last uses, keeps the token buckets and closes the store. No
// request may be on its way through a gate of this engine.
func (e *Engine) Close() error {
	close(e.stop)
	e.background.Wait()
	e.headroom = nil // whoever still holds a closed engine needs none
	e.Unsealed.Wipe()
	e.work(false)
	err := e.Uses.flush(e.hooks.Load().RecordUses)
	if err != nil {
		err = fmt.Errorf("keeping last uses: %w", err)
	}
	return errors.Join(err, e.closeMetering(), e.keepBuckets(), e.Store.Close())
}

func (e *Engine) keepBuckets() error {
	now := e.Limiter.Now()
	keys, table := e.Index.SnapshotBuckets(now), e.Limiter.Snapshot(now)
	stopped := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
	err := e.Store.Update(context.Background(), func(tx store.Tx) error {
		return errors.Join(tx.PutBlob(blobStopped, stopped), tx.PutBlob(blobKeys, keys), tx.PutBlob(blobTable, table))
	})
	if err != nil {
		return fmt.Errorf("keeping token buckets: %w", err)
	}
	return nil
}

// Installation returns a name that all databases under one master key share.
func (e *Engine) Installation() [8]byte {
	name := e.Master.Derive("installation name")
	return [8]byte(name[:8])
}

// Opens reports whether the store, as it is now, would open with m.
func (e *Engine) Opens(m token.Master) bool { return e.Store.(Keeper).Opens(m) }

// Replayed returns how many keys the store revoked at its opening because it
// was older than their revocation, to the first who asks.
func (e *Engine) Replayed() int {
	if s, ok := e.Store.(interface{ Replayed() int }); ok && !e.replayTold.Swap(true) {
		return s.Replayed()
	}
	return 0
}

// Key reads a whole key record. It costs a few microseconds: only what is not
// in the index needs it.
func (e *Engine) Key(ctx context.Context, id access.KeyID) (key *access.Key, err error) {
	err = e.Store.View(ctx, func(r store.Reader) error {
		key, err = r.Key(id)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		e.Counts.StoreErrors.Add(1)
	}
	return key, err
}

// Histogram counts durations in fixed buckets.
type Histogram struct {
	Buckets [len(Bounds) + 1]atomic.Uint64
	Sum     atomic.Uint64 // nanoseconds
}

// Bounds are the upper bounds of a Histogram's buckets.
var Bounds = [...]time.Duration{
	250 * time.Nanosecond, 500 * time.Nanosecond, time.Microsecond, 2500 * time.Nanosecond,
	5 * time.Microsecond, 10 * time.Microsecond, 50 * time.Microsecond, 250 * time.Microsecond,
	time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond,
}

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) {
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	h.Buckets[i].Add(1)
	h.Sum.Add(uint64(max(d, 0)))
}
