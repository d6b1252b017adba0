package usage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// FileSink writes events as lines of JSON. It is for one Exporter.
type FileSink struct {
	w    io.Writer
	torn bool // the last line may have no end
}

// NewFileSink returns a sink that appends to w, each batch in one Write, and
// makes it durable if w has the method Sync. A crash may leave a last line that
// is cut off: it is ended, and its event written again whole.
func NewFileSink(w io.Writer) *FileSink { return &FileSink{w: w, torn: mayBeTorn(w)} }

// mayBeTorn reports whether a file may end within a line.
func mayBeTorn(w io.Writer) bool {
	f, ok := w.(interface{ Stat() (fs.FileInfo, error) })
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err != nil
	}
	r, ok := w.(io.ReaderAt)
	if !ok {
		return true
	}
	var last [1]byte
	_, err = r.ReadAt(last[:], info.Size()-1)
	return err != nil || last[0] != '\n'
}

// Send implements Sink.
func (s *FileSink) Send(ctx context.Context, events []Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var b bytes.Buffer
	if s.torn {
		b.WriteByte('\n')
	}
	enc := json.NewEncoder(&b) // ends each with a line feed
	for i := range events {
		if err := enc.Encode(&events[i]); err != nil {
			return err
		}
	}
	s.torn = true
	n, err := s.w.Write(b.Bytes())
	if err == nil && n < b.Len() {
		err = io.ErrShortWrite
	}
	if err != nil {
		return err
	}
	s.torn = false
	if f, ok := s.w.(interface{ Sync() error }); ok {
		return f.Sync()
	}
	return nil
}

// HTTPOptions is what an HTTPSink works with.
type HTTPOptions struct {
	URL string // https, or http on trusted ground. Required
	// Header is sent along, such as Authorization. It never gets into an error.
	Header http.Header
	// Timeout of a request. Default: 30 seconds.
	Timeout time.Duration
	// Transport carries the requests; nil is http.DefaultTransport.
	Transport http.RoundTripper
	// Now tells the time; nil is time.Now.
	Now func() time.Time
}

// HTTPSink posts events as JSON arrays, in the batched mode of CloudEvents. An
// answer of 2xx acknowledges them. It is safe for concurrent use.
type HTTPSink struct {
	o      HTTPOptions
	client *http.Client
}

// NewHTTPSink returns a sink for a URL, or what is wrong with it.
func NewHTTPSink(o HTTPOptions) (*HTTPSink, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return nil, errors.New("usage export: want an http or https URL, with no user in it")
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Header = o.Header.Clone()
	if o.Header == nil {
		o.Header = make(http.Header)
	}
	o.Header.Set("Content-Type", "application/cloudevents-batch+json")
	c := &http.Client{Transport: o.Transport, Timeout: o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &HTTPSink{o, c}, nil
}

// Send implements Sink.
func (s *HTTPSink) Send(ctx context.Context, events []Event) error {
	body, err := json.Marshal(events)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.o.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("making the request")
	}
	req.Header = s.o.Header.Clone()
	resp, err := s.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL, which may hold a secret
		}
		return fmt.Errorf("sending events: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection serves again
	switch c := resp.StatusCode; {
	case c >= 200 && c < 300:
		return nil
	case c == http.StatusRequestEntityTooLarge:
		return fmt.Errorf("the receiver answered %d: %w", c, ErrTooLarge)
	default:
		return s.refused(resp)
	}
}

// refused returns the error of an answer, with when to try again if it says so.
func (s *HTTPSink) refused(resp *http.Response) error {
	err := fmt.Errorf("the receiver answered %d", resp.StatusCode)
	after := resp.Header.Get("Retry-After")
	if n, e := strconv.ParseUint(after, 10, 31); e == nil {
		return &RetryError{time.Duration(n) * time.Second, err}
	}
	if t, e := http.ParseTime(after); e == nil {
		return &RetryError{max(t.Sub(s.o.Now()), 0), err}
	}
	return err
}
