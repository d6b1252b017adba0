package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keytoll/keytoll/caddymodule/store"
)

// usageOf lists keys and values, each behind the other.
func usageOf(t *testing.T, s store.Store, from, to []byte) (list []string) {
	t.Helper()
	view(t, s, func(r store.Reader) error {
		return r.Usage(from, to, func(key, value []byte) bool {
			list = append(list, string(key), string(value))
			return true
		})
	})
	return list
}

func testUsage(t *testing.T, open Opener) {
	dir := t.TempDir()
	s := open(t, dir)
	same(t, "no usage", usageOf(t, s, nil, nil), []string(nil))
	seen := follow(t, s)
	long := bytes.Repeat([]byte{0xff}, 1024)
	update(t, s, func(tx store.Tx) error {
		key, value := []byte("b"), []byte("1")
		err := tx.PutUsage(key, value)
		key[0], value[0] = 'x', 'x' // the caller's own
		return errors.Join(err, tx.PutUsage([]byte("a\x00"), []byte{}), tx.PutUsage([]byte("a"), []byte("2")), tx.PutUsage([]byte("c"), []byte("3")),
			tx.PutUsage(long, []byte("4")), tx.PutUsage([]byte("c"), nil), tx.PutUsage([]byte("never"), nil), tx.PutUsage([]byte("b"), []byte("5")))
	})
	_ = s.Update(context.Background(), func(tx store.Tx) error { return errors.Join(tx.PutUsage([]byte("d"), []byte("x")), errStop) })
	for _, key := range [][]byte{nil, {}, append(long, 0)} {
		if s.Update(context.Background(), func(tx store.Tx) error { return tx.PutUsage(key, []byte("x")) }) == nil {
			t.Fatalf("usage was put under a key of %d bytes", len(key))
		}
	}
	same(t, "changes", seen.log, []string(nil))
	_ = s.Close()
	s = open(t, dir)
	defer s.Close()
	all := []string{"a", "2", "a\x00", "", "b", "5", string(long), "4"}
	for _, c := range []struct {
		from, to []byte
		want     []string
	}{
		{nil, nil, all}, {[]byte{}, nil, all}, {[]byte("a"), nil, all}, {nil, []byte{}, nil}, {nil, []byte("a"), nil},
		{nil, []byte("b"), all[:4]}, {[]byte("a\x00"), []byte("b\x00"), all[2:6]}, {[]byte("aa"), nil, all[4:]},
		{[]byte("b"), []byte("b"), nil}, {[]byte("c"), []byte("a"), nil}, {long, nil, all[6:]}, {append(long, 0), nil, nil},
	} {
		same(t, fmt.Sprintf("usage from %q to %q", c.from, c.to), usageOf(t, s, c.from, c.to), c.want)
	}
	n := 0
	view(t, s, func(r store.Reader) error {
		return r.Usage(nil, nil, func(key, value []byte) bool { // the caller's own, too
			n++
			key[0], value = 'x', append(value, 'x')
			return len(value) > 1
		})
	})
	same(t, "records before yield said no", n, 2)
	same(t, "usage", usageOf(t, s, nil, nil), all)
}

// What is read can be folded as it is read.
func testFoldUsage(t *testing.T, open Opener) {
	s := start(t, open)
	const records = 2000
	update(t, s, func(tx store.Tx) error {
		for i := range records {
			if err := tx.PutUsage(fmt.Appendf(nil, "m/%04d", i), []byte(strings.Repeat("x", 100))); err != nil {
				return err
			}
		}
		return nil
	})
	n := 0
	update(t, s, func(tx store.Tx) (failed error) {
		n = 0
		err := tx.Usage([]byte("m/"), []byte("m0"), func(key, _ []byte) bool {
			n++
			folded := append([]byte("h/"), key[2:len(key)-1]...)
			failed = errors.Join(tx.PutUsage(key, nil), tx.PutUsage(folded, []byte(strings.Repeat("y", 100))))
			return failed == nil
		})
		return errors.Join(err, failed)
	})
	same(t, "records read", n, records)
	same(t, "records left", len(usageOf(t, s, []byte("m"), nil)), 0)
	same(t, "folded", len(usageOf(t, s, nil, []byte("m")))/2, records/10)
}
