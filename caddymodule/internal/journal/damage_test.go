package journal

import (
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

func TestOpenRefuses(t *testing.T) {
	path := newPath(t)
	f := open(t, path, Options{ID: [8]byte{1}})
	if _, err := Open(path, Options{ID: [8]byte{1}}); !errors.Is(err, mapped.ErrLocked) {
		t.Error(err)
	}
	appendAll(t, f, 0, 10)
	check(t, f.Close())
	whole, err := os.ReadFile(path)
	check(t, err)
	if _, err := Open(path, Options{ID: [8]byte{2}}); !errors.Is(err, ErrOther) {
		t.Error(err)
	}
	for i := range lineLen {
		bad := append([]byte{}, whole...)
		bad[i] ^= 1
		check(t, os.WriteFile(path, bad, 0o600))
		if _, err := Open(path, Options{ID: [8]byte{1}}); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	if to, err := SetAside(path); err != nil || to != path+".old" {
		t.Error(to, err)
	}
	if got := numbersIn(t, open(t, path, Options{ID: [8]byte{1}})); len(got) != 0 {
		t.Errorf("%d records in a new journal", len(got))
	}
}

// A file that was begun, or was growing when the process ended, is good.
func TestHalfMade(t *testing.T) {
	path := newPath(t)
	f := open(t, path, Options{})
	appendAll(t, f, 0, 10)
	check(t, f.Close())
	whole, err := os.ReadFile(path)
	check(t, err)
	for _, tt := range []struct {
		content []byte
		want    int
	}{{nil, 0}, {make([]byte, 100), 0}, {make([]byte, headerLen), 0}, {whole[:headerLen], 0},
		{append(whole[:len(whole):len(whole)], make([]byte, segmentLen/2)...), 10}} {
		check(t, os.WriteFile(path, tt.content, 0o644))
		f := open(t, path, Options{})
		if got := numbersIn(t, f); len(got) != tt.want {
			t.Errorf("%d bytes: %d records, want %d", len(tt.content), len(got), tt.want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || (info.Size()-headerLen)%segmentLen != 0 {
			t.Error(info, err)
		}
		check(t, f.Close())
	}
}

// A file that somebody cuts off costs what was in it, and not the process.
func TestCutOffWhileOpen(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what a cut file does is tested on linux")
	}
	path := newPath(t)
	f := open(t, path, Options{Shards: 1})
	appendAll(t, f, 0, 10)
	check(t, os.Truncate(path, headerLen))
	long := numbered(11)
	long.Tenant = strings.Repeat("t", maxName)
	for _, r := range []Record{numbered(10), long} {
		if f.Append(&r) {
			t.Error("taken")
		}
		if debug.SetPanicOnFault(false) {
			t.Fatal("faults of others are panics from now on")
		}
	}
	if !errors.Is(f.Err(), ErrFault) {
		t.Error(f.Err())
	}
	f.Drain(func(*Record) {})
	f.Release(f.Position())
	check(t, f.Prepare())
	check(t, f.Close())
}

// FuzzFile changes bytes of a file: what is read is what was written.
func FuzzFile(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint32(0), uint64(1))
	f.Add(make([]byte, 64), uint32(64), uint64(2))
	path := newPath(f)
	j := open(f, path, Options{Shards: 1})
	const records = 1500
	appendAll(f, j, 1, records)
	check(f, j.Close())
	whole, err := os.ReadFile(path)
	check(f, err)
	f.Fuzz(func(t *testing.T, with []byte, at uint32, seed uint64) {
		b := append([]byte{}, whole...)
		rnd := rand.New(rand.NewPCG(seed, 1))
		copy(b[headerLen+int(at)%segmentLen:], with)
		for range seed % 100 {
			b[headerLen+rnd.IntN(segmentLen)] ^= 1 << rnd.IntN(8)
			copy(b[headerLen+rnd.IntN(segmentLen/64)*64:][:64], b[headerLen+rnd.IntN(segmentLen/64)*64:])
		}
		path := newPath(t)
		check(t, os.WriteFile(path, b, 0o600))
		found := open(t, path, Options{})
		got := make(map[int]bool)
		found.Drain(func(r *Record) {
			n := numberOf(r)
			if n < 1 || n >= records || *r != numbered(n) || got[n] {
				t.Fatalf("read %+v", *r)
			}
			got[n] = true
		})
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(uint64(0x02000004), []byte("0123456789012345678901234567890123456789"))
	f.Fuzz(func(t *testing.T, head uint64, b []byte) {
		var r Record
		if r.decode(head, b) && len(r.Tenant)+len(r.Route)+fixedLen > len(b) {
			t.Errorf("%+v of %d bytes", r, len(b))
		}
	})
}
