package counter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// sampleFile is a file that was closed in order: five slots, used 10, 11, ….
func sampleFile(t *testing.T) (path string, content []byte) {
	t.Helper()
	path = newPath(t)
	f := open(t, path, quiet())
	for n := range 5 {
		if err := slot(t, f, n).Turn(7, int64(10+n), 3); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, f)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func flipped(b []byte, at int, mask byte) []byte {
	b = bytes.Clone(b)
	b[at] ^= mask
	return b
}

// Each byte of the header, flipped, is an error; in the state it makes the file
// one of an unknown boot, and in the journal it is without effect.
func TestDamagedHeader(t *testing.T) {
	path, content := sampleFile(t)
	for at := range headerLen {
		if testing.Short() && at > usedBytes && at%50 > 0 {
			continue
		}
		write(t, path, flipped(content, at, 0x10))
		f, err := Open(path, quiet())
		changing := at >= stateAt && at < usedBytes
		if changing != (err == nil) {
			t.Fatalf("byte %d: %v", at, err)
		}
		if err != nil {
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Fatalf("byte %d: %v", at, err)
			}
			continue
		}
		r := f.Recovery()
		if state := at < journalAt; r.Clean == state || r.SameBoot == state || r.Turned || r.Slots != 5 {
			t.Fatalf("byte %d: %+v", at, r)
		}
		for n := range 5 {
			if s := f.Lookup(id(n)); s.Used() != int64(10+n) || s.Period() != 7 || s.Carried() != 3 {
				t.Fatalf("byte %d: slot %d changed", at, n)
			}
		}
		mustClose(t, f)
	}
}

// Each byte of id and crc of a slot, flipped, takes away that slot alone, and
// new ids are refused.
func TestDamagedSlot(t *testing.T) {
	path, content := sampleFile(t)
	for at := range int(slotLen) {
		if at >= 16 && at < int(slotLen)-4 {
			continue // numbers have no checksum
		}
		write(t, path, flipped(content, headerLen+2*int(slotLen)+at, 1))
		f := open(t, path, quiet())
		if d := f.Recovery().Damaged; len(d) != 1 || d[0].Slot != 2 {
			t.Fatalf("byte %d: %+v", at, d)
		}
		for n := range 6 {
			s, err := f.Slot(id(n))
			if closed := n == 2 || n == 5; closed != errors.Is(err, ErrDamaged) || closed == (err == nil) {
				t.Fatalf("byte %d: slot %d: %v", at, n, err)
			}
			if err == nil && s.Used() != int64(10+n) {
				t.Fatalf("byte %d: slot %d has %d", at, n, s.Used())
			}
		}
		mustClose(t, f)
	}
	dropped(t, path)
}

// dropped opens a file whose slot 2 is damaged and has it dropped.
func dropped(t *testing.T, path string) {
	t.Helper()
	o := quiet()
	o.DropDamaged = true
	f := open(t, path, o)
	if s := slot(t, f, 2); s.Used() != 0 || s.n != 2 || len(f.Recovery().Damaged) != 1 {
		t.Fatalf("%+v, %d in slot %d", f.Recovery(), s.Used(), s.n)
	}
	mustClose(t, f)
	if f = open(t, path, quiet()); f.Len() != 5 || len(f.Recovery().Damaged) != 0 {
		t.Fatalf("%+v", f.Recovery())
	}
}

func TestDamagedFiles(t *testing.T) {
	path, content := sampleFile(t)
	at := func(n int) int { return headerLen + n*int(slotLen) }
	versionTwo := bytes.Clone(content)
	versionTwo[8] = 2
	seal(versionTwo[:lineLen])
	otherOrder := bytes.Clone(content)
	otherOrder[12], otherOrder[15] = otherOrder[15], otherOrder[12]
	seal(otherOrder[:lineLen])
	moved := bytes.Clone(content)
	copy(moved[at(9):], moved[at(1):at(2)])
	noCapacity := bytes.Clone(content)
	copy(noCapacity[stateAt:], state{stopped: true}.encode())
	huge := bytes.Clone(content)
	copy(huge[stateAt:], state{stopped: true, capacity: 1 << 63}.encode())
	zeroed := bytes.Clone(content)
	clear(zeroed[at(3):at(6)])
	for name, c := range map[string]struct {
		content []byte
		want    error // of Open; nil: of a new slot
	}{
		"empty":               {nil, ErrDamaged},
		"half a header":       {content[:headerLen/2], ErrDamaged},
		"header alone":        {content[:headerLen], ErrDamaged},
		"one slot short":      {content[:len(content)-int(slotLen)], ErrDamaged},
		"one byte short":      {content[:len(content)-1], ErrDamaged},
		"zeros":               {make([]byte, len(content)), ErrDamaged},
		"newer version":       {versionTwo, ErrVersion},
		"other byte order":    {otherOrder, ErrVersion},
		"no capacity":         {noCapacity, ErrDamaged},
		"too large":           {huge, ErrDamaged},
		"slot at other place": {moved, nil},
		"slots zeroed":        {zeroed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, c.content)
			f, err := Open(path, quiet())
			if c.want == nil && err == nil {
				_, err = f.Slot(id(100))
				mustClose(t, f)
				c.want = ErrDamaged
			}
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), path) {
				t.Fatal(err)
			}
			if after, err := os.ReadFile(path); c.want == nil && (err != nil || !bytes.Equal(after, c.content)) {
				t.Fatal("a file that was refused was changed", err)
			}
		})
	}
}

