package boltstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/store/storetest"
)

// childEnv holds the path of the database for the child of TestKill.
const childEnv = "BOLTSTORE_TEST_CHILD"

// childMain creates and revokes keys until it is killed, and tells of each
// change once it is durable.
func childMain() {
	s, err := tryOpen(os.Getenv(childEnv))
	if err == nil {
		err = s.Update(context.Background(), func(tx store.Tx) error { return tx.PutTenant(storetest.NewTenant("acme")) })
	}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var alive []*access.Key
	for err == nil {
		if len(alive) > 3 && rnd.IntN(3) > 0 {
			i := rnd.IntN(len(alive))
			k, old := alive[i], alive[i].Digest
			what := fmt.Sprintf("rotate:%d", old[31]+1)
			k.Digest[31]++
			if rnd.IntN(2) == 0 || old[31] == 200 {
				alive = append(alive[:i], alive[i+1:]...)
				what, k.Status, k.Digest = "revoke", access.StatusRevoked, old
			}
			fmt.Printf("try %s %s\n", what, k.ID[:])
			if err = s.Update(context.Background(), func(tx store.Tx) error { return errors.Join(tx.Bury(old), tx.UpdateKey(k)) }); err == nil {
				fmt.Printf("done %s %s\n", what, k.ID[:])
			}
			continue
		}
		k := storetest.NewKey("acme", rnd.IntN(1000))
		k.ID = randomID(rnd)
		k.Digest = digestOf(k.ID, 0)
		fmt.Printf("try create %s\n", k.ID[:])
		if err = s.Update(context.Background(), func(tx store.Tx) error { return tx.CreateKey(k) }); err == nil {
			alive = append(alive, k)
			fmt.Printf("done create %s\n", k.ID[:])
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// digestOf returns the digest of a key that was rotated so many times.
func digestOf(id access.KeyID, rotations byte) (d [32]byte) {
	copy(d[:], id[:])
	d[31] = rotations
	return d
}

// TestKill kills a process at random points of its writing. Whatever it said
// was done must be there afterwards, and nothing must be half done.
func TestKill(t *testing.T) {
	rounds, wantDone := 24, 400
	if testing.Short() {
		rounds, wantDone = 5, 20
	}
	path := filepath.Join(t.TempDir(), "keytoll.db")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	log := map[string]string{} // key id → the last thing said of it
	done := 0
	for range rounds {
		done += killOnce(t, path, log, 1+rnd.IntN(60), time.Duration(rnd.IntN(2000))*time.Microsecond)
		verifyLog(t, path, log)
	}
	t.Logf("%d changes acknowledged in %d rounds", done, rounds)
	if done < wantDone {
		t.Fatalf("only %d changes were acknowledged, want %d: the test proves nothing", done, wantDone)
	}
}

// killOnce runs the child, kills it a while after so many acknowledgements,
// and returns the number of those.
func killOnce(t *testing.T, path string, log map[string]string, after int, delay time.Duration) (done int) {
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
	done = follow(t, out, log, after, func() { time.Sleep(delay); _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("the child failed: %s", &stderr)
	}
	return done
}

// follow reads what the child says until it ends, and has it killed in the
// middle. A line without its end was not said.
func follow(t *testing.T, out io.Reader, log map[string]string, after int, kill func()) (done int) {
	in := bufio.NewReader(out)
	for killed := false; ; {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			return done
		}
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(line)
		log[f[2]] = f[0] + " " + f[1]
		if f[0] == "done" {
			done++
		}
		if done == after && !killed {
			killed = true
			go kill()
		}
	}
}

func verifyLog(t *testing.T, path string, log map[string]string) {
	t.Helper()
	s, err := tryOpen(path)
	if err != nil {
		t.Fatalf("after the kill: %v", err)
	}
	defer s.Close()
	found, rotations := map[string]access.Status{}, map[string]byte{}
	err = s.Follow(context.Background(), func(c store.Change) { // checks all tags and tenant_keys
		if c.Key != nil {
			found[string(c.Key.ID[:])] = c.Key.Status
			rotations[string(c.Key.ID[:])] = c.Key.Digest[31]
		}
	})
	if err != nil {
		t.Fatalf("after the kill: %v", err)
	}
	buried := map[[32]byte]bool{}
	for _, e := range mustRevoked(t, s) {
		buried[e.digest] = true
	}
	for id, said := range log {
		status, there := found[id]
		if !fits(said, there, status, rotations[id]) {
			t.Fatalf("key %s: the child said %q, found %v as %s", id, said, there, status)
		}
	}
	for id, status := range found {
		if _, ok := log[id]; !ok {
			t.Fatalf("key %s was never made", id)
		}
		for n := range rotations[id] {
			if !buried[digestOf(access.KeyID([]byte(id)), n)] {
				t.Fatalf("key %s: secret %d of %d was rotated away and is not in the list of revocations", id, n, rotations[id])
			}
		}
		if status == access.StatusRevoked && (!buried[digestOf(access.KeyID([]byte(id)), rotations[id])] || !buried[keyMark(access.KeyID([]byte(id)))]) {
			t.Fatalf("key %s was revoked and is not in the list of revocations", id)
		}
	}
}

func mustRevoked(t *testing.T, s *Store) []entry {
	t.Helper()
	entries, _, err := readRevoked(s.side.path, newTagger(s.master.Derive(tagPurpose)))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// fits tells whether what is found of a key is what may be after the last
// thing said of it.
func fits(said string, there bool, status access.Status, rotations byte) bool {
	verb, n, rotated := strings.Cut(said, ":")
	if rotated {
		at, err := strconv.Atoi(n)
		return err == nil && there && status == access.StatusActive &&
			(int(rotations) == at || verb == "try rotate" && int(rotations) == at-1)
	}
	switch said {
	case "done create":
		return there && status == access.StatusActive
	case "done revoke":
		return there && status == access.StatusRevoked
	case "try revoke":
		return there && (status == access.StatusActive || status == access.StatusRevoked)
	}
	return !there || status == access.StatusActive
}
