package journal

import (
	"errors"
	"testing"
)

// A writer that has no processor for long keeps nobody waiting for good, and his
// record and those behind it come when he is done, be it after Close.
func TestWriterIsLate(t *testing.T) {
	path := newPath(t)
	f := open(t, path, Options{Shards: 1})
	appendAll(t, f, 1, 3)
	late := func() func() { // is Append, and stops before it publishes
		r := numbered(3)
		var b [maxSlots * bodyLen]byte
		s, slot := f.reserve(r.encode(&b), new(tail))
		return func() {
			copy(s.body(slot), b[:bodyLen])
			s.head(slot).Store(withSum(s.seed(slot), headOf(1, r.Class, r.Flags, len(r.Tenant)), b[:bodyLen]))
		}
	}
	publish := late()
	appendAll(t, f, 4, 6)
	for _, want := range []int{2, 0, 3} {
		if got := numbersIn(t, f); len(got) != want {
			t.Errorf("%d records came, want %d", len(got), want)
		}
		if p := settle(t, f); len(p.Open) != 1 {
			t.Errorf("the position is %+v", p)
		}
		if want == 0 {
			publish()
		}
	}
	publish = late()
	numbersIn(t, f)
	check(t, f.Close())
	publish()
	if got := numbersIn(t, open(t, path, Options{After: f.Position()})); len(got) != 1 || !got[3] {
		t.Errorf("%v came after Close", got)
	}
}

// What somebody else writes into the file while it is open is no record, and
// nobody waits for it.
func TestWrittenBySomebodyElse(t *testing.T) {
	path := newPath(t)
	f := open(t, path, Options{Shards: 1})
	r := numbered(50) // of several slots
	if !f.Append(&r) {
		t.Fatal("there is no room")
	}
	appendAll(t, f, 1, 10)
	s := f.used[0]
	s.body(2)[0] ^= 1
	if bad := f.Drain(func(r *Record) { t.Errorf("record %d came", numberOf(r)) }); bad != 1 {
		t.Errorf("%d records are bad", bad)
	}
	if got := numbersIn(t, open(t, leave(t, path), Options{})); len(got) != 9 {
		t.Errorf("%d records came after a kill", len(got))
	}
	f = open(t, newPath(t), Options{Shards: 1})
	appendAll(t, f, 1, 10)
	if _, err := f.fd.WriteAt(make([]byte, segmentLen*f.count), headerLen); err != nil {
		t.Fatal(err)
	}
	numbersIn(t, f)
	if r := numbered(10); !errors.Is(f.Err(), ErrFault) || f.Append(&r) {
		t.Error(f.Err())
	}
	numbersIn(t, f)
}

// A journal that was stopped does not grow.
func TestPrepareAfterStop(t *testing.T) {
	f := open(t, newPath(t), Options{Shards: 1, Segments: 64})
	f.Stop()
	check(t, f.Prepare())
	if _, of := f.Waiting(); f.count != minSegments || of != 64 {
		t.Errorf("%d segments of %d", f.count, of)
	}
}
