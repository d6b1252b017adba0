package counter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"unsafe"
)

// version is that of the layout. A file of another one is refused.
const version = 1

const (
	headerLen = 4096
	slotLen   = int64(unsafe.Sizeof(record{}))
	fixedAt   = 0
	stateAt   = 64
	lineLen   = 64 // of the fixed part and of the state, each with its crc
	journalAt = 128
	usedBytes = journalAt + 128 // of the header; what follows is zero
)

var magic = [8]byte{'k', 't', 'c', 'o', 'u', 'n', 't', '\n'}

// orderMark is stored as the machine stores numbers: the slots are, too.
const orderMark uint32 = 0x01020304

// Errors of Open and of the slots. They are wrapped with the file's path.
var (
	// ErrDamaged says that the file, or the slot of an id, cannot be trusted.
	ErrDamaged = errors.New("counter file is damaged")
	// ErrVersion says that the file is of another version or kind of machine.
	ErrVersion = errors.New("counter file is of another version")
	// ErrInstallation says that the file is of another installation.
	ErrInstallation = errors.New("counter file is of another installation")
	// ErrLocked says that another process has the file.
	ErrLocked = errors.New("counter file is in use by another process")
	// ErrLost says that the file was cut off while it was in use. Nothing but
	// opening it again, once it is whole, helps.
	ErrLost = errors.New("counter file was truncated while in use")
	// ErrFault says that the disk did not give or take a page.
	ErrFault = errors.New("counter file cannot be read or written")
	// ErrClosed says that the file is closed.
	ErrClosed = errors.New("counter file is closed")
	// ErrOverflow says that a sum is not an int64. Nothing was changed.
	ErrOverflow = errors.New("counter overflow")
	// ErrTurned says that a new period began while a lease was being made.
	ErrTurned = errors.New("a new period began")
)

// record is a slot in the mapped file. It is one cache line, so that the disk
// never gets a later one of its stores without the earlier ones.
type record struct {
	id       [2]atomic.Uint64
	period   atomic.Int64
	carried  atomic.Int64
	used     atomic.Int64
	leased   atomic.Int64 // durable: may be spent up to here
	promised atomic.Int64 // on its way to the disk; leased follows
	turns    atomic.Uint32
	crc      atomic.Uint32 // of id and number; 0 until the slot is whole
}

// values are the numbers of a record in the order in which Turn stores them.
type values [5]int64

func (r *record) words() [5]*atomic.Int64 {
	return [5]*atomic.Int64{&r.period, &r.carried, &r.used, &r.leased, &r.promised}
}

func (r *record) values() (v values) {
	for i, w := range r.words() {
		v[i] = w.Load()
	}
	return v
}

func (r *record) store(v values) {
	for i, w := range r.words() {
		w.Store(v[i])
	}
}

// birth makes the slot that of id. The crc is last: without it the slot is
// free.
func (r *record) birth(n uint32, id [16]byte) {
	r.store(values{})
	r.turns.Store(0)
	r.id[0].Store(binary.NativeEndian.Uint64(id[:8]))
	r.id[1].Store(binary.NativeEndian.Uint64(id[8:]))
	r.crc.Store(slotCRC(n, id))
}

// clear frees the slot, the crc first.
func (r *record) clear() {
	r.crc.Store(0)
	r.store(values{})
	r.turns.Store(0)
	r.id[0].Store(0)
	r.id[1].Store(0)
}

func (r *record) idBytes() (id [16]byte) {
	binary.NativeEndian.PutUint64(id[:8], r.id[0].Load())
	binary.NativeEndian.PutUint64(id[8:], r.id[1].Load())
	return id
}

