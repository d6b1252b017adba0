package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrMissed: what an export had not sent yet was deleted with its minutes.
var ErrMissed = errors.New("usage export is too far behind")

// SetRetention changes how long counts are kept, from the next Trim on. What a
// shorter time deleted does not come back. It returns what is wrong with it.
func (r *Recorder) SetRetention(keep Retention) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := keep.check(); err != nil {
		return err
	}
	r.o.Retain = keep
	return nil
}

// Retention returns how long counts are kept.
func (r *Recorder) Retention() Retention {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.o.Retain
}

// Trim deletes counts older than their retention, if the level above holds them.
// A call deletes one hour's minutes, one day's hours and one day, so that a clock
// that is wrong for a while does not cost the history.
func (r *Recorder) Trim(ctx context.Context) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.o.Now()
	if r.batches() < r.o.Backlog {
		r.collect() // the minutes of what waits must not go before it came
	}
	if r.waterDue {
		if err := r.setWater(ctx, r.water); err != nil {
			return err
		}
	}
	missed, err := r.trimMinutes(ctx, before(now, r.o.Retain.Minute)/60)
	if err != nil {
		return err
	}
	if err := r.trimHours(ctx, before(now, r.o.Retain.Hour)/1440); err != nil {
		return err
	}
	if err := r.trimDays(ctx, before(now, r.o.Retain.Day)/1440); err != nil {
		return err
	}
	return missed
}

func before(now time.Time, d time.Duration) uint32 { return minuteOf(now.Add(-d).Unix()) }

// trimMinutes deletes the minutes of the first hour, if it is before hour. missed
// says that an export had not come that far.
func (r *Recorder) trimMinutes(ctx context.Context, hour uint32) (missed, err error) {
	m, ok, err := firstUnit(ctx, r.o.Storage, unitKey(tagMinute, r.water.minute), unitKey(tagMinute, hour*60))
	if err != nil {
		return nil, err
	}
	if ok {
		h := m / 60
		if !r.wholeHour[h] || r.waits(0, (h+1)*60) {
			return nil, nil
		}
		if err := r.setWater(ctx, water{(h + 1) * 60, r.water.hour}); err != nil {
			return nil, err
		}
	}
	if missed, err = r.trimBatches(ctx); err != nil {
		return missed, err
	}
	if err := r.drop(ctx, []byte{tagMinute}, unitKey(tagMinute, r.water.minute)); err != nil {
		return missed, err
	}
	return missed, r.dropMarks(ctx, tagHourDone, r.water.minute/60, r.wholeHour)
}

// trimHours deletes the hours of the first day, if it is before day and none of
// its minutes are left.
func (r *Recorder) trimHours(ctx context.Context, day uint32) error {
	hour, ok, err := firstUnit(ctx, r.o.Storage, unitKey(tagHour, r.water.hour), unitKey(tagHour, day*24))
	if err != nil {
		return err
	}
	if ok {
		d := hour / 24
		end := (d + 1) * 1440
		_, left, err := firstUnit(ctx, r.o.Storage, []byte{tagMinute}, unitKey(tagMinute, end))
		if err != nil || left || !r.wholeDay[d] || r.waits(0, end) {
			return err
		}
		if err := r.setWater(ctx, water{max(r.water.minute, end), end / 60}); err != nil {
			return err
		}
	}
	if err := r.drop(ctx, []byte{tagHour}, unitKey(tagHour, r.water.hour)); err != nil {
		return err
	}
	return r.dropMarks(ctx, tagDayDone, r.water.hour/24, r.wholeDay)
}

func (r *Recorder) trimDays(ctx context.Context, day uint32) error {
	d, ok, err := firstUnit(ctx, r.o.Storage, []byte{tagDay}, unitKey(tagDay, min(day, r.water.hour/24)))
	if !ok {
		return err
	}
	return r.drop(ctx, []byte{tagDay}, unitEnd(tagDay, d))
}

// setWater raises the water. Nothing below is deleted before that is stored, so
// that what is half deleted is not read. In memory it comes first: in the storage
// it may have got there in spite of an error.
func (r *Recorder) setWater(ctx context.Context, w water) error {
	r.water, r.waterDue = w, true
	err := apply(ctx, r.o.Storage, []change{
		{[]byte{tagWater, tagMinute}, be.AppendUint32(nil, w.minute)},
		{[]byte{tagWater, tagHour}, be.AppendUint32(nil, w.hour)},
	})
	r.waterDue = err != nil
	return err
}

// trimBatches takes the batches of deleted minutes off the list, and says whether
// an export has not sent one of them.
func (r *Recorder) trimBatches(ctx context.Context) (missed, err error) {
	var out []change
	var last batchID
	err = r.o.Storage.Range(ctx, []byte{tagBatch}, []byte{tagBatch + 1}, func(k, v []byte) bool {
		if len(k) != 9 || len(v) != 4 {
			out = append(out, change{bytes.Clone(k), nil})
			return true
		}
		if be.Uint32(v) >= r.water.minute {
			return false
		}
		last = parseBatchKey(k)
		out = append(out, change{bytes.Clone(k), nil})
		return true
	})
	if err != nil || len(out) == 0 {
		return nil, err
	}
	err = r.o.Storage.Range(ctx, []byte{tagCursor}, []byte{tagCursor + 1}, func(k, v []byte) bool {
		if c, ok := parseCursor(v); ok && (last.after(c.batch) || last == c.batch && !c.whole) {
			missed = fmt.Errorf("%w: %s has lost some of what is %s old", ErrMissed, k[1:], r.o.Retain.Minute)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	return missed, apply(ctx, r.o.Storage, out)
}

// drop deletes the keys from from, before to.
func (r *Recorder) drop(ctx context.Context, from, to []byte) error {
	for {
		var out []change
		err := r.o.Storage.Range(ctx, from, to, func(k, _ []byte) bool {
			out = append(out, change{bytes.Clone(k), nil})
			return len(out) < maxChanges
		})
		if err != nil || len(out) == 0 {
			return err
		}
		if err := apply(ctx, r.o.Storage, out); err != nil {
			return err
		}
	}
}

// dropMarks forgets the marks of units that are whole for good.
func (r *Recorder) dropMarks(ctx context.Context, tag byte, below uint32, set map[uint32]bool) error {
	for u := range set {
		if u < below {
			delete(set, u)
		}
	}
	return r.drop(ctx, []byte{tag}, unitKey(tag, below))
}
