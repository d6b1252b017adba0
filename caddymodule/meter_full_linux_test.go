package caddymodule

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

// A full disk refuses those alone who have no counter yet, or serves them
// without, as the configuration says. Others are charged as ever, and all are
// once there is room.
func TestFullDiskHasNoRoomForNewTenants(t *testing.T) {
	for word, want := range map[string]int{"refuse": 503, "serve": 200} {
		t.Run(word, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
				t.Skip("no file system can be mounted here:", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
			b := newBareGate(t, dir, meterBare+fmt.Sprintf(`,"metering":{"on_failure":%q}`, word), `"charges":[{"credits":1}]`)
			b.start()
			_, old := b.key(hourly(1000))
			fresh := b.keyOf("fresh")
			send := func(key string) int {
				w := &statusWriter{nullWriter: nullWriter{http.Header{}}}
				if err := b.handler.ServeHTTP(w, b.request(key), nextOK); err != nil {
					t.Fatal(err)
				}
				return w.status
			}
			if got := send(old); got != 200 {
				t.Fatal(got)
			}
			counters := b.handler.app.metering.Counters
			filler := fillDisk(t, dir)
			var id [16]byte
			for n := uint64(1); ; n++ {
				binary.BigEndian.PutUint64(id[:], n)
				if _, err := counters.Slot(id); errors.Is(err, syscall.ENOSPC) {
					break
				} else if err != nil || n > 1<<20 {
					t.Fatal(n, err)
				}
			}
			if counters.Err() == nil || counters.Risk() != nil {
				t.Fatal(counters.Err(), counters.Risk())
			}
			before := b.spent(t)
			for range 5 {
				if got := send(old); got != 200 {
					t.Errorf("a tenant with counters: %d", got)
				}
			}
			if got := b.spent(t) - before; got != 5*credits {
				t.Errorf("charged %s", got)
			}
			if got := send(fresh); got != want {
				t.Errorf("a tenant without: %d, want %d", got, want)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			eventually(t, "room", func() bool { return counters.Err() == nil })
			if got := send(fresh); got != 200 {
				t.Errorf("once there is room: %d", got)
			}
			if got := b.spent(t) - before; got != 5*credits {
				t.Errorf("after it: charged %s", got)
			}
		})
	}
}

// keyOf returns a key of a tenant of its own.
func (b *bareGate) keyOf(tenant string) string {
	b.t.Helper()
	reg := b.handler.app.registrar.Load()
	if err := reg.EnsureTenant(b.t.Context(), registrar.CreateTenantRequest{ID: tenant}); err != nil {
		b.t.Fatal(err)
	}
	req := hourly(1000)
	req.Tenant = tenant
	_, secret, err := reg.CreateKey(b.t.Context(), req)
	if err != nil {
		b.t.Fatal(err)
	}
	return secret.Reveal()
}

// fillDisk takes all room there is and returns the file that has it.
func fillDisk(t *testing.T, dir string) (path string) {
	t.Helper()
	path = filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for range 1 << 12 {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) || errors.Is(err, io.ErrShortWrite) {
			return path
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the disk does not get full")
	return ""
}
