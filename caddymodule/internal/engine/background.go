package engine

import (
	"sync"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Bounds of what waits for a hook.
const (
	flushEvery  = 30 * time.Second
	maxAdopting = 1024 // keys whose secret waits to be adopted
	maxSettling = 100_000
	settleTries = 10
)

// jobs is what requests leave behind for a hook.
type jobs struct {
	mu     sync.Mutex
	adopt  map[access.KeyID]adoption
	settle map[access.KeyID]int // how often it was tried
	wake   chan struct{}
}

type adoption struct {
	alg    uint8
	was    [32]byte
	secret token.Secret
}

func newJobs() jobs {
	return jobs{adopt: make(map[access.KeyID]adoption), settle: make(map[access.KeyID]int), wake: make(chan struct{}, 1)}
}

// adoptLater is gate.State.Adopt. A key past the bound waits for its next use.
func (e *Engine) adoptLater(rec *index.Record, alg uint8, was [32]byte, secret token.Secret) {
	e.jobs.mu.Lock()
	if len(e.jobs.adopt) < maxAdopting {
		e.jobs.adopt[rec.ID] = adoption{alg, was, secret}
	}
	e.jobs.mu.Unlock()
	e.wake()
}

func (e *Engine) settle(id access.KeyID) {
	e.jobs.mu.Lock()
	if len(e.jobs.settle) < maxSettling {
		e.jobs.settle[id] = 0
	}
	e.jobs.mu.Unlock()
	e.wake()
}

func (e *Engine) wake() {
	select {
	case e.jobs.wake <- struct{}{}:
	default: // it is awake
	}
}

// run starts the engine's goroutines, which stop closes.
func (e *Engine) run() {
	e.background.Go(func() {
		second := time.NewTicker(time.Second)
		defer second.Stop()
		for {
			select {
			case <-second.C:
				e.second()
			case <-e.stop:
				return
			}
		}
	})
	e.background.Go(func() {
		flush := time.NewTicker(flushEvery)
		defer flush.Stop()
		for {
			select {
			case <-e.jobs.wake:
				e.work(e.Uses.crowded())
			case <-flush.C:
				e.work(true)
			case <-e.stop:
				return
			}
		}
	})
}

// second ends the streams whose time is over.
func (e *Engine) second() { e.Streams.check(e.clock().Unix(), nil) }

// work does what waits, and stores last uses if flush is set. One goroutine at
// a time may call it.
func (e *Engine) work(flush bool) {
	h := e.hooks.Load()
	e.jobs.mu.Lock()
	adopt, settle := e.jobs.adopt, e.jobs.settle
	e.jobs.adopt, e.jobs.settle = make(map[access.KeyID]adoption), make(map[access.KeyID]int)
	e.jobs.mu.Unlock()
	if h.OnAdopt != nil {
		for id, a := range adopt {
			_ = h.OnAdopt(id, a.alg, a.was, a.secret) // the key's next use asks again
		}
	}
	for id, tries := range settle {
		if h.OnSettled == nil || h.OnSettled(id) != nil {
			e.settleAgain(id, tries+1)
		}
	}
	if flush {
		if err := e.Uses.flush(h.RecordUses); err != nil {
			e.Counts.StoreErrors.Add(1)
		}
	}
}

// settleAgain leaves a key for the next turn.
func (e *Engine) settleAgain(id access.KeyID, tries int) {
	if tries == settleTries {
		return
	}
	e.jobs.mu.Lock()
	defer e.jobs.mu.Unlock()
	if _, anew := e.jobs.settle[id]; !anew && len(e.jobs.settle) < maxSettling {
		e.jobs.settle[id] = tries
	}
}

// apply is the follower of the store.
func (e *Engine) apply(c store.Change) {
	e.Index.Apply(c)
	if c.Key == nil || c.Old != nil { // a new key has no streams
		e.Streams.changed(&c, e.clock().Unix())
	}
}
