package usage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Bounds of an export.
const (
	DefaultBatch = 100
	MaxBatch     = 10_000
	minBackoff   = time.Second
	maxBackoff   = 5 * time.Minute
)

// ErrTooLarge: a Sink takes fewer events at once.
var ErrTooLarge = errors.New("too many events at once")

// Sink takes events. When Send returns nil they are safe with the receiver. After
// any error, and after a crash, they are sent again, with others perhaps: the
// receiver knows them by their ids.
type Sink interface {
	Send(ctx context.Context, events []Event) error
}

// RetryError is an error of a Sink that says when to try again.
type RetryError struct {
	After time.Duration
	Err   error
}

// Error implements error.
func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns what went wrong.
func (e *RetryError) Unwrap() error { return e.Err }

// ExportOptions is what an Exporter works with.
type ExportOptions struct {
	Name     string    // of the export: its place is kept under it. Required
	Recorder *Recorder // required
	Sink     Sink      // required
	Source   string    // of the events, a URI reference that names this gateway. Required
	Type     string    // of the events. Default: DefaultType
	Batch    int       // events that are sent at once. Default: 100
	// After tells when a pause is over; nil is time.After.
	After func(time.Duration) <-chan time.Time
	// OnError is told of each failure; it is tried again. It may be nil.
	OnError func(error)
}

// Exporter sends what the Recorder has flushed to a Sink, in the order of the
// flushes and each at least once. What waits is in the Recorder's storage, as
// long as minutes are kept. A new export begins with the oldest of them.
type Exporter struct {
	o      ExportOptions
	at     cursor
	batch  int // may have been made smaller than o.Batch
	failed int // in a row
}

// NewExporter returns an Exporter that goes on where that of its name ended.
// Errors: what is missing in o, of the storage, and ErrDamaged.
func NewExporter(ctx context.Context, o ExportOptions) (*Exporter, error) {
	switch {
	case o.Name == "" || o.Recorder == nil || o.Sink == nil || o.Source == "":
		return nil, errors.New("usage export: a name, recorder, sink or source is missing")
	case o.Batch < 0 || o.Batch > MaxBatch:
		return nil, fmt.Errorf("usage export: batches of %d events: want 1 to %d", o.Batch, MaxBatch)
	}
	if o.Batch == 0 {
		o.Batch = DefaultBatch
	}
	if o.Type == "" {
		o.Type = DefaultType
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	e := &Exporter{o: o, batch: o.Batch}
	k := e.key()
	_, v, err := first(ctx, o.Recorder.o.Storage, k, append(e.key(), 0))
	if err != nil {
		return nil, fmt.Errorf("usage export: %w", err)
	}
	if v != nil {
		var ok bool
		if e.at, ok = parseCursor(v); !ok {
			return nil, fmt.Errorf("usage export: %w", damaged(k))
		}
	}
	return e, nil
}

func (e *Exporter) key() []byte { return append([]byte{tagCursor}, e.o.Name...) }

// Send sends one batch of events, and notes that when the Sink has them. more is
// that there may be others. It must not be called twice at a time.
func (e *Exporter) Send(ctx context.Context) (more bool, err error) {
	events, to, err := e.read(ctx, e.at, e.batch)
	if err != nil {
		return false, err
	}
	if len(events) > 0 {
		if err := e.o.Sink.Send(ctx, events); err != nil {
			if errors.Is(err, ErrTooLarge) && len(events) > 1 {
				e.batch = len(events) / 2
				return true, nil
			}
			return false, err
		}
	}
	if len(events) == 0 && to.batch == e.at.batch && to.whole == e.at.whole {
		return false, nil
	}
	if err := apply(ctx, e.o.Recorder.o.Storage, []change{{e.key(), to.encode()}}); err != nil {
		return false, err
	}
	e.at = to
	return len(events) == e.batch || !to.whole, nil
}

// Run sends all there is, now and at each tick, until ctx ends. After a failure
// it pauses for a second and twice as long each time, up to five minutes, or for
// as long as the Sink says.
func (e *Exporter) Run(ctx context.Context, ticks <-chan time.Time) {
	for ctx.Err() == nil {
		more, err := e.Send(ctx)
		wait := ticks
		switch {
		case err != nil && ctx.Err() == nil:
			e.o.OnError(fmt.Errorf("exporting usage to %s: %w", e.o.Name, err))
			wait = e.o.After(e.pause(err))
		case more:
			e.failed = 0
			continue
		default:
			e.failed = 0
		}
		select {
		case <-ctx.Done():
		case <-wait:
		}
	}
}

func (e *Exporter) pause(err error) time.Duration {
	d := min(minBackoff<<min(e.failed, 10), maxBackoff)
	e.failed++
	if r, ok := errors.AsType[*RetryError](err); ok {
		d = min(max(d, r.After), maxBackoff)
	}
	return d
}
