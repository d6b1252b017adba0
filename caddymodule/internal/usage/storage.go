package usage

import (
	"context"
	"errors"
)

// Errors of this package, wrapped in text that says more.
var (
	// ErrDamaged: a stored record cannot be read.
	ErrDamaged = errors.New("usage record is damaged")
	// ErrTooMuch: a query asks for more steps or points than are given at once.
	ErrTooMuch = errors.New("too much usage asked for at once")
)

// Storage keeps opaque values under opaque keys, in the order of the keys' bytes.
// One Recorder uses it at a time. It must be safe for concurrent use.
type Storage interface {
	// Update makes the changes of fn durable, in their order. After an error or a
	// crash any number of the first of them may have been made. fn has no other
	// effects and may run more than once. Keys and values belong to the caller
	// again when Update returns.
	Update(ctx context.Context, fn func(Writer) error) error
	// Range calls yield for the keys from from, before to, in order, until it
	// returns false. What yield is given is good until it returns; it must not
	// call the Storage.
	Range(ctx context.Context, from, to []byte, yield func(key, value []byte) bool) error
}

// Writer makes the changes of one Update.
type Writer interface {
	// Put stores a value under a key, in place of any other.
	Put(key, value []byte) error
	// Delete removes a key, if it is there.
	Delete(key []byte) error
}

// firstUnit returns the unit of the first row from from, before to.
func firstUnit(ctx context.Context, s Storage, from, to []byte) (unit uint32, ok bool, err error) {
	k, _, err := first(ctx, s, from, to)
	if err != nil || k == nil {
		return 0, false, err
	}
	unit, err = unitOf(k)
	return unit, err == nil, err
}

// first returns the first key and value from from, before to; nil if there is
// none.
func first(ctx context.Context, s Storage, from, to []byte) (key, value []byte, err error) {
	err = s.Range(ctx, from, to, func(k, v []byte) bool {
		key, value = append([]byte{}, k...), append([]byte{}, v...)
		return false
	})
	return key, value, err
}
