package engine

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/usage"
)

func requestsOf(t *testing.T, m *Metering) (n int64) {
	t.Helper()
	now := time.Now()
	points, err := m.Usage.Query(t.Context(), usage.Filter{}, now.Add(-time.Hour), now.Add(time.Hour), usage.Minute, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		n += p.Requests
	}
	return n
}

// openStill is openMetered without what is done in the background.
func openStill(t *testing.T, path string) (*Engine, *Metering) {
	t.Helper()
	e := open(t, path)
	m, err := e.openMetering(t.Context(), MeteringOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.metered.m = m
	return e, m
}

// asItIs copies the files of a store as a kill would leave them, and returns
// the path of the copy.
func asItIs(t *testing.T, dir string) (path string) {
	t.Helper()
	to := t.TempDir()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(to, "k.db")
}

// What was counted is there after a kill, before and after its flush, and after
// an end in order: each time once.
func TestUsageOutlivesAKill(t *testing.T) {
	dir := t.TempDir()
	e, m := openStill(t, filepath.Join(dir, "k.db"))
	record := func(n int) {
		for i := range n {
			m.Usage.Record(time.Now().Unix(), usage.Series{Tenant: "acme", Key: [16]byte{byte(i)}, Class: usage.Class2xx}, usage.Sample{})
		}
	}
	l := live{path: e.place + liveSuffix}
	killed := func(what string, want int64) {
		t.Helper()
		e, m := openStill(t, asItIs(t, dir))
		defer func() { _ = e.Close() }()
		if got := requestsOf(t, m); got != want {
			t.Errorf("%s: %d requests, want %d", what, got, want)
		}
		if _, err := os.Stat(e.place + liveSuffix); err == nil {
			t.Errorf("%s: the copy is still there", what)
		}
	}
	write := func() {
		t.Helper()
		if err := l.second(m.Usage); err != nil {
			t.Fatal(err)
		}
	}
	record(20)
	write()
	killed("not flushed", 20)
	if err := m.Usage.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	record(3)
	killed("flushed, and the copy is older", 20)
	write()
	killed("flushed, and more", 23)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	killed("ended", 23)
}

// A copy that cannot be written is not left to be taken for a newer one.
func TestOldUsageIsNotKept(t *testing.T) {
	e, m := openStill(t, filepath.Join(t.TempDir(), "k.db"))
	defer func() { _ = e.Close() }()
	l := live{path: e.place + liveSuffix}
	add := func() {
		m.Usage.Record(time.Now().Unix(), usage.Series{Tenant: "acme", Class: usage.Class2xx}, usage.Sample{})
	}
	add()
	if err := l.second(m.Usage); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(l.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	if err := os.Mkdir(l.path+".new", 0o700); err != nil { // nothing can be written there
		t.Fatal(err)
	}
	if err := os.WriteFile(l.path+".new/x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	add()
	if err := l.second(m.Usage); err == nil {
		t.Error("written")
	}
	if _, err := os.Stat(l.path); err == nil {
		t.Error("an old copy is left")
	}
	if err := os.RemoveAll(l.path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := l.second(m.Usage); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(l.path); err != nil {
		t.Error("not written once it can be")
	}
	if err := m.Usage.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.second(m.Usage); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(l.path); err == nil {
		t.Error("a copy of nothing")
	}
}
