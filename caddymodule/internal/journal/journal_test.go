package journal

import (
	"errors"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

func TestRecordsComeBack(t *testing.T) {
	f := open(t, newPath(t), Options{})
	long := strings.Repeat("x", maxName)
	var want []Record
	for _, numbers := range [][4]int64{{}, {1, -1, 127, -128}, {math.MaxInt64, math.MinInt64, -1 << 32, 1 << 31}, {1 << 7, 1 << 15, 1 << 23, 1 << 55}} {
		for _, names := range [][2]string{{"", ""}, {"a", ""}, {"", "r"}, {"acme", "synthesize"}, {long, long}, {long, ""}, {"", long}, {long[:24], long[:8]}} {
			r := Record{Second: math.MaxUint32, Class: 254, Flags: 255, Numbers: numbers, Tenant: names[0], Route: names[1]}
			r.Key[3], r.Key[15] = 7, 255
			want = append(want, r)
		}
	}
	for i := range want {
		if !f.Append(&want[i]) {
			t.Fatalf("%+v: not taken", want[i])
		}
	}
	n := 0
	if bad := f.Drain(func(r *Record) {
		if *r != want[n] {
			t.Errorf("%+v, want %+v", *r, want[n])
		}
		n++
	}); bad != 0 || n != len(want) {
		t.Errorf("%d records of %d, %d bad", n, len(want), bad)
	}
	for _, r := range []Record{{Class: 255}, {Tenant: long + "x"}, {Route: long + "x"}} {
		if f.Append(&r) {
			t.Errorf("%+v was taken", r)
		}
	}
	if f.Drain(func(*Record) { n = 0 }); n == 0 {
		t.Error("what was not taken is there")
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := open(t, newPath(t), Options{})
	for _, n := range []int{3, 50} {
		r := numbered(n)
		if got := testing.AllocsPerRun(1000, func() { f.Append(&r) }); got != 0 {
			t.Errorf("record %d: %v allocations", n, got)
		}
	}
	if got := testing.AllocsPerRun(100, func() { f.Drain(func(*Record) {}) }); got > 2 {
		t.Errorf("an idle Drain: %v allocations", got)
	}
}

// A journal without room says so at once, and goes on once it was released.
func TestFull(t *testing.T) {
	f := open(t, newPath(t), Options{Segments: 8, Shards: 1})
	n := 0
	for r := numbered(1); f.Append(&r); n++ {
		if n%1000 == 0 {
			check(t, f.Prepare())
		}
	}
	if n < 7*slotsInSegment || n > 8*slotsInSegment {
		t.Errorf("%d records of one slot fit into 8 segments", n)
	}
	select {
	case <-f.Full():
	default:
		t.Error("nobody was told")
	}
	got := 0
	f.Drain(func(*Record) { got++ })
	if waiting, of := f.Waiting(); got != n || waiting != 7 || of != 8 {
		t.Errorf("%d of %d records, %d of %d segments wait", got, n, waiting, of)
	}
	if r := numbered(1); f.Append(&r) {
		t.Error("there is room before anything was released")
	}
	settle(t, f)
	if waiting, _ := f.Waiting(); waiting != 0 {
		t.Errorf("%d segments wait", waiting)
	}
	appendAll(t, f, 1, 1000)
	if got := numbersIn(t, f); len(got) != 999 {
		t.Errorf("%d records", len(got))
	}
}

// A full disk is an error where the file grows, and no record is lost by it.
func TestDiskFullWhileGrowing(t *testing.T) {
	sys, full := theSystem, false
	sys.allocate = func(fd *os.File, off, n int64) error {
		if full {
			_ = mapped.WriteZeros(fd, off, n/2, segmentLen)
			return os.ErrPermission
		}
		return allocate(fd, off, n)
	}
	path := newPath(t)
	f := openSys(t, path, Options{Shards: 1}, sys)
	full = true
	n := 1
	for ; ; n++ {
		if r := numbered(n); !f.Append(&r) {
			break
		}
		if n%500 == 0 {
			if err := f.Prepare(); err != nil && !errors.Is(err, os.ErrPermission) {
				t.Fatal(err)
			}
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() != headerLen+minSegments*segmentLen {
		t.Error(info, err)
	}
	full = false
	check(t, f.Prepare())
	appendAll(t, f, n, n+500)
	if got := numbersIn(t, f); len(got) != n+500-1 {
		t.Errorf("%d records, want %d", len(got), n+499)
	}
	full = true
	if _, err := openWith(newPath(t), Options{}, sys); !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
}

// Writers on all processors and a reader: each record comes once, whole.
func TestConcurrent(t *testing.T) {
	const writers, each = 8, 20_000
	f := openSys(t, newPath(t), Options{Shards: 2}, inHeap())
	var all sync.WaitGroup
	var missed atomic.Int64
	var left atomic.Int32
	left.Store(writers)
	for w := range writers {
		all.Go(func() {
			defer left.Add(-1)
			for i := range each {
				if r := numbered(w*each + i); !f.Append(&r) {
					missed.Add(1)
				}
			}
		})
	}
	got := make(map[int]bool)
	for done := false; !done; {
		done = left.Load() == 0
		for n := range numbersIn(t, f) {
			if got[n] {
				t.Fatalf("record %d came twice", n)
			}
			got[n] = true
		}
		check(t, f.Sync())
		settle(t, f)
	}
	all.Wait()
	if len(got)+int(missed.Load()) != writers*each {
		t.Errorf("%d came and %d had no room, of %d", len(got), missed.Load(), writers*each)
	}
	t.Logf("%d had no room", missed.Load())
}

// Who stops the journal waits for nobody who appends.
func TestCloseWhileAppending(t *testing.T) {
	for range 20 {
		path := newPath(t)
		f := open(t, path, Options{})
		var all sync.WaitGroup
		var taken atomic.Int64
		begun := make(chan struct{}, 4)
		for w := range 4 {
			all.Go(func() {
				for n := w; ; n += 4 {
					r := numbered(n)
					if !f.Append(&r) {
						return
					}
					if taken.Add(1) == 100 {
						begun <- struct{}{}
					}
				}
			})
		}
		<-begun
		check(t, f.Close())
		all.Wait()
		if p := f.Position(); len(p.Open) == 0 {
			t.Errorf("the position is %+v", p)
		}
		if got := numbersIn(t, open(t, path, Options{})); int64(len(got)) != taken.Load() {
			t.Errorf("%d records, %d were taken", len(got), taken.Load())
		}
	}
}

// What was told to be stored does not come again, whatever of it is left.
func TestPosition(t *testing.T) {
	path := newPath(t)
	f := open(t, path, Options{Shards: 2})
	appendAll(t, f, 0, 3000)
	numbersIn(t, f)
	p := f.Position()
	if q, err := ParsePosition(p.Append(nil)); err != nil || q.Highest != p.Highest || len(q.Open) != len(p.Open) {
		t.Errorf("%+v became %+v, %v", p, q, err)
	}
	appendAll(t, f, 3000, 4000)
	for _, tt := range []struct {
		name        string
		after       Position
		first, last int
	}{{"none", Position{}, 0, 4000}, {"some", p, 3000, 4000}, {"newer", Position{Highest: p.Highest + 10}, 0, 0}} {
		g := open(t, leave(t, path), Options{After: tt.after, Shards: 4})
		got := numbersIn(t, g)
		for n := tt.first; n < tt.last; n++ {
			if !got[n] {
				t.Fatalf("%s: record %d is missing", tt.name, n)
			}
		}
		if len(got) != tt.last-tt.first {
			t.Errorf("%s: %d records", tt.name, len(got))
		}
		settle(t, g)
		appendAll(t, g, 1, 2)
		if q := g.Position(); q.Highest <= max(p.Highest, tt.after.Highest) {
			t.Errorf("%s: sequence %d after %d and %d", tt.name, q.Highest, p.Highest, tt.after.Highest)
		}
	}
	for _, b := range []string{"", "1234567", "12345678x"} {
		if _, err := ParsePosition([]byte(b)); err == nil {
			t.Errorf("%q is a position", b)
		}
	}
}
