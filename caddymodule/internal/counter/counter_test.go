package counter

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

var installation = [8]byte{'i', 'n', 's', 't', 'a', 'l', 'l', '1'}

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		childMain(path)
	}
	os.Exit(m.Run())
}

func id(n int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	id[15] = 0xff
	return id
}

// quiet are options of a file that writes to the disk when told to.
func quiet() Options {
	return Options{Slots: minGrowth, InstallationID: installation, Sync: time.Hour}
}

func open(t testing.TB, path string, o Options) *File {
	t.Helper()
	return openSys(t, path, o, theSystem)
}

func openSys(t testing.TB, path string, o Options, sys system) *File {
	t.Helper()
	f, err := openWith(path, o, sys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func slot(t testing.TB, f *File, n int) *Slot {
	t.Helper()
	s, err := f.Slot(id(n))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "keytoll.counters") }

func mustClose(t testing.TB, f *File) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// crash lets go of the file as the end of the process does: with no mark and
// no sync.
func crash(t testing.TB, f *File) {
	t.Helper()
	f.once.Do(func() {
		close(f.stop)
		f.done.Wait()
		f.set(troubleGone, ErrClosed)
		if err := f.release(); err != nil {
			t.Fatal(err)
		}
	})
}

type model struct{ period, used, carried int64 }

func compare(t *testing.T, f *File, want map[int]*model) {
	t.Helper()
	if f.Len() != len(want) {
		t.Fatalf("%d slots, want %d", f.Len(), len(want))
	}
	for n, m := range want {
		s := f.Lookup(id(n))
		if s == nil {
			t.Fatalf("slot %d is gone", n)
		}
		if got := (model{s.Period(), s.Used(), s.Carried()}); got != *m || s.ID() != id(n) {
			t.Fatalf("slot %d: %+v, want %+v", n, got, *m)
		}
	}
}

// TestModel compares random operations with a map, over crashes, orderly stops
// and growth.
func TestModel(t *testing.T) {
	path, want := newPath(t), map[int]*model{}
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 12 {
		f := open(t, path, quiet())
		compare(t, f, want)
		if r := f.Recovery(); r.Slots != len(want) || r.New != (round == 0) || !r.New && r.Clean != (round%2 == 1) || r.Raised != 0 {
			t.Fatalf("round %d: %+v", round, r)
		}
		for range 4000 {
			n := rnd.IntN(500 * (round + 1))
			m := want[n]
			if m == nil {
				m = &model{}
				want[n] = m
			}
			step(t, slot(t, f, n), m, rnd)
		}
		compare(t, f, want)
		if round%2 == 0 {
			mustClose(t, f)
		} else {
			crash(t, f)
		}
	}
	if len(want) < 3*minGrowth {
		t.Fatal("the file did not grow")
	}
}

func step(t *testing.T, s *Slot, m *model, rnd *rand.Rand) {
	t.Helper()
	v := rnd.Int64N(1000) - 300
	switch rnd.IntN(8) {
	case 0:
		*m = model{m.period + 60, v, rnd.Int64N(5)}
		if err := s.Turn(m.period, m.used, m.carried); err != nil {
			t.Fatal(err)
		}
	case 1:
		m.used = v
		s.SetUsed(v)
	case 2:
		m.carried = v
		s.SetCarried(v)
	case 3:
		if s.CompareAndSwap(m.used+1, 7) || !s.CompareAndSwap(m.used, v) {
			t.Fatal("CompareAndSwap")
		}
		m.used = v
	case 4:
		if err := s.Lease(m.used + v); err != nil {
			t.Fatal(err)
		}
	default:
		m.used += v
		if got, err := s.Add(v); got != m.used || err != nil {
			t.Fatal(got, err)
		}
	}
}

func TestOverflow(t *testing.T) {
	s := slot(t, open(t, newPath(t), quiet()), 1)
	for _, c := range []struct {
		at, delta int64
		ok        bool
	}{
		{math.MaxInt64, 1, false}, {math.MaxInt64, 0, true}, {math.MaxInt64 - 1, 1, true},
		{math.MinInt64, -1, false}, {math.MinInt64, math.MaxInt64, true}, {-1, math.MinInt64, false},
		{1, math.MinInt64, true}, {math.MaxInt64, math.MaxInt64, false}, {0, math.MinInt64, true},
	} {
		s.SetUsed(c.at)
		got, err := s.Add(c.delta)
		want := c.at
		if c.ok {
			want += c.delta
		}
		if got != want || s.Used() != want || (err == nil) != c.ok || err != nil && !errors.Is(err, ErrOverflow) {
			t.Errorf("%d + %d: %d, %v", c.at, c.delta, got, err)
		}
	}
}

func TestSpend(t *testing.T) {
	f := open(t, newPath(t), quiet())
	s := slot(t, f, 1)
	for _, c := range []struct {
		used, carried, amount, most int64
		ok                          bool
	}{
		{0, 0, 10, 10, true}, {0, 0, 11, 10, false}, {1, 0, 10, 10, false}, {1, 1, 10, 10, true}, {10, 0, 0, 10, true},
		{1, -5, 9, 10, true}, {0, math.MinInt64, 10, 10, true}, {-1, 0, 1, 10, false}, {math.MinInt64, 100, 1, 10, false},
		{11, 0, 0, 10, false}, {math.MaxInt64, 0, 1, 1 << 62, false}, {0, math.MaxInt64, 1, 10, false}, {1 << 62, 1 << 62, 1 << 60, 1<<62 - 1, true}, {1 << 62, 1, 1 << 60, 1 << 62, false},
	} {
		s.SetUsed(c.used)
		s.SetCarried(c.carried)
		f.dirty.Store(false)
		want := c.used
		if c.ok {
			want += c.amount
		}
		if ok := s.Spend(c.amount, c.most); ok != c.ok || s.Used() != want || f.dirty.Load() != ok {
			t.Errorf("%+v: %v, then %d, to be written: %v", c, ok, s.Used(), f.dirty.Load())
		}
	}
}

// TestGrowthUnderLoad counts in slots by many goroutines that make new slots
// all the while, with syncs, and misses no count. Slots that were got before a
// growth go on.
func TestGrowthUnderLoad(t *testing.T) {
	o := quiet()
	o.Sync = time.Millisecond
	path := newPath(t)
	f := open(t, path, o)
	const workers, shared, own = 4, 10, 2500
	early := make([]*Slot, shared)
	for n := range early {
		early[n] = slot(t, f, n)
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range own {
				for _, n := range []int{shared + i*workers + w, shared + i*workers} {
					s, err := f.Slot(id(n))
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = s.Add(1)
				}
				_, _ = early[i%shared].Add(1)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if got := len(*f.chunks.Load()); got < 3 {
		t.Fatalf("the file has %d parts: it did not grow", got)
	}
	crash(t, f)
	f = open(t, path, quiet())
	for n := range shared + workers*own {
		want := int64(1)
		switch {
		case n < shared:
			want = workers * own / shared
		case (n-shared)%workers == 0:
			want = 1 + workers
		}
		if got := f.Lookup(id(n)).Used(); got != want {
			t.Fatalf("slot %d: %d, want %d", n, got, want)
		}
	}
}

func TestZeroID(t *testing.T) {
	if _, err := open(t, newPath(t), quiet()).Slot([16]byte{}); err == nil {
		t.Fatal("the zero id has a slot")
	}
}

func TestEach(t *testing.T) {
	f := open(t, newPath(t), quiet())
	for n := range 100 {
		slot(t, f, n).SetUsed(int64(n))
	}
	sum, seen := int64(0), 0
	if err := f.Each(func(s *Slot) bool { sum += s.Used(); seen++; return true }); err != nil || sum != 4950 || seen != 100 {
		t.Fatal(sum, seen, err)
	}
	seen = 0
	if err := f.Each(func(*Slot) bool { seen++; return seen < 3 }); err != nil || seen != 3 {
		t.Fatal(seen, err)
	}
}

func TestAfterClose(t *testing.T) {
	f := open(t, newPath(t), quiet())
	s := slot(t, f, 1)
	mustClose(t, f)
	mustClose(t, f)
	if !errors.Is(f.Err(), ErrClosed) || f.Lookup(id(1)) != nil {
		t.Fatal(f.Err())
	}
	_, err := f.Slot(id(1))
	for what, err := range map[string]error{
		"Slot": err, "Flush": f.Flush(), "Turn": s.Turn(1, 2, 3), "Lease": s.Lease(5),
		"Add": use(f, func() { _, _ = s.Add(1) }), "Used": use(f, func() { s.Used() }),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// use is what a caller of slots does.
func use(f *File, fn func()) (err error) {
	defer f.Guard(debug.SetPanicOnFault(true), &err)
	fn()
	return nil
}

func TestGuardLetsOthersPass(t *testing.T) {
	f := open(t, newPath(t), quiet())
	defer func() {
		if recover() != "mine" {
			t.Fatal("a panic of the caller was swallowed")
		}
	}()
	_ = use(f, func() { panic("mine") })
}
