package engine

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keytoll/keytoll/caddymodule/internal/usage"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// Watch remembers which tenants spent since they were last looked at, and which
// thresholds were told. It is safe for concurrent use.
type Watch struct {
	round atomic.Uint32 // of looking, less one

	mu     sync.Mutex // of active
	active []string   // hardly one twice

	looking    sync.Mutex // one Look at a time; of what follows
	thresholds *usage.Thresholds
	tell       func(usage.ThresholdEvent)
}

// Touch notes that a tenant spent. seen is the caller's for that tenant, and
// spares all but the first call of a round: they cost two loads.
func (w *Watch) Touch(seen *atomic.Uint32, tenant string) {
	round := w.round.Load() + 1
	if seen.Load() == round {
		return
	}
	seen.Store(round)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active = append(w.active, tenant)
}

// Look calls check for each tenant that spent since the last Look. What check
// finds used it hands to the Thresholds, and tell gets what is new of that before
// check goes on. Thresholds that were told are remembered in st.
func (w *Watch) Look(ctx context.Context, st store.Store, check func(t *usage.Thresholds, tenant string), tell func(usage.ThresholdEvent)) error {
	w.looking.Lock()
	defer w.looking.Unlock()
	if w.thresholds == nil {
		t, err := usage.NewThresholds(ctx, usage.ThresholdOptions{Storage: usageStorage{st},
			Hook: func(e usage.ThresholdEvent) { w.tell(e) }})
		if err != nil {
			return err
		}
		w.thresholds = t
	}
	w.tell = tell
	active := w.take()
	slices.Sort(active)
	for _, tenant := range slices.Compact(active) {
		check(w.thresholds, tenant)
	}
	return w.thresholds.Save(ctx)
}

// take begins a round. Whoever comes with the number of the old one meanwhile is
// in what it returns, or in the new round. Who has the new number must not get
// in before: others would take his word that they will be looked at.
func (w *Watch) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.round.Add(1)
	active := w.active
	w.active = nil
	return active
}
