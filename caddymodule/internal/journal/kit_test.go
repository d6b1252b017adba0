package journal

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "k.db.usage") }

func open(t testing.TB, path string, o Options) *File { return openSys(t, path, o, theSystem) }

func openSys(t testing.TB, path string, o Options, sys system) *File {
	t.Helper()
	if !mapped.Supported {
		t.Skip("files are not mapped here")
	}
	f, err := openWith(path, o, sys)
	check(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// numbered is the record that its number tells all of.
func numbered(n int) Record {
	r := Record{Second: uint32(n), Class: uint8(n % 6), Flags: uint8(n % 4),
		Numbers: [4]int64{int64(n) - 5, int64(n) << (n % 50), 0, int64(n % 7)}}
	ne.PutUint64(r.Key[:], uint64(n))
	const letters = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz"
	r.Tenant, r.Route = letters[:n%64], letters[:n%19]
	if n%50 == 0 {
		r.Tenant, r.Route = letters+letters+letters, letters+letters
	}
	return r
}

func numberOf(r *Record) int { return int(ne.Uint64(r.Key[:])) }

// numbersIn drains a journal. Each record must be as it was written, and there
// once.
func numbersIn(t testing.TB, f *File) map[int]bool {
	t.Helper()
	out := make(map[int]bool)
	bad := f.Drain(func(r *Record) {
		n := numberOf(r)
		if out[n] {
			t.Fatalf("record %d is there twice", n)
		}
		if *r != numbered(n) {
			t.Fatalf("record %d is %+v", n, *r)
		}
		out[n] = true
	})
	if bad != 0 {
		t.Fatalf("%d records are bad", bad)
	}
	return out
}

func appendAll(t testing.TB, f *File, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if r := numbered(n); !f.Append(&r) {
			t.Fatalf("record %d: there is no room", n)
		}
	}
}

// settle is what a storage does that took everything.
func settle(t testing.TB, f *File) Position {
	t.Helper()
	p := f.Position()
	f.Release(p)
	check(t, f.Prepare())
	return p
}

// leave copies the file as a kill would leave it now.
func leave(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	to := newPath(t)
	check(t, os.WriteFile(to, b, 0o600))
	return to
}

// inHeap has the segments in memory that the race detector knows.
func inHeap() system {
	return system{
		mapFile: func(_ *os.File, _, n int64) ([]byte, int, error) {
			words := make([]uint64, n/8)
			return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n), 0, nil
		},
		unmap:    func([]byte) error { return nil },
		allocate: func(*os.File, int64, int64) error { return nil },
		sync:     func(*os.File, *chunk, int, int) error { return nil },
	}
}
