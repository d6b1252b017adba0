package engine

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

// The longest retention of the configurations in force holds.
func TestKeep(t *testing.T) {
	e, m := openMetered(t, filepath.Join(t.TempDir(), "k.db"))
	defer func() { _ = e.Close() }()
	const day = 24 * time.Hour
	short := usage.Retention{Minute: 3 * time.Hour, Hour: 20 * day, Day: 100 * day}
	long := usage.Retention{Minute: 5 * day, Hour: 30 * day, Day: 60 * day}
	is := func(what string, want usage.Retention) {
		t.Helper()
		if got := m.Usage.Retention(); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	releaseLong, err := m.Keep(long)
	if err != nil {
		t.Fatal(err)
	}
	is("one", long)
	releaseShort, err := m.Keep(short)
	if err != nil {
		t.Fatal(err)
	}
	both := usage.Retention{Minute: 5 * day, Hour: 30 * day, Day: 100 * day}
	is("both", both)
	if _, err := m.Keep(usage.Retention{Minute: 31 * day, Hour: day, Day: day}); err == nil {
		t.Error("a retention that is none is taken")
	}
	is("after one that is none", both)
	releaseLong()
	releaseLong()
	is("the other", short)
	releaseShort()
	is("none", short)
}
