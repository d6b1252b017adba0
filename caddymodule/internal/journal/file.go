package journal

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/keytoll/keytoll/caddymodule/internal/mapped"
)

// Errors of Open and of what works on a file, wrapped with its path.
var (
	// ErrUnsupported says that files cannot be mapped on this system.
	ErrUnsupported = errors.New("files cannot be mapped here")
	// ErrDamaged says that the file's header is not that of a journal.
	ErrDamaged = errors.New("journal is damaged")
	// ErrOther says that the journal is of another storage.
	ErrOther = errors.New("journal is of another storage")
	// ErrFault says that a page could not be read or written, such as of a file
	// that was cut off. The journal takes no more records.
	ErrFault = errors.New("journal cannot be read or written")
)

// Bounds of a file.
const (
	DefaultSegments = 512 // 64 MiB
	minSegments     = 8   // that a file grows by
	growSegments    = 32  // at most at once
	maxShards       = 16
	sparePerShard   = 2
)

const (
	headerLen      = 4096
	segmentLen     = 128 << 10
	slotsInSegment = segmentLen / slotLen
	slotBits       = 11
	pageLen        = 4096 // the smallest there is
)

// Options say how a file is opened.
type Options struct {
	// ID is the storage's that the records are for.
	ID [8]byte
	// After is up to where the storage has the records.
	After Position
	// From is below the sequences that are given out, as are those in the file
	// and in After. It is to be higher than all before: a power cut may have
	// taken the first slot of a segment, and left records that would be good
	// ones if its sequence were given out again.
	From uint64
	// Segments is how many there may be; 0 is 512. A file that has more keeps
	// them.
	Segments int
	// Shards is how many writers there can be at a time that do not disturb one
	// another; 0 is the number of processors.
	Shards int
}

// system is what tests replace.
type system struct {
	mapFile  func(fd *os.File, off, n int64) (mem []byte, pad int, err error)
	unmap    func(mem []byte) error
	allocate func(fd *os.File, off, n int64) error
	sync     func(fd *os.File, c *chunk, from, to int) error // of c.mem
}

// allocate makes pages as large as can be: records are written one after the
// other.
func allocate(fd *os.File, off, n int64) error { return mapped.Allocate(fd, off, n, segmentLen) }

var theSystem = system{
	mapFile: mapped.Map, unmap: mapped.Unmap, allocate: allocate,
	sync: func(fd *os.File, c *chunk, from, to int) error { return mapped.Sync(fd, c.mem, from, to) },
}

// chunk is a part of the file in memory. It stays where it is until the file is
// closed.
type chunk struct {
	mem []byte // whole pages
	pad int    // where the segments begin
	off int64  // of mem[pad] in the file
}

// segment is in one of: a shard, full, dirty, free. What is not atomic is
// guarded by File.mu or, where it says so, belongs to the reader.
type segment struct {
	base     unsafe.Pointer // of its memory
	chunk    *chunk
	index    uint32
	end      uint32 // slots that there can be records in; 0 while a shard has it
	sequence uint64
	found    bool   // when the file was opened: no writer is at it
	late     bool   // nobody waits for the writer of the next slot; the reader's
	drained  uint32 // slots; the reader's
	synced   uint32 // likewise
}

func (s *segment) at(slot uint32) unsafe.Pointer { return unsafe.Add(s.base, slot*slotLen) }

// seed is what the sum of a record begins with: its place in all there ever is.
func (s *segment) seed(slot uint32) uint64 { return s.sequence<<slotBits | uint64(slot) }

// head is the atomic part of a slot.
func (s *segment) head(slot uint32) *atomic.Uint64 { return (*atomic.Uint64)(s.at(slot)) }

// body is the rest of a slot.
func (s *segment) body(slot uint32) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(s.at(slot), headLen)), bodyLen)
}

// words is body in words.
func (s *segment) words(slot uint32) *[bodyLen / 8]uint64 {
	return (*[bodyLen / 8]uint64)(unsafe.Add(s.at(slot), headLen))
}

// mem is all of the segment.
func (s *segment) mem() []byte { return unsafe.Slice((*byte)(s.base), segmentLen) }

// shard is what one writer works on. Its word is the number of a segment and
// the next slot in it, in the low half. Writers reserve slots by adding to it.
type shard struct {
	word atomic.Uint64
	_    [56]byte
}

// noSegment is the word of a shard that has none: it looks like a full one.
const noSegment = uint64(1)<<63 | slotsInSegment

// File is a journal that is open. Append may be called by many goroutines, and
// while anything else is. The other methods are for one goroutine at a time:
// the reader.
type File struct {
	path string
	opt  Options
	fd   *os.File
	sys  system

	shift    uint8 // of a hash, leaves a shard
	shards   []shard
	segments []*segment // those that are not there yet are nil
	frees    atomic.Int32
	broken   atomic.Pointer[error]
	full     chan struct{}

	mu       sync.Mutex // of what follows
	free     []*segment
	dirty    []*segment // to be zeroed
	used     []*segment // in the order of their sequences
	sequence uint64     // the last that was given out
	stopped  bool

	chunks   []*chunk // the reader's
	count    int      // of segments; the reader's
	last     Position // when it was closed
	scratch  [maxSlots * bodyLen]byte
	seen     []uint64      // words of the shards at the last sync
	patience time.Duration // that is left for writers; the reader's
}

// shardsFor returns how many shards there are, a power of two.
func shardsFor(n int) int {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	return 1 << bits.Len(uint(min(n, maxShards)-1))
}

func (f *File) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("journal %s: %w", f.path, err)
}

// Full receives when a segment is full: Drain and Prepare are due.
func (f *File) Full() <-chan struct{} { return f.full }

// Room reports whether a writer whose segment is full gets another now.
func (f *File) Room() bool { return f.frees.Load() > 0 }

// Waiting returns how many segments hold records that were not released, but
// for those that are being written, and how many there may be in all.
func (f *File) Waiting() (segments, of int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.used {
		if s.end > 0 {
			segments++
		}
	}
	return segments, len(f.segments)
}

// Err returns why the journal takes no more records, nil if it does.
func (f *File) Err() error {
	if p := f.broken.Load(); p != nil {
		return *p
	}
	return nil
}
