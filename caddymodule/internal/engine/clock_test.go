package engine

import (
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/limit"
)

// A clock that is set, forward or back, shows within a second of the limiter's
// time, and one that is before 1970 is taken for one that is there.
func TestClockIsSet(t *testing.T) {
	var now time.Duration
	var clock time.Time
	e := &Engine{clock: func() time.Time { return clock }}
	e.Limiter = limit.New(limit.Options{Now: func() int64 { return int64(now) }})
	at := func(want time.Time) {
		t.Helper()
		if got := e.Wall(int64(now)); !got.Equal(want) || e.Unix(int64(now)) != want.Unix() {
			t.Errorf("%v, second %d, after %v; want %v", got, e.Unix(int64(now)), now, want)
		}
	}
	var before time.Time
	for i, unix := range []int64{0, 1_800_000_000, 1_900_000_000, 1_700_000_000, -1, -1 << 33, 7} {
		clock = time.Unix(unix, 1)
		if i > 0 { // a second has not passed yet
			now += time.Second - 1
			at(before.Add(time.Second - 1))
			now++
		}
		if before = clock; unix < 0 {
			before = time.Unix(0, 0)
		}
		at(before)
	}
}
