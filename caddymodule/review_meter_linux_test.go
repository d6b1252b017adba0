package caddymodule

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// While the disk does not take what was counted, requests are refused or served
// as the configuration says; what is served is counted, and it is over when the
// disk is well again.
func TestCountersThatCannotBeWritten(t *testing.T) {
	for word, want := range map[string]int{"refuse": 503, "serve": 200} {
		t.Run(word, func(t *testing.T) {
			b := newBareGate(t, t.TempDir(), meterBare+fmt.Sprintf(`,"metering":{"on_failure":%q}`, word), `"charges":[{"credits":1}]`)
			b.start()
			_, key := b.key(hourly(1000))
			send := func() int {
				w := &statusWriter{nullWriter: nullWriter{http.Header{}}}
				if err := b.handler.ServeHTTP(w, b.request(key), nextOK); err != nil {
					t.Fatal(err)
				}
				return w.status
			}
			if got := send(); got != 200 {
				t.Fatal(got)
			}
			counters := b.handler.app.metering.Counters
			heal := breakSyncs(t, b.dir)
			if counters.Flush() == nil {
				t.Fatal("the sync did not fail")
			}
			before := b.spent(t)
			if got := send(); got != want {
				t.Errorf("%d, want %d", got, want)
			}
			if got := b.spent(t) - before; (want == 200) != (got == credits) {
				t.Errorf("charged %s", got)
			}
			heal()
			if err := counters.Flush(); err != nil {
				t.Fatal(err)
			}
			if got := send(); got != 200 {
				t.Errorf("%d after the disk is well again", got)
			}
		})
	}
}

// breakSyncs has every sync of the counters below dir fail, until heal.
func breakSyncs(t testing.TB, dir string) (heal func()) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	for _, e := range entries {
		path, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if !strings.HasPrefix(path, dir) || !strings.HasSuffix(path, ".counters") {
			continue
		}
		fd, _ := strconv.Atoi(e.Name())
		kept, err := unix.Dup(fd)
		if err != nil {
			t.Fatal(err)
		}
		blind, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0) // its size is known, and nothing more can be done
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(blind, fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(blind)
		healed := false
		heal = func() {
			if !healed {
				healed = true
				_ = unix.Dup3(kept, fd, unix.O_CLOEXEC)
				_ = unix.Close(kept)
			}
		}
		t.Cleanup(heal)
		return heal
	}
	t.Fatal("the counters are not open")
	return nil
}

type statusWriter struct {
	nullWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) { w.status = status }
