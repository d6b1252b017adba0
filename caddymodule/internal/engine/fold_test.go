package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/usage"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// openMetered opens an engine with counters.
func openMetered(t testing.TB, path string) (*Engine, *Metering) {
	t.Helper()
	e := open(t, path)
	m, err := e.Metering(t.Context(), MeteringOptions{Retain: usage.Retention{Minute: 48 * time.Hour, Hour: 90 * 24 * time.Hour, Day: 800 * 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	return e, m
}

func counterID(n int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

func count(t testing.TB, m *Metering, n int, delta int64) {
	t.Helper()
	s, err := m.Counters.Slot(counterID(n))
	if err == nil {
		_, err = s.Add(delta)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func usedOf(t *testing.T, m *Metering, n int) int64 {
	t.Helper()
	s := m.Counters.Lookup(counterID(n))
	if s == nil {
		return -1
	}
	return s.Used()
}

func foldOf(t *testing.T, e *Engine) (f *fold, parts map[string]string) {
	t.Helper()
	parts = map[string]string{}
	err := e.Store.View(t.Context(), func(r store.Reader) (err error) {
		if f, err = readFold(r); err != nil || f == nil {
			return err
		}
		for n := range f.parts + 2 {
			b, err := r.Blob(partName(n))
			if err == nil {
				parts[partName(n)] = string(b)
			} else if !errors.Is(err, store.ErrNotFound) || n < f.parts {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, parts
}

// A fold writes what changed, and nothing if nothing did.
func TestFoldWritesWhatChanged(t *testing.T) {
	e, m := openMetered(t, filepath.Join(t.TempDir(), "k.db"))
	defer func() { _ = e.Close() }()
	const n = 3*slotsInPart + 5
	for i := range n {
		count(t, m, i, int64(i))
	}
	fold := func() (string, map[string]string) {
		t.Helper()
		if err := e.foldCounters(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		f, parts := foldOf(t, e)
		if f.parts != 4 || len(parts) != 4 || f.name != m.Counters.Fold() {
			t.Fatalf("%+v, %d parts", f, len(parts))
		}
		return string(f.name[:]), parts
	}
	name, parts := fold()
	if again, _ := fold(); again != name {
		t.Error("written although nothing changed")
	}
	count(t, m, slotsInPart+1, 100)
	next, after := fold()
	changed := 0
	for p := range parts {
		if parts[p] != after[p] {
			changed++
		}
	}
	if next == name || changed != 1 {
		t.Errorf("%d parts changed, name %x and %x", changed, name, next)
	}
}

// What becomes of the counters when their file, or the database, is another.
func TestCountersGoOnFromTheirCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.db")
	file := path + countersSuffix
	e, m := openMetered(t, path)
	for i := range 1000 {
		count(t, m, i, int64(i))
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reopened := func(what string, want func(i int) int64) {
		t.Helper()
		e, m = openMetered(t, path)
		for i := range 1000 {
			if got := usedOf(t, m, i); got != want(i) {
				t.Fatalf("%s: counter %d is %d, want %d", what, i, got, want(i))
			}
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	reopened("without the file", func(i int) int64 { return int64(i) })
	count(t, m, 7, 100)
	count(t, m, 8, -3) // given back
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	reopened("the same file", func(i int) int64 {
		return int64(i) + map[int]int64{7: 100, 8: -3}[i]
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, old, 0o600); err != nil {
		t.Fatal(err)
	}
	reopened("an older file", func(i int) int64 { return int64(i) + map[int]int64{7: 100}[i] })
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// Damaged counters do not take those of before out of the copy, from which all
// go on once the file is gone.
func TestDamagedCountersAreNotFolded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.db")
	file := path + countersSuffix
	e, m := openMetered(t, path)
	for i := range 10 {
		count(t, m, i, int64(i+1))
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[4096+64*4] ^= 0xff // the id of the fifth
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	e, m = openMetered(t, path)
	if len(m.Counters.Recovery().Damaged) != 1 {
		t.Fatalf("%+v", m.Counters.Recovery())
	}
	count(t, m, 1, 100)
	if _, err := e.Backup(t.Context(), io.Discard); err != nil {
		t.Error(err)
	}
	if err := errors.Join(e.Close(), os.Remove(file)); err != nil {
		t.Fatal(err)
	}
	e, m = openMetered(t, path)
	for i := range 10 {
		if got := usedOf(t, m, i); got != int64(i+1) {
			t.Errorf("counter %d is %d", i, got)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

var errRefused = errors.New("no room")

// refusing is a store that takes no changes.
type refusing struct{ store.Store }

func (refusing) Update(context.Context, func(store.Tx) error) error { return errRefused }

// A fold that fails is no copy, and the next one is.
func TestFoldThatFails(t *testing.T) {
	e, m := openMetered(t, filepath.Join(t.TempDir(), "k.db"))
	count(t, m, 1, 1)
	if err := e.foldCounters(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	was, _ := foldOf(t, e)
	real := e.Store
	e.Store = &refusing{real}
	count(t, m, 1, 1)
	if err := e.foldCounters(t.Context(), m); !errors.Is(err, errRefused) || m.Counters.Fold() != was.name {
		t.Errorf("%v, name %x, want %x", err, m.Counters.Fold(), was.name)
	}
	if _, err := e.Backup(t.Context(), nil); !errors.Is(err, errRefused) {
		t.Errorf("a backup without the counters: %v", err)
	}
	e.Store = real
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// halting is a store that takes some changes, and then no more.
type halting struct {
	store.Store
	left int
}

func (s *halting) Update(ctx context.Context, fn func(store.Tx) error) error {
	if s.left--; s.left < 0 {
		return errRefused
	}
	return s.Store.Update(ctx, fn)
}

// A fold that ends half-way leaves a copy with all its parts under the name of
// before: the file goes on as it is, and without it each counter as it was at
// one fold or the other.
func TestFoldThatEndsHalfWay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k.db")
	e, m := openMetered(t, path)
	const old, all = 2 * partsInStep * slotsInPart, 4 * partsInStep * slotsInPart
	for i := range old {
		count(t, m, i, 10)
	}
	if err := e.foldCounters(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	name := m.Counters.Fold()
	for i := range all {
		count(t, m, i, 1)
	}
	real := e.Store
	e.Store = &halting{real, 3} // steps of four
	if err := e.foldCounters(t.Context(), m); !errors.Is(err, errRefused) {
		t.Fatal(err)
	}
	e.Store = real
	f, parts := foldOf(t, e)
	if f.name != name || m.Counters.Fold() != name || f.parts != 3*partsInStep || len(parts) != 3*partsInStep {
		t.Fatalf("%+v, %d parts", f, len(parts))
	}
	var in CountersIn
	head := f.encode()
	for n, b := range parts {
		if err := in.Blob(n, []byte(b)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(in.Blob(blobFold, head), in.Missing()); err != nil {
		t.Fatal(err)
	}
	// As a process that is killed leaves it: the file is gone, the database is not.
	if err := errors.Join(m.Counters.Close(), m.Usage.Close(t.Context()), os.Remove(path+countersSuffix)); err != nil {
		t.Fatal(err)
	}
	again, err := e.openMetering(t.Context(), MeteringOptions{Retain: usage.Retention{Minute: 48 * time.Hour, Hour: 90 * 24 * time.Hour, Day: 800 * 24 * time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		want := int64(1)
		switch {
		case i < old:
			want = 11
		case i >= 3*partsInStep*slotsInPart:
			want = -1
		}
		if got := usedOf(t, again, i); got != want {
			t.Fatalf("counter %d is %d, want %d", i, got, want)
		}
	}
	if err := errors.Join(again.Counters.Close(), again.Usage.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	e.metered.m = nil
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkFold is a fold of 100,000 counters of which 10,000 changed.
func BenchmarkFold(b *testing.B) {
	e, m := openMetered(b, filepath.Join(b.TempDir(), "k.db"))
	const all, touched = 100_000, 10_000
	for i := range all {
		count(b, m, i, 1)
	}
	for b.Loop() {
		for i := range touched {
			count(b, m, i*(all/touched), 1)
		}
		if err := e.foldCounters(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
}

// Where the file of counters cannot be used at all, the error says how to go on
// without, and that works.
func TestCountersOfAnotherInstallation(t *testing.T) {
	other := filepath.Join(t.TempDir(), "k.db")
	e, m := openMetered(t, other)
	count(t, m, 1, 99)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(other + countersSuffix)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "k.db")
	e, m = openMetered(t, path)
	count(t, m, 1, 5)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"another installation": foreign, "damaged": bytes.Repeat([]byte{1}, 8192)} {
		if err := os.WriteFile(path+countersSuffix, text, 0o600); err != nil {
			t.Fatal(err)
		}
		e := open(t, path)
		if _, err := e.Metering(t.Context(), MeteringOptions{}); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "move the file away") {
			t.Errorf("%s: %v", name, err)
		}
		if err := errors.Join(e.Close(), os.Remove(path+countersSuffix)); err != nil {
			t.Fatal(err)
		}
		e, m = openMetered(t, path)
		if got := usedOf(t, m, 1); got != 5 {
			t.Errorf("%s: counter is %d", name, got)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
