package limit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
	"time"
)

func filled(n int, r Ask) (*Limiter, *clock) {
	l, c := newLimiter(1 << 14)
	c.add(time.Hour)
	for i := range n {
		r.Subject = subject(i)
		for range 1 + i%3 {
			l.Take(c.now(), []Ask{r})
		}
	}
	return l, c
}

func TestSnapshotRoundTrip(t *testing.T) {
	ask := Ask{Class: 7, Rate: rate(6, 3, time.Minute)}
	l, c := filled(300, ask)
	data := l.Snapshot(c.now())
	for _, elapsed := range []time.Duration{-time.Hour, 0, 15 * time.Second, time.Minute, 1<<63 - 1} {
		l2, c2 := newLimiter(1 << 12)
		c2.add(time.Second)
		if err := l2.Restore(c2.now(), elapsed, data); err != nil {
			t.Fatal(err)
		}
		live := 0
		for i := range 300 {
			ask.Subject = subject(i)
			was := l.States(c.now(), []Ask{ask}, nil)[0].Reset
			want := max(was-max(elapsed, 0), 0)
			if got := l2.States(c2.now(), []Ask{ask}, nil)[0].Reset; got != want {
				t.Fatalf("elapsed %v: subject %d owes %v, want %v", elapsed, i, got, want)
			}
			if want > 0 {
				live++
			}
		}
		if l2.Len() != live {
			t.Errorf("elapsed %v: %d live, want %d", elapsed, l2.Len(), live)
		}
	}
	c.add(time.Hour)
	if got := len(l.Snapshot(c.now())); got != snapshotHead+snapshotCheck {
		t.Errorf("a snapshot of full buckets is %d bytes", got)
	}
}

func TestRestoreKeepsTheHigherDebt(t *testing.T) {
	ask := Ask{Class: 7, Subject: subject(0), Rate: rate(6, 3, time.Minute)}
	l, c := filled(1, ask)
	one := l.Snapshot(c.now())
	l.Take(c.now(), []Ask{ask})
	if err := l.Restore(c.now(), 0, one); err != nil {
		t.Fatal(err)
	}
	if got := l.States(c.now(), []Ask{ask}, nil)[0].Remaining; got != 1 {
		t.Errorf("%d remain, want 1", got)
	}
}

func TestRestoreIntoLessRoomKeepsDebts(t *testing.T) {
	ask := Ask{Class: 7, Rate: rate(6, 3, time.Minute)}
	l, c := filled(3000, ask)
	data := l.Snapshot(c.now())
	small, c2 := newLimiter(8)
	if err := small.Restore(c2.now(), 0, data); err != nil {
		t.Fatal(err)
	}
	again := small.Snapshot(c2.now())
	third, c3 := newLimiter(1 << 12)
	if err := third.Restore(c3.now(), 0, again); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		ask.Subject = subject(i)
		was := l.States(c.now(), []Ask{ask}, nil)[0].Reset
		if got := small.States(c2.now(), []Ask{ask}, nil)[0].Reset; got < was {
			t.Fatalf("subject %d owes %v, want at least %v", i, got, was)
		}
		if got := third.States(c3.now(), []Ask{ask}, nil)[0].Reset; got < was {
			t.Fatalf("subject %d owes %v after two rounds, want at least %v", i, got, was)
		}
	}
	if small.Len() > 8 {
		t.Errorf("%d entries in a table of 8", small.Len())
	}
}

func seal(b []byte) []byte {
	b = b[:len(b)-snapshotCheck]
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func TestRestoreRefusesDamage(t *testing.T) {
	l, c := filled(5, Ask{Class: 7, Rate: rate(6, 3, time.Minute)})
	good := l.Snapshot(c.now())
	refuse := func(name string, data []byte, want error) {
		t.Helper()
		l, c := newLimiter(8)
		if err := l.Restore(c.now(), 0, data); !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", name, err, want)
		}
		if l.Len() != 0 || len(l.Snapshot(c.now())) != snapshotHead+snapshotCheck {
			t.Errorf("%s: something was restored", name)
		}
	}
	for n := range good {
		refuse("cut off", good[:n], ErrSnapshot)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		want := ErrSnapshot
		if i >= 4 && i < 8 {
			want = ErrSnapshotVersion
		}
		refuse("flipped bit", bad, want)
	}
	refuse("longer", append(bytes.Clone(good), 0), ErrSnapshot)
	edit := func(name string, at int, v uint64) {
		bad := bytes.Clone(good)
		binary.LittleEndian.PutUint64(bad[at:], v)
		refuse(name, seal(bad), ErrSnapshot)
	}
	edit("count", 8+overSize, 4)
	edit("huge count", 8+overSize, 1<<63)
	edit("no debt", snapshotHead+24, 0)
	edit("negative debt", snapshotHead+24, 1<<63)
	edit("debt too long", snapshotHead+24, uint64(maxSpan)+1)
	edit("negative overflow", 8, 1<<63)
}

func FuzzRestore(f *testing.F) {
	l, c := filled(5, Ask{Class: 7, Rate: rate(6, 3, time.Minute)})
	f.Add(l.Snapshot(c.now()), int64(0), true)
	f.Add(l.Snapshot(c.now()), int64(-5), false)
	f.Add([]byte("KTLB"), int64(1), true)
	f.Fuzz(func(t *testing.T, data []byte, elapsed int64, resum bool) {
		if resum && len(data) >= snapshotCheck {
			data = seal(bytes.Clone(data))
		}
		l, c := newLimiter(8)
		if err := l.Restore(c.now(), time.Duration(elapsed), data); err != nil {
			if l.Len() != 0 {
				t.Fatal("an error, and yet something was restored")
			}
			return
		}
		if err := l.Restore(c.now(), 0, l.Snapshot(c.now())); err != nil {
			t.Fatal("cannot read its own snapshot:", err)
		}
	})
}
