//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package boltstore

import "os"

// release closes a file that bbolt left behind when it panicked.
func release(f *os.File) { _ = f.Close() }
