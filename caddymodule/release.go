package caddymodule

import (
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// releaser lets go of a request's body when it is answered before the body was
// read to its end.
type releaser struct {
	caddyhttp.ResponseWriterWrapper
	r    *http.Request
	body *endNoter
}

// releasing returns what to answer a request by that may be answered early.
func releasing(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request) {
	if r.Body == nil || r.Body == http.NoBody {
		return w, r
	}
	out := &releaser{r: r, body: &endNoter{ReadCloser: r.Body}}
	out.ResponseWriter = w
	in := *r
	in.Body = out.body
	return out, &in
}

// WriteHeader implements http.ResponseWriter.
func (l *releaser) WriteHeader(status int) {
	if !l.body.end {
		releaseBody(l.ResponseWriter, l.r)
	}
	l.ResponseWriter.WriteHeader(status)
}

// endNoter is a body that knows whether it was read to its end.
type endNoter struct {
	io.ReadCloser
	end bool
}

// Read implements io.Reader.
func (b *endNoter) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.end = b.end || err == io.EOF
	return n, err
}