func TestOtherInstallation(t *testing.T) {
	path, _ := sampleFile(t)
	o := quiet()
	o.InstallationID[0]++
	if _, err := Open(path, o); !errors.Is(err, ErrInstallation) {
		t.Fatal(err)
	}
}

// What a kill leaves of a slot that was being made is no damage, and neither is
// what a kill leaves of a growth.
func TestHalfMade(t *testing.T) {
	path, content := sampleFile(t)
	copy(content[headerLen+5*int(slotLen):], bytes.Repeat([]byte{9}, 8)) // half an id, no crc
	copy(content[stateAt:], state{boot: theSystem.bootID(), capacity: minGrowth}.encode())
	write(t, path, append(content, make([]byte, 1000)...))
	f := open(t, path, quiet())
	if r := f.Recovery(); len(r.Damaged) > 0 || r.Slots != 5 || f.capacity != minGrowth {
		t.Fatalf("%+v", r)
	}
	if s := slot(t, f, 6); s.n != 5 || s.Used() != 0 {
		t.Fatalf("slot %d was taken", s.n)
	}
}

// A Turn that was interrupted after any of its stores is whole afterwards; one
// that was finished is not done again.
func TestHalfTurned(t *testing.T) {
	for stored := range 7 {
		path := newPath(t)
		f := open(t, path, quiet())
		s := slot(t, f, 3)
		old, next := values{100, 5, 70, 80, 90}, values{200, 6, 1, 1, 1}
		s.r.store(old)
		f.journal.begin(s.n, old, next)
		words := s.r.words()
		for i, w := range words[:min(stored, 5)] {
			w.Store(next[i])
		}
		want := values{200, 6, 1, 1, 1}
		if stored == 6 { // finished, and the page with the journal is an older one
			_, _ = s.Add(41)
			want = values{200, 6, 42, 1, 1}
		}
		crash(t, f)
		f = open(t, path, quiet())
		got := f.Lookup(id(3)).r.values()
		if got != want || f.Recovery().Turned != (stored < 5) {
			t.Fatalf("after %d stores: %v, want %v, %+v", stored, got, want, f.Recovery())
		}
	}
}

// TestCopyWhileRunning copies the file with an ordinary reader while slots
// count. Each slot of the copy is between what it was before and after.
func TestCopyWhileRunning(t *testing.T) {
	const n = 300
	f := open(t, newPath(t), quiet())
	slots := make([]*Slot, n)
	for i := range slots {
		slots[i] = slot(t, f, i)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := count(slots[i%n]); err != nil {
				t.Error(err)
			}
		}
	}()
	at := func(s *Slot) int64 { return s.Period()*turnEvery + s.Used() }
	for range 20 {
		before := make([]int64, n)
		for i, s := range slots {
			before[i] = s.Period() * turnEvery // used may belong to the next
		}
		path := copied(t, f.path)
		c := open(t, path, quiet())
		if r := c.Recovery(); len(r.Damaged) > 0 || r.Slots != n || !r.SameBoot {
			t.Fatalf("%+v", r)
		}
		for i, s := range slots {
			got := at(c.Lookup(id(i)))
			if after := (s.Period() + 2) * turnEvery; got < before[i] || got > after {
				t.Fatalf("slot %d: %d, not from %d to %d", i, got, before[i], after)
			}
		}
		mustClose(t, c)
	}
	close(stop)
	<-done
}

func copied(t *testing.T, from string) (path string) {
	t.Helper()
	path = newPath(t)
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 4096))
	if err = errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
