//go:build !unix

package caddymodule

import "errors"

func shortenQueue(uintptr) error { return errors.ErrUnsupported }
