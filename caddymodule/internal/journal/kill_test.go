package journal

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

// childEnv holds the path of the journal for the child of TestKill.
const childEnv = "JOURNAL_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		childMain(path)
	}
	os.Exit(m.Run())
}

// childMain appends, syncs and makes room until it is killed, and tells of each
// record when it was appended.
func childMain(path string) {
	f, err := Open(path, Options{Shards: 4})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	f.Drain(func(*Record) {})
	f.Release(f.Position())
	for w := range 4 {
		go func() {
			var b [4]byte
			for n := w; ; n += 4 {
				r := numbered(n)
				for !f.Append(&r) {
					time.Sleep(time.Millisecond) // there is room soon, or the parent sees that nothing comes
				}
				binary.LittleEndian.PutUint32(b[:], uint32(n))
				_, _ = os.Stdout.Write(b[:])
			}
		}()
	}
	for {
		if err := f.Prepare(); err != nil {
			os.Exit(1)
		}
		_ = f.Sync()
	}
}

// TestKill kills a process many times while it appends from several
// goroutines. Each record that it said was appended is there, once and whole,
// and of the others at most one of each goroutine.
func TestKill(t *testing.T) {
	if !mapped.Supported {
		t.Skip("files are not mapped here")
	}
	rounds, limit := 200, 20*time.Second
	if testing.Short() || raceEnabled {
		rounds, limit = 20, 20*time.Second
	}
	path := newPath(t)
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	start, killed, total := time.Now(), 0, 0
	for ; killed < rounds && time.Since(start) < limit; killed++ {
		said := killOnce(t, path, 1+rnd.IntN(6000))
		f := open(t, path, Options{})
		got := numbersIn(t, f)
		for _, n := range said {
			if !got[n] {
				t.Fatalf("record %d is lost", n)
			}
		}
		if len(got) > len(said)+4 {
			t.Fatalf("%d records, and it said that there are %d", len(got), len(said))
		}
		total += len(said)
		check(t, f.Close())
		check(t, os.Remove(path))
	}
	t.Logf("%d kills, %d records", killed, total)
	if killed < 10 || total < 100*killed {
		t.Fatal("the test proves nothing")
	}
}

// killOnce has the child append so many records, kills it, and returns those
// that it said were appended.
func killOnce(t *testing.T, path string, after int) (said []int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	var b [4]byte
	for {
		if _, err := io.ReadFull(out, b[:]); err != nil {
			return said
		}
		if said = append(said, int(binary.LittleEndian.Uint32(b[:]))); len(said) == after {
			_ = cmd.Process.Kill()
		}
	}
}
