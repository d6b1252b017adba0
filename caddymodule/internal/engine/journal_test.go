package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
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
	if !mapped.Supported {
		t.Skip("there is no journal here")
	}
	dir := t.TempDir()
	e, m := openStill(t, filepath.Join(dir, "k.db"))
	record := func(n int) {
		for i := range n {
			m.Usage.Record(&usage.Request{Second: usage.SecondOf(time.Now().Unix()), Tenant: "acme", Key: [16]byte{byte(i)}, Class: uint8(usage.Class2xx)})
		}
	}
	killed := func(what string, want int64) {
		t.Helper()
		e, m := openStill(t, asItIs(t, dir))
		defer func() { _ = e.Close() }()
		if got := requestsOf(t, m); got != want {
			t.Errorf("%s: %d requests, want %d", what, got, want)
		}
	}
	record(20)
	killed("not flushed", 20)
	if err := m.Usage.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	killed("flushed", 20)
	record(3)
	killed("flushed, and more", 23)
	if info, err := os.Stat(e.place + journalSuffix); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	killed("ended", 23)
}

// A journal that is not the store's, or none, is moved aside and told.
func TestUsageOfOthers(t *testing.T) {
	if !mapped.Supported {
		t.Skip("there is no journal here")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "k.db")
	if err := os.WriteFile(path+journalSuffix, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	e := open(t, path)
	told := make(chan error, 10)
	e.metered.onError = func(err error) { told <- err }
	m, err := e.openMetering(t.Context(), MeteringOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.metered.m = m
	if err := <-told; !strings.Contains(err.Error(), ".usage.old") {
		t.Error(err)
	}
	if _, err := os.Stat(path + journalSuffix + ".old"); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
