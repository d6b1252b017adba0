package boltstore

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytoll/keytoll/caddymodule/store"
	"github.com/keytoll/keytoll/caddymodule/token"
)

func master(t *testing.T) *token.Master {
	t.Helper()
	path := filepath.Join(t.TempDir(), masterFile)
	m, err := makeMaster(path)
	if err != nil {
		t.Fatal(err)
	}
	return &m
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != want {
		t.Fatalf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
	}
}

func TestNewFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	path := filepath.Join(dir, "keytoll.db")
	s := mustOpen(t, path)
	wantMode(t, dir, 0o700)
	wantMode(t, filepath.Dir(dir), 0o700)
	for _, name := range []string{"keytoll.db", "keytoll.db.commits", masterFile} {
		wantMode(t, filepath.Join(dir, name), 0o600)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 3 {
		t.Fatalf("files left over: %v, %v", list, err)
	}
	first := s.Master()
	s.Close()
	s = mustOpen(t, path)
	if !s.Master().Equal(first) {
		t.Fatal("another master key at the second opening")
	}
}

func TestMasterKey(t *testing.T) {
	path := sample(t)
	file := filepath.Join(filepath.Dir(path), masterFile)
	text := readFile(t, file)
	check := func(what string, opt Options, words ...string) {
		t.Helper()
		opt.Path = path
		_, err := openWith(opt)
		if !errors.Is(err, store.ErrMasterKey) {
			t.Fatalf("%s: %v", what, err)
		}
		for _, w := range append(words, filepath.Dir(path)) {
			if !strings.Contains(err.Error(), w) {
				t.Fatalf("%s: %q does not say %q", what, err, w)
			}
		}
		if strings.Contains(err.Error(), strings.TrimSpace(string(text))) {
			t.Fatalf("%s: the error holds the key", what)
		}
	}
	check("wrong key", Options{Master: master(t)}, "master_key")
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		check("file others can read", Options{}, "chmod 600 "+file)
	}
	os.Remove(file)
	check("no key", Options{}, "set master_key", file)
	if _, err := os.Stat(file); err == nil {
		t.Fatal("a new master key was made for an old database")
	}
	os.WriteFile(file, []byte("not a key\n"), 0o600)
	check("no key in the file", Options{}, file)
	m, err := token.ParseMaster(string(text))
	if err != nil {
		t.Fatal(err)
	}
	s, err := openWith(Options{Path: path, Master: &m})
	if err != nil {
		t.Fatal("the right key, configured:", err)
	}
	s.Close()
}

// A configured key is not written anywhere.
func TestConfiguredMaster(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	m := master(t)
	s, err := openWith(Options{Path: path, Master: m})
	if err != nil {
		t.Fatal(err)
	}
	if !s.Master().Equal(*m) {
		t.Fatal("not the configured key")
	}
	s.Close()
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), masterFile)); err == nil {
		t.Fatal("a key file was made")
	}
	if bytes.Contains(readFile(t, path), []byte(m.Text())) {
		t.Fatal("the key is in the database")
	}
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	s := mustOpen(t, path)
	_, err := openWith(Options{Path: path, Timeout: 10 * time.Millisecond})
	want := "database " + path + " is open in another process (is caddy already running?)"
	if !errors.Is(err, store.ErrLocked) || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	b, _ := New(Options{Path: path, Timeout: time.Hour})
	if _, err := b.Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { s.Close() })
	late, err := openWith(Options{Path: path, Timeout: time.Minute})
	if err != nil {
		t.Fatal("the lock was let go and not taken:", err)
	}
	late.Close()
}

// Many first starts at once: one database, one key.
func TestFirstStartRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keytoll.db")
	masters := make([]token.Master, 6)
	var group sync.WaitGroup
	for i := range masters {
		group.Go(func() {
			s, err := openWith(Options{Path: path, Timeout: time.Minute})
			if err != nil {
				t.Error(err)
				return
			}
			masters[i] = s.Master()
			s.Close()
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for _, m := range masters {
		if !m.Equal(masters[0]) {
			t.Fatal("two master keys")
		}
	}
}

func TestInstallReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	for _, fn := range []func(tmp, path string) error{install, installWithoutLink} {
		tmp, path := filepath.Join(dir, "tmp"), filepath.Join(dir, "path")
		os.WriteFile(tmp, []byte("new"), 0o600)
		os.WriteFile(path, []byte("old"), 0o600)
		if err := fn(tmp, path); !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		if got := readFile(t, path); string(got) != "old" {
			t.Fatalf("replaced by %q", got)
		}
		os.Remove(path)
		if err := fn(tmp, path); err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, path); string(got) != "new" {
			t.Fatalf("got %q", got)
		}
	}
}

func TestIdentity(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	os.Mkdir(real, 0o700)
	if err := os.Symlink(real, link); err != nil {
		t.Skip("no links here:", err)
	}
	want := filepath.Join(real, "sub", "keytoll.db")
	for range 2 { // before and after the database is there
		for _, path := range []string{want, filepath.Join(link, "sub", "keytoll.db"), filepath.Join(link, ".", "sub", "x", "..", "keytoll.db")} {
			b, err := New(Options{Path: path})
			if err != nil || b.Identity() != want {
				t.Fatalf("%s: %s, %v; want %s", path, b.Identity(), err, want)
			}
		}
		mustOpen(t, filepath.Join(link, "sub", "keytoll.db")).Close()
	}
	t.Chdir(real)
	if b, _ := New(Options{Path: "sub/keytoll.db"}); b.Identity() != want {
		t.Fatal(b.Identity())
	}
	if _, err := New(Options{}); err == nil {
		t.Fatal("an empty path was taken")
	}
}

func TestNotAFile(t *testing.T) {
	if _, err := tryOpen(t.TempDir()); !errors.Is(err, store.ErrDamaged) {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		return // to root no directory is closed
	}
	dir := t.TempDir()
	os.Chmod(dir, 0o500)
	if _, err := tryOpen(filepath.Join(dir, "keytoll.db")); !errors.Is(err, os.ErrPermission) {
		t.Fatal(err)
	}
}
