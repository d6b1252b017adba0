package usage

import (
	"context"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// run is a stretch of units of one level, from from, before to.
type run struct {
	tag      byte
	from, to uint32
}

// plan returns where to read the steps from a, before b: each from the highest
// level that is whole.
func (q *query) plan(a, b uint32) []run {
	var runs []run
	put := func(tag byte, from, to uint32) {
		if n := len(runs); n > 0 && runs[n-1].tag == tag && runs[n-1].to == from {
			runs[n-1].to = to
			return
		}
		runs = append(runs, run{tag, from, to})
	}
	hour := func(h uint32) {
		if q.r.hourWhole(h) {
			put(tagHour, h, h+1)
		} else {
			put(tagMinute, h*60, (h+1)*60)
		}
	}
	for u := a; u < b; u++ {
		switch {
		case q.unit == 1:
			if u >= q.r.water.minute { // what is below is half deleted
				put(tagMinute, u, u+1)
			}
		case q.unit == 60:
			if u >= q.r.water.hour {
				hour(u)
			}
		case q.r.dayWhole(u):
			put(tagDay, u, u+1)
		default:
			for h := range uint32(24) {
				hour(u*24 + h)
			}
		}
	}
	return runs
}

// stored counts what is stored of the steps from a, before b.
func (q *query) stored(ctx context.Context, a, b uint32) error {
	for _, run := range q.plan(a, b) {
		var err error
		switch {
		case q.f.Tenant == "":
			err = q.scan(ctx, unitKey(run.tag, run.from), unitKey(run.tag, run.to))
		case run.tag == tagMinute:
			err = q.tenantMinutes(ctx, run)
		default:
			err = q.tenantUnits(ctx, run)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tenantUnits reads only the filter's tenant's rows of each hour or day.
func (q *query) tenantUnits(ctx context.Context, run run) error {
	for u := run.from; u < run.to; u++ {
		if err := q.scanTenant(ctx, unitKey(run.tag, u)); err != nil {
			return err
		}
	}
	return nil
}

// tenantMinutes reads only the filter's tenant's rows of each batch.
func (q *query) tenantMinutes(ctx context.Context, run run) error {
	from, to := unitKey(run.tag, run.from), unitKey(run.tag, run.to)
	for {
		k, _, err := first(ctx, q.r.o.Storage, from, to)
		if err != nil || k == nil {
			return err
		}
		if len(k) < minuteHead {
			return damaged(k)
		}
		if err := q.scanTenant(ctx, k[:minuteHead]); err != nil {
			return err
		}
		from = successor(k[:minuteHead])
	}
}

func (q *query) scanTenant(ctx context.Context, head []byte) error {
	from := append(append(append([]byte{}, head...), q.f.Tenant...), 0)
	if q.f.Key != (access.KeyID{}) {
		from = append(from, q.f.Key[:]...)
	}
	return q.scan(ctx, from, successor(from))
}

// scan counts the rows from from, before to, but those that are still counted
// from memory.
func (q *query) scan(ctx context.Context, from, to []byte) error {
	minutes := map[byte]uint32{tagMinute: 1, tagHour: 60, tagDay: 1440}[from[0]]
	return q.r.rows(ctx, from, to, func(unit uint32, b batchID, s Series, v *Values) error {
		if minutes == 1 && q.r.waiting(b) {
			return nil
		}
		return q.add(unit*minutes, &s, v)
	})
}

// successor returns the first key after all that begin with prefix.
func successor(prefix []byte) []byte {
	k := append([]byte{}, prefix...)
	for i := len(k) - 1; ; i-- { // the first byte is a letter
		if k[i]++; k[i] != 0 {
			return k[:i+1]
		}
	}
}
