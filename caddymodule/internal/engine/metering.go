package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/counter"
	"github.com/keytoll/keytoll/caddymodule/internal/credit"
	"github.com/keytoll/keytoll/caddymodule/internal/usage"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// What is added to the place of the store for the files beside it.
const (
	countersSuffix = ".counters"
	journalSuffix  = ".usage" // what was counted and is not in the store yet
)

// Metering is what charges and counts requests. It is opened when a
// configuration first asks for it, and stays open with its engine.
type Metering struct {
	Counters *counter.File
	Ledger   *credit.Ledger
	Usage    *usage.Recorder
	Totals   Totals
	Watch    Watch   // of credits
	Exports  Exports // of usage
	Reports  Reports // of running costs

	keeping      keeping
	folding      folding
	flightShards [flightShards]flightShard
}

// MeteringOptions is what a configuration says of metering.
type MeteringOptions struct {
	Retain  usage.Retention // until Keep says otherwise; that of the first one that asks
	OnError func(error)     // told of counters and usage that cannot be written
}

// metered is the engine's Metering, once it is open.
type metered struct {
	mu      sync.Mutex
	m       *Metering
	onError func(error)
}

// Metering returns the engine's Metering, and opens it if need be.
func (e *Engine) Metering(ctx context.Context, o MeteringOptions) (*Metering, error) {
	e.metered.mu.Lock()
	defer e.metered.mu.Unlock()
	e.metered.onError = o.OnError
	if e.metered.m != nil {
		return e.metered.m, nil
	}
	m, err := e.openMetering(ctx, o)
	if err != nil {
		return nil, err
	}
	e.metered.m = m
	e.background.Go(func() {
		minute := time.NewTicker(time.Minute)
		defer minute.Stop()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() { <-e.stop; cancel() }()
		m.Usage.Run(ctx, minute.C)
	})
	e.background.Go(func() {
		fold := time.NewTicker(foldEvery)
		defer fold.Stop()
		for {
			select {
			case <-fold.C:
				if err := e.foldCounters(context.Background(), m); err != nil {
					e.meteringError(err)
				}
			case <-e.stop:
				return
			}
		}
	})
	return m, nil
}

func (e *Engine) openMetering(ctx context.Context, o MeteringOptions) (*Metering, error) {
	file, err := counter.Open(e.place+countersSuffix, counter.Options{
		InstallationID: e.Installation(), OnError: e.meteringError,
	})
	if errors.Is(err, counter.ErrInstallation) || errors.Is(err, counter.ErrDamaged) {
		err = fmt.Errorf("%w; to go on from the database's copy of the counters, move the file away", err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the counters: %w", err)
	}
	if bad := file.Recovery().Damaged; len(bad) > 0 {
		e.meteringError(fmt.Errorf("%d counters are damaged, the first is %x: %s; tenants and keys without one are refused; to go on from the database's copy of all counters, stop the server and move the file away", len(bad), bad[0].ID, bad[0].Why))
	}
	rec, err := e.openUsage(ctx, o.Retain)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	copied, told, err := e.unfold(ctx, file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the counters: %w", err), rec.Close(ctx), file.Close())
	}
	if !copied && file.Recovery().New && file.Len() == 0 && hasUsage(ctx, e.Store) {
		told = errLostCounters
	}
	if told != nil {
		e.meteringError(told)
	}
	return &Metering{Counters: file, Usage: rec, Ledger: credit.New(credit.Options{Slots: credit.Counters(file), Now: e.clock})}, nil
}

var errLostCounters = errors.New("there is usage, but the file of counters was not there: credits and quotas of the present periods start anew; keep it with the database")

// hasUsage reports whether the store has usage of an earlier time.
func hasUsage(ctx context.Context, st store.Store) (yes bool) {
	_ = st.View(ctx, func(r store.Reader) (err error) {
		for _, of := range []string{"d", "h", "m"} { // days, hours, minutes; between them is what a new store has too
			err = errors.Join(err, r.Usage([]byte(of), []byte{of[0] + 1}, func(_, _ []byte) bool {
				yes = true
				return false
			}))
		}
		return err
	})
	return yes
}

// meteringError tells the newest configuration.
func (e *Engine) meteringError(err error) {
	e.Counts.StoreErrors.Add(1)
	go func() { // it may run within a request
		e.metered.mu.Lock()
		tell := e.metered.onError
		e.metered.mu.Unlock()
		if tell != nil {
			tell(err)
		}
	}()
}

// closeMetering keeps what was counted.
func (e *Engine) closeMetering() error {
	e.metered.mu.Lock()
	defer e.metered.mu.Unlock()
	m := e.metered.m
	if m == nil {
		return nil
	}
	used, folded := m.Usage.Close(context.Background()), e.foldCounters(context.Background(), m)
	counted := m.Counters.Close()
	if used != nil {
		used = fmt.Errorf("keeping usage: %w", used)
	}
	if counted != nil {
		counted = fmt.Errorf("keeping counters: %w", counted)
	}
	return errors.Join(used, folded, counted)
}

// openUsage opens the usage of the store, with what the last process left.
func (e *Engine) openUsage(ctx context.Context, keep usage.Retention) (*usage.Recorder, error) {
	rec, err := usage.Open(ctx, usage.Options{Storage: usageStorage{e.Store}, Journal: e.place + journalSuffix,
		Retain: keep, Now: e.clock, OnError: e.meteringError})
	if err != nil {
		return nil, fmt.Errorf("opening usage: %w", err)
	}
	return rec, nil
}

// usageStorage is the store's bucket of usage.
type usageStorage struct{ store.Store }

type usageWriter struct{ store.Tx }

// Put implements usage.Writer.
func (w usageWriter) Put(key, value []byte) error { return w.PutUsage(key, value) }

// Delete implements usage.Writer.
func (w usageWriter) Delete(key []byte) error { return w.PutUsage(key, nil) }

// Update implements usage.Storage.
func (s usageStorage) Update(ctx context.Context, fn func(usage.Writer) error) error {
	return s.Store.Update(ctx, func(tx store.Tx) error { return fn(usageWriter{tx}) })
}

// Range implements usage.Storage.
func (s usageStorage) Range(ctx context.Context, from, to []byte, yield func(key, value []byte) bool) error {
	return s.View(ctx, func(r store.Reader) error { return r.Usage(from, to, yield) })
}

// Over reports whether a payer has used more than other terms than its own
// allow: those that are only observed. Where the disk fails, nothing is over.
func (m *Metering) Over(who credit.Payer, terms *credit.Terms) bool {
	if terms.Credits != nil {
		b, err := m.Ledger.Balance(who)
		if err != nil {
			return false
		}
		if b.Overage > terms.Credits.Overage {
			return true
		}
	}
	quotas, err := m.Ledger.Quotas(who)
	if err != nil {
		return false
	}
	for i := range quotas {
		if i < len(terms.Quotas) && quotas[i].Used > terms.Quotas[i].Amount {
			return true
		}
	}
	return false
}
