package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
)

// upstreamWord as the only argument makes this program the upstream.
const upstreamWord = "upstream"

// echoPath is answered with the head of the request as it arrived.
const echoPath = "/echo"

const bodySize = 1024

// answerText is the fixed answer: 8 headers and a body of 1 KiB.
var answerText = "HTTP/1.1 200 OK\r\n" +
	"Server: upstream\r\n" +
	"Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n" +
	"Content-Type: application/json\r\n" +
	fmt.Sprintf("Content-Length: %d\r\n", bodySize) +
	"Cache-Control: private, max-age=0\r\n" +
	"Etag: \"5f2b9c1d\"\r\n" +
	"Vary: Accept-Encoding\r\n" +
	"X-Request-Id: 6d1f0a52c9e84b7f\r\n\r\n" +
	`"` + strings.Repeat("x", bodySize-2) + `"`

// serveUpstream answers requests without a body until stdin ends, so that it
// never outlives the program that started it.
func serveUpstream(stdin io.Reader, stdout io.Writer) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	fmt.Fprintln(stdout, ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		ln.Close()
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			return nil // closed above
		}
		go answerAll(c)
	}
}

func answerAll(c net.Conn) {
	defer c.Close()
	r := bufio.NewReaderSize(c, 16<<10)
	fixed, echo := []byte(answerText), []byte("GET "+echoPath+" ")
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if bytes.HasPrefix(line, echo) {
			err = answerEcho(c, r)
		} else if err = skipHead(r); err == nil {
			_, err = c.Write(fixed)
		}
		if err != nil {
			return
		}
	}
}

func skipHead(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			return nil
		}
	}
}

func answerEcho(w io.Writer, r *bufio.Reader) error {
	var head strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		head.WriteString(line)
	}
	_, err := fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", head.Len(), head.String())
	return err
}

// startUpstream starts this program as the upstream and returns its address.
// It ends with ctx, or when stop is called.
func startUpstream(ctx context.Context) (addr string, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, self, upstreamWord)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		in.Close()
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("starting the upstream: %w", err)
	}
	return strings.TrimSpace(line), stop, nil
}