// slotCRC is never 0.
func slotCRC(n uint32, id [16]byte) uint32 {
	var b [20]byte
	copy(b[:], id[:])
	binary.LittleEndian.PutUint32(b[16:], n)
	if c := crc32.Checksum(b[:], castagnoli); c != 0 {
		return c
	}
	return 1
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal writes the crc of a line of the header.
func seal(line []byte) {
	binary.LittleEndian.PutUint32(line[lineLen-4:], crc32.Checksum(line[:lineLen-4], castagnoli))
}

func sealed(line []byte) bool {
	return binary.LittleEndian.Uint32(line[lineLen-4:]) == crc32.Checksum(line[:lineLen-4], castagnoli)
}

// fixed returns the part of the header that never changes.
func fixed(installation [8]byte) []byte {
	b := make([]byte, lineLen)
	copy(b, magic[:])
	binary.LittleEndian.PutUint32(b[8:], version)
	binary.NativeEndian.PutUint32(b[12:], orderMark)
	copy(b[16:], installation[:])
	binary.LittleEndian.PutUint32(b[24:], uint32(slotLen))
	seal(b)
	return b
}

// checkFixed tells why a header is not that of a file of this installation.
func checkFixed(h []byte, installation [8]byte) error {
	line := h[fixedAt : fixedAt+lineLen]
	switch {
	case [8]byte(line) != magic:
		return fmt.Errorf("%w: it does not begin like one", ErrDamaged)
	case !sealed(line):
		return fmt.Errorf("%w: the checksum of its header is wrong", ErrDamaged)
	}
	if v := binary.LittleEndian.Uint32(line[8:]); v != version {
		return fmt.Errorf("%w: %d, and this program knows %d", ErrVersion, v, version)
	}
	if binary.NativeEndian.Uint32(line[12:]) != orderMark || binary.LittleEndian.Uint32(line[24:]) != uint32(slotLen) {
		return fmt.Errorf("%w: it was written by another kind of machine", ErrVersion)
	}
	if [8]byte(line[16:]) != installation {
		return fmt.Errorf("%w: %x, not %x", ErrInstallation, line[16:24], installation)
	}
	for _, b := range h[usedBytes:headerLen] {
		if b != 0 {
			return fmt.Errorf("%w: its header has something behind its end", ErrDamaged)
		}
	}
	return nil
}

// state is the part of the header that changes when the file is opened, grown
// and closed.
type state struct {
	boot     [16]byte // of the machine that has it open; 0 if unknown
	stopped  bool     // and everything is in the file
	count    uint64   // slots in use; only if stopped
	capacity uint64   // slots that there is room for
	fold     [8]byte  // name of the last copy; see SetFold
	damaged  bool     // torn or worse: nothing is known
}

func (s state) encode() []byte {
	b := make([]byte, lineLen)
	copy(b, s.boot[:])
	if s.stopped {
		b[16] = 1
	}
	binary.LittleEndian.PutUint64(b[24:], s.count)
	binary.LittleEndian.PutUint64(b[32:], s.capacity)
	copy(b[40:], s.fold[:])
	seal(b)
	return b
}

func decodeState(h []byte) state {
	b := h[stateAt : stateAt+lineLen]
	if !sealed(b) {
		return state{damaged: true}
	}
	return state{
		boot:     [16]byte(b),
		stopped:  b[16] == 1,
		count:    binary.LittleEndian.Uint64(b[24:]),
		capacity: binary.LittleEndian.Uint64(b[32:]),
		fold:     [8]byte(b[40:]),
	}
}

// journal holds the one Turn that is being made, so that a kill in the middle
// leaves all of it.
type journal struct {
	check    atomic.Uint64 // of the rest; 0 if there is none
	slot     atomic.Uint64
	old, new [5]atomic.Int64
}

// begin notes that slot n goes from old to new.
func (j *journal) begin(n uint32, old, new values) {
	j.slot.Store(uint64(n))
	for i := range old {
		j.old[i].Store(old[i])
		j.new[i].Store(new[i])
	}
	j.check.Store(turnSum(n, old, new))
}

func (j *journal) end() { j.check.Store(0) }

// turnSum is never 0.
func turnSum(n uint32, old, new values) uint64 {
	const prime = 0x9e3779b97f4a7c15
	h := (uint64(n) + 1) * prime
	for i := range old {
		h = (h ^ h>>29 ^ uint64(old[i])) * prime
		h = (h ^ h>>29 ^ uint64(new[i])) * prime
	}
	return h | 1
}

// pending returns the Turn that was not finished, if there is one.
func (j *journal) pending() (n uint32, old, new values, ok bool) {
	n = uint32(j.slot.Load())
	for i := range old {
		old[i], new[i] = j.old[i].Load(), j.new[i].Load()
	}
	return n, old, new, j.check.Load() == turnSum(n, old, new) && j.slot.Load() == uint64(n)
}

// between reports whether v is what a Turn from old to new leaves half-way.
func between(v, old, new values) bool {
	i := 0
	for i < len(v) && v[i] == new[i] {
		i++
	}
	for ; i < len(v); i++ {
		if v[i] != old[i] {
			return false
		}
	}
	return true
}
