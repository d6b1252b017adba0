package engine

import (
	"context"
	"sync"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/index"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

// Bounds of verifying imported hashes, which are made to be slow.
const (
	verifiers     = 2    // hashes at once
	maxFlights    = 64   // texts being verified or waiting
	maxCandidates = 4096 // keys that one text is tried on
	candidateBlk  = 32   // keys read at once
	maxKnown      = 65_536

	knownFor  = time.Minute     // how long an answer is remembered
	verifyFor = 3 * time.Second // after which no further hash is begun for a text
)

// foreign verifies texts against imported hashes: each text once at a time, few
// at once, and each answer is remembered for a while. Texts are known by their
// digest.
type foreign struct {
	mu      sync.Mutex
	flights map[[32]byte]*flight
	known   map[[32]byte]verdict
	slots   chan struct{}
}

// flight is one text being verified.
type flight struct {
	done chan struct{} // closed once what follows is set
	verdict
	busy bool // it could not be told
}

// verdict is whose secret a text is.
type verdict struct {
	id    access.KeyID
	right bool // else it is nobody's
	until time.Time
	puts  uint64 // index.ImportedPuts before it was found out
}

func newForeign() foreign {
	return foreign{
		flights: make(map[[32]byte]*flight), known: make(map[[32]byte]verdict),
		slots: make(chan struct{}, verifiers),
	}
}

// askForeign is gate.State.Foreign. What it says of a key that is being adopted
// meanwhile may be of before or after: that it is nobody's holds if nothing
// moved in the index.
func (e *Engine) askForeign(ctx context.Context, text string) (rec *index.Record, busy bool) {
	h := e.hooks.Load()
	if h.Verify == nil {
		return nil, false
	}
	digest := e.Digester.Sum(text)
	since := e.Index.ImportedPuts()
	for {
		fl, v, known := e.board(h.Verify, digest, text)
		if known {
			return e.holder(v, &digest), false
		}
		if fl == nil {
			return nil, true
		}
		select {
		case <-fl.done:
		case <-ctx.Done():
			return nil, true
		}
		if fl.busy {
			return nil, true
		}
		if fl.right || fl.puts >= since {
			return e.holder(fl.verdict, &digest), false
		}
		// It left before a key was imported that the text may be the secret of.
	}
}

// board returns the flight of a text, a new one if there is none, or what is
// known of the text already; neither if too many texts wait.
func (e *Engine) board(verify func(hash, text string) bool, digest [32]byte, text string) (fl *flight, v verdict, known bool) {
	f := &e.foreign
	puts, now := e.Index.ImportedPuts(), e.clock()
	f.mu.Lock()
	v, known = f.recall(digest, puts, now)
	f.mu.Unlock()
	if known {
		return nil, v, true
	}
	ids := e.Index.ImportedCandidates(nil, text, maxCandidates)
	if len(ids) == 0 {
		return nil, verdict{}, true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v, known = f.recall(digest, puts, now); known { // its flight landed since
		return nil, v, true
	}
	if fl = f.flights[digest]; fl != nil || len(f.flights) >= maxFlights {
		return fl, verdict{}, false
	}
	fl = &flight{done: make(chan struct{})}
	fl.puts = puts
	f.flights[digest] = fl
	e.background.Go(func() { e.fly(fl, verify, ids, digest, text) })
	return fl, verdict{}, false
}

// recall returns what is known of a text, if no imported key changed since and
// it is not too old. The caller holds mu.
func (f *foreign) recall(digest [32]byte, puts uint64, now time.Time) (v verdict, ok bool) {
	v, ok = f.known[digest]
	return v, ok && v.puts == puts && now.Before(v.until)
}

// holder returns the record of the key that a verdict names, if the secret is
// still the key's.
func (e *Engine) holder(v verdict, digest *[32]byte) *index.Record {
	if !v.right {
		return nil
	}
	rec := e.Index.ByID(v.id)
	if rec == nil || rec.Alg() == token.AlgImported {
		return rec
	}
	return e.Index.Lookup(digest) // adopted since, or rotated away
}

// fly finds out about one text and lands its flight.
func (e *Engine) fly(fl *flight, verify func(hash, text string) bool, ids []access.KeyID, digest [32]byte, text string) {
	f := &e.foreign
	select {
	case f.slots <- struct{}{}:
		fl.id, fl.right, fl.busy = e.verify(verify, ids, digest, text)
		<-f.slots
	case <-e.stop:
		fl.busy = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.flights, digest)
	if !fl.busy {
		fl.until = e.clock().Add(knownFor)
		f.remember(digest, fl.verdict, e.clock())
	}
	close(fl.done)
}

func (f *foreign) remember(digest [32]byte, v verdict, now time.Time) {
	if len(f.known) >= maxKnown {
		for d, old := range f.known {
			if !now.Before(old.until) {
				delete(f.known, d)
			}
		}
	}
	for d := range f.known {
		if len(f.known) < maxKnown {
			break
		}
		delete(f.known, d)
	}
	f.known[digest] = v
}

// verify tries the text, of this digest, on each key in turn, while the time
// lasts.
func (e *Engine) verify(verify func(hash, text string) bool, ids []access.KeyID, digest [32]byte, text string) (id access.KeyID, right, busy bool) {
	start := e.clock()
	for len(ids) > 0 {
		n := min(len(ids), candidateBlk)
		tries, err := e.readTries(ids[:n], &digest)
		if err != nil {
			return id, false, true
		}
		for i, try := range tries {
			if try.ours {
				return ids[i], true, false
			}
			if e.clock().Sub(start) >= verifyFor {
				return id, false, true
			}
			if try.hash == "" || !verify(try.hash, text) {
				continue
			}
			// The key may have been given another secret meanwhile, or this one's digest.
			again, err := e.readTries(ids[i:i+1], &digest)
			same := err == nil && (again[0] == try || again[0].ours)
			return ids[i], same, !same
		}
		ids = ids[n:]
	}
	return id, false, false
}

// try is what the store has of a key that a text is tried on.
type try struct {
	hash string // empty if it has none
	ours bool   // it was adopted since, under the text's own digest
}

// readTries reads keys. The store knows of an adoption before the index does.
func (e *Engine) readTries(ids []access.KeyID, digest *[32]byte) ([]try, error) {
	tries := make([]try, len(ids))
	err := e.Store.View(context.Background(), func(r store.Reader) error {
		for i, id := range ids {
			k, err := r.Key(id)
			if err != nil {
				continue
			}
			tries[i].ours = k.Alg == token.AlgHMAC && k.Digest == *digest
			if k.Imported != nil {
				tries[i].hash = k.Imported.Hash
			}
		}
		return nil
	})
	if err != nil {
		e.Counts.StoreErrors.Add(1)
	}
	return tries, err
}
