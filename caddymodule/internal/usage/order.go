package usage

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// sortAtOnce is how many rows are sorted without a pause.
const sortAtOnce = 1024

// order gives the rows of tables in the order of their keys, those of one series
// that are in several tables added up.
type order struct {
	runs []rowRun // a heap: the one with the first row is first
}

// rowRun are rows of one table that were sorted.
type rowRun struct {
	rows []counts
	left []int32
}

func (r *rowRun) head() *counts { return &r.rows[r.left[0]] }

// newOrder sorts the rows, with a call of pause now and then.
func newOrder(tables []*table, pause func() error) (*order, error) {
	n := 0
	for _, t := range tables {
		n += len(t.rows)
	}
	all, o, since := make([]int32, n), new(order), 0
	for _, t := range tables {
		for from := 0; from < len(t.rows); from += sortAtOnce {
			part := all[:min(sortAtOnce, len(t.rows)-from)]
			all = all[len(part):]
			for i := range part {
				part[i] = int32(from + i)
			}
			slices.SortFunc(part, func(a, b int32) int { return compareSeries(&t.rows[a].series, &t.rows[b].series) })
			o.runs = append(o.runs, rowRun{t.rows, part})
			if since += len(part); since >= sortAtOnce {
				since = 0
				if err := pause(); err != nil {
					return nil, err
				}
			}
		}
	}
	for i := len(o.runs)/2 - 1; i >= 0; i-- {
		o.down(i)
	}
	return o, nil
}

// compareSeries has the order of what appendSeries writes.
func compareSeries(a, b *Series) int {
	return cmp.Or(strings.Compare(a.Tenant, b.Tenant), bytes.Compare(a.Key[:], b.Key[:]),
		cmp.Compare(a.Class, b.Class), cmp.Compare(a.Flags, b.Flags), strings.Compare(a.Route, b.Route))
}

// next returns the next series and its values; nil at the end.
func (o *order) next() (*Series, Values) {
	if len(o.runs) == 0 {
		return nil, Values{}
	}
	first := o.pop()
	values := first.values
	for len(o.runs) > 0 && o.runs[0].head().series == first.series {
		values.Add(&o.pop().values)
	}
	return &first.series, values
}

func (o *order) pop() *counts {
	r := &o.runs[0]
	c := r.head()
	if r.left = r.left[1:]; len(r.left) == 0 {
		last := len(o.runs) - 1
		o.runs[0] = o.runs[last]
		o.runs = o.runs[:last]
	}
	o.down(0)
	return c
}

func (o *order) down(i int) {
	for {
		least := i
		for k := 2*i + 1; k <= 2*i+2 && k < len(o.runs); k++ {
			if compareSeries(&o.runs[k].head().series, &o.runs[least].head().series) < 0 {
				least = k
			}
		}
		if least == i {
			return
		}
		o.runs[i], o.runs[least] = o.runs[least], o.runs[i]
		i = least
	}
}
