package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// startTime is how long a process may take from its start to its first answer.
const startTime = 60 * time.Second

// process is a running Caddy of one variant.
type process struct {
	*variant
	addr   string
	pid    int
	admin  *http.Client
	cancel context.CancelFunc
	done   chan struct{} // closed when the process has ended
	client *client

	samples []sample
	times   []time.Duration
	rss     []int64
	allocs  []float64
}

// tail keeps the last bytes that a process wrote to stderr.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-most):]
	return len(p), nil
}

// setup is what all processes have in common.
type setup struct {
	caddy, dir, store, upstream, master string
}

// start runs a variant and returns when it answers as it should. The process
// ends with ctx.
func (s *setup) start(ctx context.Context, v *variant, key []byte) (*process, error) {
	dir := filepath.Join(s.dir, v.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p := place{admin: filepath.Join(dir, "admin.sock"), listen: listen, upstream: s.upstream, store: filepath.Join(dir, "store", databaseName)}
	if v.gate {
		if err := copyStore(s.store, filepath.Dir(p.store)); err != nil {
			return nil, fmt.Errorf("copying the store: %w", err)
		}
	}
	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(v.caddyfile(p)), 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	proc := &process{variant: v, addr: listen, cancel: cancel, done: make(chan struct{}), admin: adminClient(p.admin)}
	stderr := new(tail)
	cmd := exec.CommandContext(ctx, s.caddy, "run", "--adapter", "caddyfile", "--config", config)
	cmd.Stderr = stderr // stdout, and with it the access log, goes to /dev/null
	cmd.Env = append(environ(dir), "KEYTOLL_MASTER_KEY="+s.master)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	proc.pid = cmd.Process.Pid
	go func() {
		_ = cmd.Wait()
		close(proc.done)
	}()
	if err := proc.ready(ctx, key); err != nil {
		proc.stop()
		return nil, fmt.Errorf("%s: %w\n%s", v.name, err, bytes.TrimSpace(stderr.buf))
	}
	return proc, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	if p.client != nil {
		p.client.close()
	}
	p.cancel()
	<-p.done
}

// environ is the environment of a Caddy that keeps its files in dir. GOGC and
// its like are not handed on.
func environ(dir string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "TMPDIR=" + dir}
}

func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// status is what every answer of the variant must have.
func (v *variant) status() int {
	if v.bad {
		return http.StatusUnauthorized
	}
	return http.StatusOK
}

// ready waits for the first answer and checks what it is.
func (p *process) ready(ctx context.Context, key []byte) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		status, text, err := ask(ctx, p.addr, echoPath, key)
		if err == nil {
			return p.checkAnswer(status, text)
		}
		select {
		case <-p.done:
			return errors.New("the process has ended")
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// checkAnswer sees that the variant does the work it is measured for. The
// upstream answered with the headers it saw.
func (p *process) checkAnswer(status int, text string) error {
	if status != p.status() {
		return fmt.Errorf("answered %d, want %d", status, p.status())
	}
	if p.bad {
		return nil
	}
	head, seen, _ := strings.Cut(text, "\r\n\r\n")
	n := 0
	for _, name := range []string{"X-Tenant-Id", "X-Key-Id", "X-Plan", "X-Environment", "X-Tenant-Name"} {
		if strings.Contains(seen, "\r\n"+name+": ") {
			n++
		}
	}
	if n != p.sees {
		return fmt.Errorf("the upstream saw %d identity headers, want %d", n, p.sees)
	}
	if p.gate == strings.Contains(seen, "\r\nAuthorization: ") {
		return errors.New("the key: bare Caddy must hand it on, and the gate must not")
	}
	if want := p.gate && p.name != "identity"; want != strings.Contains(strings.ToLower(head), "\r\nx-ratelimit-limit: ") {
		return fmt.Errorf("rate headers in the answer: want %t", want)
	}
	return nil
}

// adminClient talks to the admin endpoint on a unix socket.
func adminClient(path string) *http.Client {
	var d net.Dialer
	return &http.Client{
		Timeout: 15 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		}},
	}
}

// mallocs returns how many heap objects the process has ever allocated.
func (p *process) mallocs(ctx context.Context) (uint64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1/debug/vars", nil)
	if err != nil {
		return 0, err
	}
	res, err := p.admin.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return 0, err
	}
	var vars struct {
		Memstats struct{ Mallocs uint64 } `json:"memstats"`
	}
	if err := json.Unmarshal(text, &vars); err != nil || vars.Memstats.Mallocs == 0 {
		return 0, fmt.Errorf("reading /debug/vars: status %d: %w", res.StatusCode, err)
	}
	return vars.Memstats.Mallocs, nil
}
