package boltstore

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/keytoll/keytoll/caddymodule/store"
)

// fault is an error of a kind the contract names, in words of its own.
type fault struct {
	kind  error
	text  string
	cause error
}

func (f *fault) Error() string { return f.text }

func (f *fault) Unwrap() []error {
	if f.cause == nil {
		return []error{f.kind}
	}
	return []error{f.kind, f.cause}
}

func fail(kind error, format string, args ...any) error {
	return &fault{kind: kind, text: fmt.Sprintf(format, args...)}
}

// damaged says what does not hold together in the database at path.
func damaged(path, format string, args ...any) error {
	return fail(store.ErrDamaged, "database %s is damaged: %s: restore a backup of this file", path, fmt.Sprintf(format, args...))
}

// guard runs fn, which reads pages of the database. A panic of bbolt, or of
// reading past the end of the file, becomes ErrDamaged.
func guard(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damaged(path, "%v", p)
		}
	}()
	return fn()
}

// storageError names the file in an error of bbolt or the system, unless it is
// one that names it already.
func storageError(path string, err error) error {
	var f *fault
	if err == nil || errors.As(err, &f) {
		return err
	}
	return fmt.Errorf("database %s: %w", path, err)
}
