package usage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"
)

// Defaults of Options.
const (
	DefaultSeries       = 10_000
	DefaultBacklog      = 10
	DefaultPause        = 300 * time.Millisecond
	DefaultRetainMinute = 2 * 24 * time.Hour
	DefaultRetainHour   = 90 * 24 * time.Hour
	DefaultRetainDay    = 800 * 24 * time.Hour
)

// Retention is how long counts are kept by minute, by hour and by day.
type Retention struct{ Minute, Hour, Day time.Duration }

// Options is what a Recorder works with. The zero value of a field but Storage
// is its default.
//
// A minute has up to Series rows, as many of other keys, and a handful, and so
// again for each flush before its end: of a gateway so busy that the journal is
// half full by then. An hour has twice and a day four times as many. So that is what Storage holds at most:
// Series × 2 × (minutes + 2 × hours + 4 × days kept) rows of about 100 bytes.
type Options struct {
	Storage Storage // required
	// Series is how many series of a minute are kept apart. Default: 10,000.
	Series int
	// Backlog is how many minutes, and how many batches after them, are held in
	// memory while the storage does not answer. Later ones are counted in the last
	// of them. Default: 10.
	Backlog int
	// Retain is how long counts are kept. Hours must be kept two days longer than
	// minutes, days two days longer than hours. Default: 2, 90 and 800 days.
	Retain Retention
	// Journal is the path of a file that keeps what was counted and is not in the
	// storage yet, over the end of the process. Where files cannot be mapped into
	// memory it is not used. Empty: there is none.
	Journal string
	// Pause is the time between two updates of a flush, which so takes less than a
	// percent of one processor while it lasts: fewer requests than would show in
	// their 99th percentile meet it. All pauses together are 20 seconds at most.
	// Default: 300 ms. Below 0: none.
	Pause time.Duration
	// Now tells the time; nil is time.Now.
	Now func() time.Time
	// Rand makes the id of a new storage; nil is crypto/rand.
	Rand io.Reader
	// OnError is told of what Run could not do, which is tried again, and of what
	// is wrong with the journal. It may be nil.
	OnError func(error)

	segments int // of the journal; 0 is the journal's default
}

func (o *Options) fill() error {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Retain.Minute, DefaultRetainMinute)
	def(&o.Retain.Hour, DefaultRetainHour)
	def(&o.Retain.Day, DefaultRetainDay)
	def(&o.Pause, DefaultPause)
	if o.Series == 0 {
		o.Series = DefaultSeries
	}
	if o.Backlog == 0 {
		o.Backlog = DefaultBacklog
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.OnError == nil {
		o.OnError = func(error) {}
	}
	return o.check()
}

func (o *Options) check() error {
	switch {
	case o.Storage == nil:
		return errors.New("usage: there is no storage")
	case o.Series < 1 || o.Series > 1_000_000:
		return fmt.Errorf("usage: %d series in a minute: want 1 to 1,000,000", o.Series)
	case o.Backlog < 1 || o.Backlog > 1440:
		return fmt.Errorf("usage: a backlog of %d minutes: want 1 to 1440", o.Backlog)
	}
	return o.Retain.check()
}

func (r *Retention) check() error {
	const apart = 48 * time.Hour
	switch {
	case r.Minute < 2*time.Hour:
		return fmt.Errorf("usage: minutes are kept for %s: want 2h or more", r.Minute)
	case r.Hour < r.Minute+apart:
		return fmt.Errorf("usage: hours are kept for %s: want 48h more than minutes, %s", r.Hour, r.Minute+apart)
	case r.Day < r.Hour+apart:
		return fmt.Errorf("usage: days are kept for %s: want 48h more than hours, %s", r.Day, r.Hour+apart)
	}
	return nil
}
