package boltstore

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

// Parts of bbolt's file format, version 2.
const (
	pageHeader = 16 // id uint64, flags uint16, count uint16, overflow uint32
	elemLen    = 16 // of branch and leaf elements alike
	flagBranch = 0x01
	flagLeaf   = 0x02
	flagBucket = 0x01 // of a leaf element
	metaLen    = 80   // header and meta

	metaRoot = pageHeader + 16
	metaPgid = pageHeader + 40
	metaTxid = pageHeader + 48
)

var ne = binary.NativeEndian

// walker sees that all pages that can be reached lie within the file and their
// elements within them, and that there is no circle. bbolt's own check assumes
// as much, and it runs in a goroutine of its own, where a memory fault would be
// the end of the process.
type walker struct {
	data []byte
	page uint64 // size
	high uint64 // first page id that is not in use
	seen []uint64
}

// checkLayout walks the database as tx sees it. size is the length of the
// file. The caller guards it.
func checkLayout(db *bolt.DB, tx *bolt.Tx, size int64) error {
	if tx.Size() > size {
		return fmt.Errorf("the file is cut off: %d bytes of %d", size, tx.Size())
	}
	info := db.Info()
	// Info gives the address of the mapping as a number.
	start := *(*unsafe.Pointer)(unsafe.Pointer(&info.Data))
	w := walker{data: unsafe.Slice((*byte)(start), tx.Size()), page: uint64(info.PageSize)}
	meta := w.data[:metaLen]
	if ne.Uint64(meta[metaTxid:]) != uint64(tx.ID()) {
		meta = w.data[w.page:][:metaLen]
	}
	w.high = ne.Uint64(meta[metaPgid:])
	w.seen = make([]uint64, w.high/64+1)
	return w.walk(ne.Uint64(meta[metaRoot:]))
}

func (w *walker) walk(root uint64) error {
	todo := []uint64{root}
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		p, err := w.open(id)
		if err != nil {
			return err
		}
		if todo, err = w.children(p, todo); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
	}
	return nil
}

// open returns the bytes of a page that was not visited before.
func (w *walker) open(id uint64) ([]byte, error) {
	if id < 2 || id >= w.high {
		return nil, fmt.Errorf("page %d is out of bounds", id)
	}
	if w.seen[id/64]&(1<<(id%64)) != 0 {
		return nil, fmt.Errorf("page %d is used twice", id)
	}
	w.seen[id/64] |= 1 << (id % 64)
	p := w.data[id*w.page:]
	overflow := uint64(ne.Uint32(p[12:]))
	if ne.Uint64(p) != id || id+overflow >= w.high {
		return nil, fmt.Errorf("page %d has a bad header", id)
	}
	return p[:(overflow+1)*w.page], nil
}

// children checks the elements of a page and appends the pages it points at.
func (w *walker) children(p []byte, todo []uint64) ([]uint64, error) {
	flags, count := ne.Uint16(p[8:]), int(ne.Uint16(p[10:]))
	if pageHeader+count*elemLen > len(p) {
		return nil, fmt.Errorf("%d elements do not fit", count)
	}
	switch flags {
	case flagBranch:
		if count == 0 {
			return nil, fmt.Errorf("branch without elements")
		}
		for i := range count {
			at := pageHeader + i*elemLen
			e := p[at : at+elemLen]
			if uint64(at)+uint64(ne.Uint32(e))+uint64(ne.Uint32(e[4:])) > uint64(len(p)) {
				return nil, fmt.Errorf("element %d is out of bounds", i)
			}
			todo = append(todo, ne.Uint64(e[8:]))
		}
		return todo, nil
	case flagLeaf:
		return w.leaf(p, count, todo)
	}
	return nil, fmt.Errorf("neither branch nor leaf (flags %#x)", flags)
}

func (w *walker) leaf(p []byte, count int, todo []uint64) ([]uint64, error) {
	for i := range count {
		at := pageHeader + i*elemLen
		e := p[at : at+elemLen]
		value := uint64(at) + uint64(ne.Uint32(e[4:])) + uint64(ne.Uint32(e[8:]))
		size := uint64(ne.Uint32(e[12:]))
		if value+size > uint64(len(p)) {
			return nil, fmt.Errorf("element %d is out of bounds", i)
		}
		if ne.Uint32(e)&flagBucket == 0 {
			continue
		}
		// A bucket: root page and sequence, or root 0 and a page of its own within
		// the value.
		v := p[value : value+size]
		if size < 16 || ne.Uint64(v) == 0 && size < 16+pageHeader {
			return nil, fmt.Errorf("element %d is a bucket without a root", i)
		}
		if root := ne.Uint64(v); root != 0 {
			todo = append(todo, root)
			continue
		}
		if ne.Uint16(v[16+8:]) != flagLeaf {
			return nil, fmt.Errorf("element %d is a bucket that is no leaf", i)
		}
		var err error
		if todo, err = w.children(v[16:], todo); err != nil {
			return nil, fmt.Errorf("bucket in element %d: %w", i, err)
		}
	}
	return todo, nil
}
