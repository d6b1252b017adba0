package counter

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// childEnv holds the path of the file for the child of TestKill.
const childEnv = "COUNTER_TEST_CHILD"

// killSlots are the slots that the child counts in; others it makes, so that
// the file grows. Slot i turns at each turnEvery-th count.
const (
	killSlots = 40
	turnEvery = 7
)

// childMain counts until it is killed. Each count is written to the log before
// ("try") and after it ("done"): 8 bytes, slot and verb. It is one write each,
// which a kill does not take back.
func childMain(path string) {
	o := quiet()
	o.Sync = 2 * time.Millisecond
	f, err := Open(path, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	fresh := f.Len()
	for ; err == nil; fresh++ {
		n := rnd.IntN(killSlots)
		say(0, n)
		var s *Slot
		if s, err = f.Slot(id(n)); err == nil {
			err = count(s)
		}
		say(1, n)
		if err == nil && rnd.IntN(4) == 0 {
			_, err = f.Slot(id(killSlots + fresh))
		}
		if err == nil && rnd.IntN(200) == 0 {
			err = s.Lease(s.Used() + 1000)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func say(verb, n int) {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], uint32(verb))
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	_, _ = os.Stdout.Write(b[:])
}

// count adds one to a slot: used goes from 0 to turnEvery-1, and then the
// period, whose carried value must always fit it, takes the next number.
func count(s *Slot) error {
	if s.Used() < turnEvery-1 {
		_, err := s.Add(1)
		return err
	}
	p := s.Period() + 1
	return s.Turn(p, 0, 3*p)
}

// TestKill kills a process hundreds of times while it counts, turns periods,
// makes slots and grows the file. Every count that it said was made is there,
// and none that it did not begin; no Turn is half there.
func TestKill(t *testing.T) {
	rounds, limit := 200, 12*time.Second
	if testing.Short() {
		rounds, limit = 10, 4*time.Second
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "keytoll.counters")
	tried, made := map[int]int64{}, map[int]int64{}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	start, turned, killed, total := time.Now(), 0, 0, int64(0)
	for ; killed < rounds && time.Since(start) < limit; killed++ {
		killOnce(t, path, tried, made, 1+rnd.IntN(3000))
		f := open(t, path, quiet())
		r := f.Recovery()
		if r.Clean || !r.SameBoot || r.Raised > 0 || len(r.Damaged) > 0 {
			t.Fatalf("%+v", r)
		}
		if r.Turned {
			turned++
		}
		verifyKilled(t, f, tried, made)
		crash(t, f)
	}
	for _, n := range made {
		total += n
	}
	t.Logf("%d kills, %d counts, %d turns were finished afterwards", killed, total, turned)
	if killed < 5 || total < int64(killed)*50 {
		t.Fatal("the test proves nothing")
	}
}

func verifyKilled(t *testing.T, f *File, tried, made map[int]int64) {
	t.Helper()
	for n := range killSlots {
		s := f.Lookup(id(n))
		if s == nil {
			if made[n] > 0 {
				t.Fatalf("slot %d is gone", n)
			}
			continue
		}
		got := s.Period()*turnEvery + s.Used()
		if got < made[n] || got > tried[n] || s.Carried() != 3*s.Period() || s.Leased() > s.Used() {
			t.Fatalf("slot %d: %d counts, %d were said to be made and %d tried; period %d carried %d",
				n, got, made[n], tried[n], s.Period(), s.Carried())
		}
		tried[n], made[n] = got, got
	}
}

// killOnce lets the child count so many times and kills it.
func killOnce(t *testing.T, path string, tried, made map[int]int64, after int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for said, have := 0, 0; ; {
		n, err := out.Read(buf[have:])
		have += n
		for i := 0; i+8 <= have; i += 8 {
			slot := int(binary.LittleEndian.Uint32(buf[i+4:]))
			if binary.LittleEndian.Uint32(buf[i:]) == 0 {
				tried[slot]++
			} else {
				made[slot]++
			}
		}
		if said < after && said+n/8 >= after {
			_ = cmd.Process.Kill()
		}
		said += n / 8
		have = copy(buf, buf[have&^7:have])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("the child failed: %s", &stderr)
	}
}
