package boltstore

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"time"
)

var le = binary.LittleEndian

// writer appends the variable part of a record.
type writer struct {
	b    []byte
	over bool // something was longer than its length field can say
}

func (w *writer) count(n int) {
	w.over = w.over || n > math.MaxUint16
	w.b = le.AppendUint16(w.b, uint16(n))
}

func (w *writer) text(s string) {
	w.count(len(s))
	w.b = append(w.b, s...)
}

func (w *writer) bytes(b []byte) {
	w.count(len(b))
	w.b = append(w.b, b...)
}

func (w *writer) texts(list []string) {
	w.count(len(list))
	for _, s := range list {
		w.text(s)
	}
}

func (w *writer) metadata(m map[string]string) {
	w.count(len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		w.text(k)
		w.text(m[k])
	}
}

// reading takes the variable part of a record apart. After the first thing
// that does not fit it is bad and gives only zero values.
type reading struct {
	b   []byte
	bad bool
}

// count reads the length of a list whose items take at least size bytes.
func (r *reading) count(size int) int {
	if r.bad || len(r.b) < 2 {
		r.bad = true
		return 0
	}
	n := int(le.Uint16(r.b))
	if n*size > len(r.b)-2 {
		r.bad = true
		return 0
	}
	r.b = r.b[2:]
	return n
}

func (r *reading) bytes() []byte {
	n := r.count(1)
	s := r.b[:n]
	r.b = r.b[n:]
	return s
}

func (r *reading) text() string { return string(r.bytes()) }

// take reads n bytes; it returns zeros if there are not as many.
func (r *reading) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// texts reads a list of strings; nil if it is empty.
func (r *reading) texts() []string {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	list := make([]string, n)
	for i := range list {
		list[i] = r.text()
	}
	return list
}

func (r *reading) metadata() map[string]string {
	n := r.count(4)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := r.text()
		m[k] = r.text()
	}
	r.bad = r.bad || len(m) != n
	return m
}

func (r *reading) time(b []byte) time.Time {
	nsec := le.Uint32(b[8:])
	r.bad = r.bad || nsec >= 1e9
	return time.Unix(int64(le.Uint64(b)), int64(nsec)).UTC()
}

func (w *writer) time(t time.Time) {
	w.b = append(w.b, make([]byte, timeLen)...)
	putTime(w.b[len(w.b)-timeLen:], t)
}

func putTime(b []byte, t time.Time) {
	le.PutUint64(b, uint64(t.Unix()))
	le.PutUint32(b[8:], uint32(t.Nanosecond()))
}
