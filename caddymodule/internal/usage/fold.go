package usage

import (
	"context"
	"hash/maphash"
)

// foldAfter is how many minutes after its end an hour or a day is folded.
const foldAfter = 2

// Fold sums up the hours and days that have ended. A unit that more came for
// since is computed anew. It gives way to queries and flushes between units.
func (r *Recorder) Fold(ctx context.Context) error {
	if err := r.eachUnit(ctx, r.foldHour); err != nil {
		return err
	}
	return r.eachUnit(ctx, r.foldDay)
}

// eachUnit calls fold with the first minute that it has not seen, until it
// returns none.
func (r *Recorder) eachUnit(ctx context.Context, fold func(ctx context.Context, from, now uint32) (next uint32, err error)) error {
	for next := uint32(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		now := minuteOf(r.o.Now().Unix())
		n, err := r.unit(ctx, fold, next, now-min(now, foldAfter))
		if err != nil || n == 0 {
			return err
		}
		next = n
	}
}

// unit calls fold while nobody else changes the storage or reads it.
func (r *Recorder) unit(ctx context.Context, fold func(ctx context.Context, from, now uint32) (uint32, error), from, now uint32) (uint32, error) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	return fold(ctx, from, now)
}

// foldHour folds the first hour from a minute on, that has rows and ended by now.
func (r *Recorder) foldHour(ctx context.Context, from, now uint32) (next uint32, err error) {
	from, now = max(from, r.water.minute), now-now%60
	if from >= now {
		return 0, nil
	}
	minute, ok, err := firstUnit(ctx, r.o.Storage, unitKey(tagMinute, from), unitKey(tagMinute, now))
	if !ok {
		return 0, err
	}
	hour := minute / 60
	next = (hour + 1) * 60
	if r.wholeHour[hour] || r.waits(hour*60, next) {
		return next, nil
	}
	delete(r.wholeDay, hour/24)
	if err := r.fold(ctx, tagHour, hour, tagMinute, hour*60, next, 2*r.bound); err != nil {
		return 0, err
	}
	r.wholeHour[hour] = true
	return next, nil
}

// foldDay folds the first day from a minute on, that has rows and ended by now,
// if all of its hours are whole.
func (r *Recorder) foldDay(ctx context.Context, from, now uint32) (next uint32, err error) {
	hour, end := max(from/60, r.water.hour), (now-now%1440)/60
	if hour >= end {
		return 0, nil
	}
	hour, ok, err := firstUnit(ctx, r.o.Storage, unitKey(tagHour, hour), unitKey(tagHour, end))
	if !ok {
		return 0, err
	}
	day := hour / 24
	next = (day + 1) * 1440
	if r.wholeDay[day] {
		return next, nil
	}
	if ready, err := r.hoursWhole(ctx, day); err != nil || !ready {
		return next, err
	}
	if err := r.fold(ctx, tagDay, day, tagHour, day*24, (day+1)*24, 4*r.bound); err != nil {
		return 0, err
	}
	r.wholeDay[day] = true
	return next, nil
}

// hoursWhole reports whether all hours of a day are folded that have rows.
func (r *Recorder) hoursWhole(ctx context.Context, day uint32) (bool, error) {
	if r.waits(day*1440, (day+1)*1440) {
		return false, nil
	}
	for hour := day * 24; hour < (day+1)*24; hour++ {
		if r.hourWhole(hour) {
			continue
		}
		_, left, err := firstUnit(ctx, r.o.Storage, unitKey(tagMinute, hour*60), unitKey(tagMinute, (hour+1)*60))
		if err != nil || left {
			return false, err
		}
	}
	return true, nil
}

// hourWhole reports whether the hour's own rows are all there is of it.
func (r *Recorder) hourWhole(hour uint32) bool {
	return r.wholeHour[hour] || hour < r.water.minute/60
}

func (r *Recorder) dayWhole(day uint32) bool {
	return r.wholeDay[day] || day < r.water.hour/24
}

// fold computes the rows of a unit anew from those of the units below, from
// from, before to. The unit's mark goes first and comes last.
func (r *Recorder) fold(ctx context.Context, tag byte, unit uint32, below byte, from, to uint32, bound int64) error {
	sums := newTable(r.seed)
	sums.number = new(number)
	err := r.rows(ctx, unitKey(below, from), unitKey(below, to), func(_ uint32, _ batchID, s Series, v *Values) error {
		row := sums.row(&s, bound)
		if row == nil {
			row = sums.other(&s, maphash.String(r.seed, s.Tenant), bound)
		}
		row.Add(v)
		return nil
	})
	if err != nil {
		return err
	}
	done := byte(tagHourDone)
	day := unit / 24
	if tag == tagDay {
		done, day = tagDayDone, unit
	}
	out := []change{{unitKey(tagDayDone, day), nil}, {unitKey(done, unit), nil}}
	stale := func(k, _ []byte) bool {
		s, err := parseSeries(k, unitHead)
		if err != nil || !sums.has(&s) {
			out = append(out, change{append([]byte{}, k...), nil})
		}
		return true
	}
	if err := r.o.Storage.Range(ctx, unitKey(tag, unit), unitEnd(tag, unit), stale); err != nil {
		return err
	}
	w := newStream(ctx, r.o.Storage, maxChanges, noPause)
	for _, c := range out {
		if err := w.change(c); err != nil {
			return err
		}
	}
	rows, err := newOrder([]*table{sums}, noPause)
	if err != nil {
		return err
	}
	if err := w.rows(unitKey(tag, unit), rows); err != nil {
		return err
	}
	if err := w.change(change{unitKey(done, unit), []byte{1}}); err != nil {
		return err
	}
	return w.end()
}

// rows calls yield for the stored rows of any level from from, before to, with
// the unit and, of minutes, the batch.
func (r *Recorder) rows(ctx context.Context, from, to []byte, yield func(unit uint32, b batchID, s Series, v *Values) error) error {
	head := unitHead
	if from[0] == tagMinute {
		head = minuteHead
	}
	var failed error
	n := 0
	err := r.o.Storage.Range(ctx, from, to, func(k, value []byte) bool {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			failed = ctx.Err()
			return false
		}
		var b batchID
		var v Values
		s, err := parseSeries(k, head)
		if err == nil {
			v, err = parseValues(k, value)
		}
		if err == nil {
			if head == minuteHead {
				_, b = parseMinuteKey(k)
			}
			err = yield(be.Uint32(k[1:]), b, s, &v)
		}
		failed = err
		return err == nil
	})
	if failed != nil {
		return failed
	}
	return err
}
