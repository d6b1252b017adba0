package counter

import (
	"math"
	"reflect"
	"slices"
	"sync"
	"testing"
)

func TestValuesAreKeptAndRead(t *testing.T) {
	for _, want := range [][]Value{{}, {{ID: id(1), Period: 5, Used: -7, Carried: math.MaxInt64}, {ID: id(2), Used: math.MinInt64}}} {
		b := AppendValues(nil, want)
		got, err := ParseValues(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
		if _, err := ParseValues(append(b, 0)); err == nil {
			t.Error("a copy that was cut off is taken")
		}
	}
}

// Each value is that of one slot, over the borders of parts and of chunks.
func TestValues(t *testing.T) {
	f := open(t, newPath(t), quiet())
	const n = minGrowth + 300
	for i := range n {
		s := slot(t, f, i)
		if err := s.Turn(int64(i), int64(2*i), int64(3*i)); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[[16]byte]bool{}
	for first := uint32(0); first < f.Extent(); first += 100 {
		values, err := f.Values(nil, first, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if seen[v.ID] || v.Used != 2*v.Period || v.Carried != 3*v.Period || v.ID != id(int(v.Period)) {
				t.Fatalf("%+v", v)
			}
			seen[v.ID] = true
		}
	}
	if len(seen) != n || f.Extent() != n {
		t.Errorf("%d values of %d slots", len(seen), f.Extent())
	}
	if values, err := f.Values(nil, n, 10); err != nil || len(values) != 0 {
		t.Errorf("beyond the end: %v, %v", values, err)
	}
	f.Close()
	if _, err := f.Values(nil, 0, 1); err == nil {
		t.Error("of a closed file")
	}
}

// No value is of the middle of a Turn.
func TestValuesDuringTurns(t *testing.T) {
	f := open(t, newPath(t), quiet())
	s := slot(t, f, 1)
	stop := make(chan struct{})
	var turning sync.WaitGroup
	turning.Go(func() {
		for i := int64(1); ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = s.Turn(i, i, i)
			}
		}
	})
	for range 20_000 {
		values, err := f.Values(nil, 0, 1)
		if err != nil || len(values) != 1 || values[0].Used != values[0].Period || values[0].Carried != values[0].Period {
			t.Errorf("%+v, %v", values, err)
			break
		}
	}
	close(stop)
	turning.Wait()
}

// Adopt leaves no slot with more than it or the copy had left.
func TestAdopt(t *testing.T) {
	for _, tt := range []struct{ is, copied, want Value }{
		{Value{Period: 10, Used: 5, Carried: 3}, Value{Period: 10, Used: 7, Carried: 2}, Value{Period: 10, Used: 7, Carried: 2}},
		{Value{Period: 10, Used: 5, Carried: 3}, Value{Period: 10, Used: 7, Carried: 9}, Value{Period: 10, Used: 7, Carried: 3}},
		{Value{Period: 10, Used: 7, Carried: 3}, Value{Period: 10, Used: 5, Carried: 1}, Value{Period: 10, Used: 7, Carried: 1}},
		{Value{Period: 10, Used: 7, Carried: 3}, Value{Period: 10, Used: 5, Carried: 4}, Value{Period: 10, Used: 7, Carried: 3}},
		{Value{Period: 10, Used: 7, Carried: 3}, Value{Period: 20, Used: 1, Carried: 8}, Value{Period: 20, Used: 1, Carried: 8}},
		{Value{Period: 20, Used: 1, Carried: 8}, Value{Period: 10, Used: 9, Carried: 0}, Value{Period: 20, Used: 1, Carried: 8}},
		{Value{}, Value{Period: 0, Used: 4}, Value{Used: 4}},
		{Value{}, Value{Period: 30, Used: 4, Carried: 2}, Value{Period: 30, Used: 4, Carried: 2}},
	} {
		f := open(t, newPath(t), quiet())
		if tt.is != (Value{}) {
			_ = slot(t, f, 1).Turn(tt.is.Period, tt.is.Used, tt.is.Carried)
		}
		tt.copied.ID, tt.want.ID = id(1), id(1)
		changed, err := f.Adopt(tt.copied)
		tt.is.ID = id(1)
		if got, _ := f.Values(nil, 0, 1); err != nil || !slices.Equal(got, []Value{tt.want}) || changed != (tt.want != tt.is) {
			t.Errorf("%+v and %+v: %+v, %t, %v, want %+v", tt.is, tt.copied, got, changed, err, tt.want)
		}
		f.Close()
	}
}

// The name of the last copy outlives the process, growth and an end in order.
func TestFoldName(t *testing.T) {
	path := newPath(t)
	f := open(t, path, quiet())
	if f.Fold() != [8]byte{} {
		t.Errorf("new: %x", f.Fold())
	}
	name := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}
	if err := f.SetFold(name); err != nil || f.Fold() != name {
		t.Fatal(err, f.Fold())
	}
	if err := f.grow(f.capacity); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := f.SetFold([8]byte{9}); err == nil {
		t.Error("a closed file took a name")
	}
	if f = open(t, path, quiet()); f.Fold() != name || !f.Recovery().Clean {
		t.Errorf("after the end: %x, %+v", f.Fold(), f.Recovery())
	}
}
