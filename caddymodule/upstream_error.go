package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// upstreamTrouble says in our own words why the API did not answer. Texts that
// may quote what the API sent are left out: it has been told secrets, and a
// broken one may send them back.
func upstreamTrouble(err error) string {
	var (
		op          *net.OpError
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
		timeout     interface{ Timeout() bool }
	)
	switch {
	case errors.As(err, &name):
		return "its name cannot be looked up: " + name.Error()
	case errors.As(err, &op):
		return op.Error() // addresses, and the system's words
	case errors.As(err, &certificate):
		return "its certificate is not good for its name, or nobody trusted has signed it"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "it did not answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection before it answered"
	}
	if he := (caddyhttp.HandlerError{}); errors.As(err, &he) && he.Err != nil && he.Err.Error() == "no upstreams available" {
		return he.Err.Error()
	}
	return "its answer is not one of HTTP, or broke off"
}
