package index

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
	"time"
)

func TestBucketsSurvive(t *testing.T) {
	x := load(0)
	for i := range uint64(4000) {
		k := keyOf(i)
		putKey(x, k)
		if i%2 == 0 {
			x.ByID(k.ID).Bucket.Restore(5000, int64(i))
		}
	}
	data := x.SnapshotBuckets(5000)
	if want := 8 + 1999*bucketLen; len(data) != want {
		t.Errorf("snapshot of %d bytes, want %d", len(data), want)
	}
	dropKey(x, keyOf(10))

	y := load(0)
	for i := range uint64(4000) {
		if i != 20 {
			putKey(y, keyOf(i))
		}
	}
	y.ByID(idOf(3000)).Bucket.Restore(77, 1_000_000)
	y.ByID(idOf(3002)).Bucket.Restore(77, 5)
	if err := y.RestoreBuckets(77, 1000, data); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(4000) {
		want := int64(0)
		switch {
		case i == 20:
			continue // was deleted meanwhile
		case i == 3000:
			want = 1_000_000 // owed more already
		case i%2 == 0:
			want = max(int64(i)-1000, 0)
		}
		if got := y.ByID(idOf(i)).Bucket.Debt(77); got != want {
			t.Fatalf("key %d owes %d, want %d", i, got, want)
		}
	}
}

// A wall clock that was set back must not lengthen a debt.
func TestRestoreWithClockSetBack(t *testing.T) {
	x := New()
	putKey(x, keyOf(1))
	x.ByID(idOf(1)).Bucket.Restore(0, 100)
	data := x.SnapshotBuckets(0)
	x.ByID(idOf(1)).Bucket.Restore(0, 0)
	if err := x.RestoreBuckets(0, -time.Hour, data); err != nil {
		t.Fatal(err)
	}
	if got := x.ByID(idOf(1)).Bucket.Debt(0); got != 100 {
		t.Errorf("owes %d, want 100", got)
	}
}

func TestRestoreRefusesWhatIsMalformed(t *testing.T) {
	x := New()
	putKey(x, keyOf(1))
	putKey(x, keyOf(2))
	x.ByID(idOf(1)).Bucket.Restore(0, 1000)
	x.ByID(idOf(2)).Bucket.Restore(0, 1000)
	good := x.SnapshotBuckets(0)
	x.ByID(idOf(1)).Bucket.Restore(0, 0)
	x.ByID(idOf(2)).Bucket.Restore(0, 0)
	refuse := func(what string, data []byte) {
		t.Helper()
		if err := x.RestoreBuckets(0, 0, data); !errors.Is(err, ErrBuckets) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for n := range good {
		refuse("cut short", good[:n])
		bad := append([]byte(nil), good...)
		bad[n] ^= 0x10
		refuse("a flipped bit", bad)
	}
	signed := func(change func([]byte) []byte) []byte {
		b := change(append([]byte(nil), good[:len(good)-bucketTail]...))
		return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	}
	refuse("a newer version", signed(func(b []byte) []byte { b[3]++; return b }))
	refuse("half an entry", signed(func(b []byte) []byte { return b[:len(b)-1] }))
	for _, debt := range []int64{0, -1, int64(maxDebt) + 1} {
		refuse("an impossible debt", signed(func(b []byte) []byte {
			binary.BigEndian.PutUint64(b[len(b)-8:], uint64(debt))
			return b
		}))
	}
	for i := range uint64(2) {
		if got := x.ByID(idOf(i + 1)).Bucket.Debt(0); got != 0 {
			t.Errorf("key %d owes %d after nothing but refusals", i+1, got)
		}
	}
	if err := x.RestoreBuckets(0, 0, New().SnapshotBuckets(0)); err != nil {
		t.Errorf("an empty snapshot: %v", err)
	}
}
