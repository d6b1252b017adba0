package engine

import (
	"context"
	"slices"
	"sync"
)

// Exports keeps at most one export of usage running: the newest that was
// started. It is safe for concurrent use.
type Exports struct {
	mu   sync.Mutex
	list []*export // in the order of their start; only the last may run
}

// export is one that was started and not stopped.
type export struct {
	run    func(context.Context)
	cancel context.CancelFunc // nil: it does not run
	done   chan struct{}
}

// Start ends the export that runs, if any, and then calls run, which must
// return soon after its context ends, on a goroutine. A nil run is no export.
// stop ends it, and the newest of those that are left runs again: a
// configuration that failed to start gives back what it took.
func (x *Exports) Start(run func(context.Context)) (stop func()) {
	e := &export{run: run}
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.list); n > 0 {
		x.list[n-1].end()
	}
	x.list = append(x.list, e)
	e.begin()
	return func() { x.stop(e) }
}

func (x *Exports) stop(e *export) {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := slices.Index(x.list, e)
	if i < 0 {
		return
	}
	e.end()
	last := i == len(x.list)-1
	if x.list = slices.Delete(x.list, i, i+1); last && i > 0 {
		x.list[i-1].begin()
	}
}

func (e *export) begin() {
	if e.run == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	e.cancel, e.done = cancel, done
	go func() {
		defer close(done)
		e.run(ctx)
	}()
}

// end waits until it has ended.
func (e *export) end() {
	if e.cancel != nil {
		e.cancel()
		<-e.done
		e.cancel = nil
	}
}
