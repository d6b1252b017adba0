package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"
)

// maxPerRound bounds the requests of one connection in one round.
const maxPerRound = 1_000_000

// requestHead is what every request looks like: an ordinary client's five
// headers, and the key.
const requestHead = "GET %s HTTP/1.1\r\n" +
	"Host: %s\r\n" +
	"User-Agent: acme-sdk/1.4.2 (linux; amd64)\r\n" +
	"Accept: application/json\r\n" +
	"Accept-Encoding: gzip\r\n" +
	"Accept-Language: en\r\n" +
	"Authorization: Bearer "

// keyring is the texts of keys, all of the same length, one after another.
type keyring struct {
	texts []byte
	width int
}

func (k *keyring) len() int { return len(k.texts) / k.width }

func (k *keyring) at(i int) []byte { return k.texts[i*k.width : (i+1)*k.width] }

// client is the connections to one process. Between rounds it is idle.
type client struct {
	keys   *keyring
	status int // that every answer must have
	conns  []*conn
}

// conn is one kept-alive connection. Only one goroutine uses it at a time.
type conn struct {
	net.Conn
	r     *bufio.Reader
	req   []byte // the request, whose key is overwritten in place
	key   []byte // the part of req that is the key
	rng   *rand.Rand
	times []time.Duration // of the last round
}

// dialAll connects n times. The address must listen already.
func dialAll(ctx context.Context, addr string, n int, keys *keyring, status int, seed uint64) (*client, error) {
	c := &client{keys: keys, status: status}
	var d net.Dialer
	for i := range n {
		raw, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			c.close()
			return nil, err
		}
		c.conns = append(c.conns, newConn(raw, addr, keys, seed, uint64(i)))
	}
	return c, nil
}

func newConn(raw net.Conn, host string, keys *keyring, seed, stream uint64) *conn {
	head := fmt.Sprintf(requestHead, "/v1/items/42?expand=owner", host)
	req := append([]byte(head), keys.at(0)...)
	req = append(req, "\r\n\r\n"...)
	return &conn{
		Conn: raw, r: bufio.NewReaderSize(raw, 16<<10), req: req,
		key: req[len(head) : len(head)+keys.width], rng: rand.New(rand.NewPCG(seed, stream)),
	}
}

func (c *client) close() {
	for _, x := range c.conns {
		x.Close()
	}
}

// run keeps every connection busy until the time is over or each has sent
// most requests, and returns how many were answered and how long each took.
// The times are valid until the next call.
func (c *client) run(ctx context.Context, d time.Duration, most int) (n int, times []time.Duration, err error) {
	end := time.Now().Add(d)
	errs := make([]error, len(c.conns))
	for _, x := range c.conns {
		// Before AfterFunc, which may set another at once.
		if err := x.SetDeadline(end.Add(10 * time.Second)); err != nil {
			return 0, nil, err
		}
	}
	stop := context.AfterFunc(ctx, func() {
		for _, x := range c.conns {
			_ = x.SetDeadline(time.Unix(1, 0)) // ends reads at once
		}
	})
	defer stop()
	var wg sync.WaitGroup
	for i, x := range c.conns {
		wg.Go(func() { errs[i] = c.drive(x, end, most) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, nil, err
	}
	for _, x := range c.conns {
		times = append(times, x.times...)
	}
	return len(times), times, ctx.Err()
}

func (c *client) drive(x *conn, end time.Time, most int) error {
	x.times = x.times[:0]
	keys := c.keys.len()
	for now := time.Now(); now.Before(end) && len(x.times) < most; {
		copy(x.key, c.keys.at(x.rng.IntN(keys)))
		if _, err := x.Write(x.req); err != nil {
			return err
		}
		status, err := readAnswer(x.r, nil)
		if err != nil {
			return err
		}
		if status != c.status {
			return fmt.Errorf("answered %d, want %d", status, c.status)
		}
		done := time.Now()
		x.times = append(x.times, done.Sub(now))
		now = done
	}
	return nil
}

var errAnswer = errors.New("not an HTTP/1.1 answer with a Content-Length")

// readAnswer reads one answer and returns its status. It copies head and body
// to keep, if that is not nil.
func readAnswer(r *bufio.Reader, keep *bytes.Buffer) (status int, err error) {
	length := -1
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if keep != nil {
			keep.Write(line)
		}
		if first {
			if status, err = parseStatus(line); err != nil {
				return 0, err
			}
			continue
		}
		if len(line) <= 2 {
			break
		}
		if n, ok := contentLength(line); ok {
			length = n
		}
	}
	if length < 0 {
		return 0, errAnswer
	}
	if keep != nil {
		_, err = io.CopyN(keep, r, int64(length))
		return status, err
	}
	_, err = r.Discard(length)
	return status, err
}

func parseStatus(line []byte) (int, error) {
	if len(line) < 12 || string(line[:9]) != "HTTP/1.1 " {
		return 0, errAnswer
	}
	return strconv.Atoi(string(line[9:12]))
}

func contentLength(line []byte) (int, bool) {
	const name = "content-length:"
	if len(line) <= len(name) || !bytes.EqualFold(line[:len(name)], []byte(name)) {
		return 0, false
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
	return n, err == nil && n >= 0
}

// ask sends one request on a connection of its own and returns the whole answer.
func ask(ctx context.Context, addr, path string, key []byte) (status int, text string, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return 0, "", err
	}
	if _, err := fmt.Fprintf(c, requestHead+"%s\r\n\r\n", path, addr, key); err != nil {
		return 0, "", err
	}
	var b bytes.Buffer
	status, err = readAnswer(bufio.NewReader(c), &b)
	return status, b.String(), err
}
