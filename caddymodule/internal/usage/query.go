package usage

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// Bounds of a Query.
const (
	MaxSteps  = 50_000
	MaxPoints = 100_000
)

// Step is the length of time a Point is of.
type Step uint8

// The steps, in UTC.
const (
	Minute Step = 1 + iota
	Hour
	Day
)

var stepNames = [...]string{"", "minute", "hour", "day"}

// Duration returns how long s is; 0 for what is no step.
func (s Step) Duration() time.Duration {
	switch s {
	case Minute:
		return time.Minute
	case Hour:
		return time.Hour
	case Day:
		return 24 * time.Hour
	}
	return 0
}

// String returns "minute", "hour" or "day".
func (s Step) String() string {
	if int(s) >= len(stepNames) {
		return ""
	}
	return stepNames[s]
}

// ParseStep reads what String writes.
func ParseStep(s string) (Step, error) {
	for i, n := range stepNames {
		if i > 0 && n == s {
			return Step(i), nil
		}
	}
	return 0, fmt.Errorf("unknown step %q: want minute, hour or day", s)
}

// Group is a set of what points are kept apart by.
type Group uint8

// The groups. None of them gives one Point for a step.
const (
	ByTenant Group = 1 << iota
	ByKey
	ByRoute
	ByClass
	ByFlags
)

// Filter chooses series. The zero value of a field is any.
type Filter struct {
	Tenant string
	Key    access.KeyID
	Route  string
	Class  Class
}

// Point is the usage of one step. Of Series those fields are set by which the
// points were kept apart.
type Point struct {
	Start time.Time // UTC
	Series
	Values
}

func (f *Filter) match(s *Series) bool {
	return (f.Tenant == "" || f.Tenant == s.Tenant) && (f.Key == access.KeyID{} || f.Key == s.Key) &&
		(f.Route == "" || f.Route == s.Route) && (f.Class == 0 || f.Class == s.Class)
}

// Query returns the usage from from, before to, both widened to whole steps: a
// point for each step and group that has any, by time and then by name. It counts
// what was not flushed yet. It returns ErrTooMuch for more than MaxSteps steps or
// MaxPoints points, and ErrDamaged.
func (r *Recorder) Query(ctx context.Context, f Filter, from, to time.Time, step Step, by Group) ([]Point, error) {
	q := query{r: r, f: f, by: by, unit: uint32(step.Duration() / time.Minute), sums: make(map[point]*Values)}
	if q.unit == 0 {
		return nil, fmt.Errorf("there is no step %d", step)
	}
	a := minuteOf(from.Unix()) / q.unit
	b := uint32((uint64(minuteOf(to.Add(time.Minute-1).Unix())) + uint64(q.unit) - 1) / uint64(q.unit))
	switch {
	case b <= a:
		return nil, nil
	case b-a > MaxSteps:
		return nil, fmt.Errorf("%w: %d %ss, at most %d are allowed", ErrTooMuch, b-a, step, MaxSteps)
	}
	r.drain()
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := q.stored(ctx, a, b); err != nil {
		return nil, err
	}
	if err := q.memory(a*q.unit, b*q.unit); err != nil {
		return nil, err
	}
	return q.points(), nil
}

// query is one that is being answered.
type query struct {
	r    *Recorder
	f    Filter
	by   Group
	unit uint32 // minutes of a step
	sums map[point]*Values
}

type point struct {
	step   uint32
	series Series
}

// add counts values of a minute.
func (q *query) add(minute uint32, s *Series, v *Values) error {
	if !q.f.match(s) {
		return nil
	}
	p := point{minute / q.unit, q.by.of(s)}
	sum := q.sums[p]
	if sum == nil {
		if len(q.sums) >= MaxPoints {
			return fmt.Errorf("%w: more than %d points", ErrTooMuch, MaxPoints)
		}
		sum = new(Values)
		q.sums[p] = sum
	}
	sum.Add(v)
	return nil
}

// of returns what of s the points of g are kept apart by.
func (g Group) of(s *Series) Series {
	var out Series
	if g&ByTenant != 0 {
		out.Tenant = s.Tenant
	}
	if g&ByKey != 0 {
		out.Key = s.Key
	}
	if g&ByRoute != 0 {
		out.Route = s.Route
	}
	if g&ByClass != 0 {
		out.Class = s.Class
	}
	if g&ByFlags != 0 {
		out.Flags = s.Flags
	}
	return out
}

// memory counts what is not flushed of the minutes from from, before to.
func (q *query) memory(from, to uint32) error {
	for _, f := range q.r.pending {
		for _, b := range f.batches {
			for _, t := range b.tables {
				if err := q.table(t, b.minute, from, to); err != nil {
					return err
				}
			}
		}
	}
	for i := range q.r.shards {
		if err := q.shard(&q.r.shards[i], from, to); err != nil {
			return err
		}
	}
	return nil
}

func (q *query) shard(s *shard, from, to uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.sealed {
		if err := q.table(t, max(t.minute, q.r.water.minute), from, to); err != nil {
			return err
		}
	}
	if s.live == nil {
		return nil
	}
	return q.table(s.live, max(s.live.minute, q.r.water.minute), from, to)
}

func (q *query) table(t *table, minute, from, to uint32) error {
	if minute < from || minute >= to {
		return nil
	}
	for i := range t.rows {
		if err := q.add(minute, &t.rows[i].series, &t.rows[i].values); err != nil {
			return err
		}
	}
	return nil
}

func (q *query) points() []Point {
	out := make([]Point, 0, len(q.sums))
	for p, v := range q.sums {
		out = append(out, Point{time.Unix(int64(p.step)*int64(q.unit)*60, 0).UTC(), p.series, *v})
	}
	slices.SortFunc(out, func(a, b Point) int {
		return cmp.Or(a.Start.Compare(b.Start), strings.Compare(a.Tenant, b.Tenant), slices.Compare(a.Key[:], b.Key[:]),
			strings.Compare(a.Route, b.Route), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Flags, b.Flags))
	})
	return out
}
