package usage

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
)

func thresholds(t *testing.T, o ThresholdOptions) *Thresholds {
	t.Helper()
	x, err := NewThresholds(t.Context(), o)
	check(t, err)
	return x
}

func TestThresholds(t *testing.T) {
	var got []string
	m := newMemory()
	o := ThresholdOptions{Storage: m, Hook: func(e ThresholdEvent) { got = append(got, fmt.Sprint(e.Tenant, e.Limit, e.Percent, "@", e.Period)) }}
	x := thresholds(t, o)
	a, b := Subject{Tenant: "a", Limit: "c"}, Subject{Tenant: "a", Key: keyID(1), Limit: "c"}
	for i, tt := range []struct {
		s                   Subject
		period, used, limit int64
		want                string
	}{
		{a, 1, 79, 100, "[]"}, {a, 1, 80, 100, "[ac80@1]"}, {a, 1, 85, 100, "[]"}, {b, 1, 89, 100, "[ac80@1]"},
		{a, 1, 100, 100, "[ac90@1 ac100@1]"}, {a, 1, 101, 100, "[]"},
		{a, 1, 101, 200, "[]"}, {a, 1, 200, 200, "[]"}, // raised, and reached again
		{a, 2, 10, 100, "[]"}, {a, 2, 300, 100, "[ac80@2 ac90@2 ac100@2]"}, // all at once
		{a, 1, 100, 100, "[]"},                                      // a period that is past
		{a, 3, 1, 1, "[ac80@3 ac90@3 ac100@3]"}, {a, 4, 0, 0, "[]"}, // no limit to speak of
		{a, 4, 4, -5, "[]"}, {a, 4, -80, 100, "[]"}, {a, 4, 3, 4, "[]"}, // 75 %
		{a, 4, math.MaxInt64 / 5 * 4, math.MaxInt64, "[]"}, {a, 4, math.MaxInt64, math.MaxInt64, "[ac80@4 ac90@4 ac100@4]"},
	} {
		got = nil
		x.Check(tt.s, tt.period, tt.used, tt.limit)
		if s := fmt.Sprint(got); s != tt.want {
			t.Errorf("%d: %s, want %s", i, s, tt.want)
		}
	}
	m.failAfter(0)
	if err := x.Save(t.Context()); !errors.Is(err, errFault) {
		t.Error(err)
	}
	m.heal()
	check(t, x.Save(t.Context()))
	got = nil
	x = thresholds(t, o)
	x.Check(a, 4, 9, 9)
	x.Check(b, 1, 9, 9)
	if s := fmt.Sprint(got); s != "[ac90@1 ac100@1]" {
		t.Errorf("after a restart: %s", s)
	}
}

func TestThresholdsBounds(t *testing.T) {
	m := newMemory()
	o := ThresholdOptions{Storage: m, Subjects: 10, Hook: func(ThresholdEvent) {}}
	x := thresholds(t, o)
	for i := range 100 {
		x.Check(Subject{Tenant: fmt.Sprint(i), Limit: "c"}, int64(i), 1, 1)
		if i%30 == 0 {
			check(t, x.Save(t.Context()))
		}
	}
	check(t, x.Save(t.Context()))
	if len(x.told) != 10 || m.count(tagThreshold) != 10 {
		t.Errorf("%d subjects, %d stored", len(x.told), m.count(tagThreshold))
	}
	if _, ok := x.told[Subject{Tenant: "99", Limit: "c"}]; !ok {
		t.Error("the newest was forgotten")
	}
	if _, err := NewThresholds(t.Context(), ThresholdOptions{}); err == nil {
		t.Error("no hook")
	}
}

func TestThresholdsConcurrent(t *testing.T) {
	var n atomic.Int32
	x := thresholds(t, ThresholdOptions{Hook: func(ThresholdEvent) { n.Add(1) }})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for u := range int64(1000) {
				x.Check(Subject{Tenant: "a", Limit: "c"}, 1, u, 999)
			}
		})
	}
	wg.Wait()
	check(t, x.Save(t.Context()))
	if n.Load() != 3 {
		t.Errorf("told %d times", n.Load())
	}
	if raceEnabled {
		return
	}
	if n := testing.AllocsPerRun(100, func() { x.Check(Subject{Tenant: "a", Limit: "c"}, 1, 999, 999) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
