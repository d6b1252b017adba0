package counter

import (
	"fmt"
	"os"
	"runtime/debug"
	"sort"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Options say how a file is opened.
type Options struct {
	// Slots is the room that a new file has; 0 is 16,384. It grows as needed.
	Slots int
	// InstallationID must be the one that the file was made with.
	InstallationID [8]byte
	// Sync is the time between two writings to the disk; 0 is a second. A power
	// cut loses what came after the last one.
	Sync time.Duration
	// OnError, if not nil, is told of troubles, once a minute at most. It must
	// not block: it may run within a request.
	OnError func(error)
	// DropDamaged frees slots that are damaged instead of refusing new ids.
	// What they counted is lost.
	DropDamaged bool
}

const (
	defaultSlots = 1 << 14
	defaultSync  = time.Second
	minGrowth    = 1 << 10 // slots
	maxGrowth    = 1 << 18
	reportEvery  = time.Minute
)

// Damage is a slot whose content cannot be trusted.
type Damage struct {
	Slot uint32   // its number; for what is missing altogether, 0
	ID   [16]byte // as found, and perhaps damaged itself
	Why  string
}

// Recovery is what Open found.
type Recovery struct {
	New      bool     // the file was made
	Clean    bool     // the last process stopped in order
	SameBoot bool     // the machine was not started anew since
	Slots    int      // ids in the file
	Raised   int      // slots whose lease counts as spent
	Turned   bool     // a Turn was interrupted and finished now
	Damaged  []Damage // while there are any, new ids are refused; see Options.DropDamaged
}

// chunk is a part of the file in memory. It stays where it is until the file
// is closed.
type chunk struct {
	mem   []byte // whole pages
	recs  []record
	first uint32 // number of recs[0]

	marks []atomic.Uint64 // see markOf
	taken []uint64        // of marks, by the sync that is running; guarded by syncMu
}

// File is a file of counters that is open. Its methods may be called by many
// goroutines.
type File struct {
	path string
	opt  Options
	fd   *os.File
	sys  system

	header   []byte // mapped
	journal  *journal
	turnMu   sync.Mutex               // one Turn at a time
	chunks   atomic.Pointer[[]*chunk] // ascending
	dirty    atomic.Bool
	turned   atomic.Bool // since the last sync: the journal's page is touched
	pieces   bool        // syncs go piece by piece; see syncPieces
	recovery Recovery

	mu       sync.RWMutex // of what follows
	ids      map[[16]byte]uint32
	free     []uint32 // below next
	next     uint32
	capacity uint32

	growMu sync.Mutex // one growth at a time; before syncMu and mu
	fold   [8]byte    // of the header; guarded by growMu
	syncMu sync.Mutex // one sync at a time
	leases leaseQueue

	troubles
	stop chan struct{}
	done sync.WaitGroup
	once sync.Once
	err  error // of Close
}

// Recovery returns what Open found.
func (f *File) Recovery() Recovery { return f.recovery }

// Slot returns the slot of id, and makes it, with all numbers 0, if there is
// none. It fails if the file cannot grow, and while there are damaged slots
// for new ids: nobody knows whether one of them is theirs. The zero id is
// refused.
func (f *File) Slot(id [16]byte) (s *Slot, err error) {
	if n, ok := f.find(id); ok {
		return f.slot(n, id)
	}
	defer f.Guard(debug.SetPanicOnFault(true), &err)
	for {
		n, room, err := f.take(id)
		if err != nil {
			return nil, err
		}
		if room > 0 {
			return f.slot(n, id)
		}
		if err := f.grow(n); err != nil {
			return nil, err
		}
	}
}

// Lookup returns the slot of id, or nil if there is none.
func (f *File) Lookup(id [16]byte) *Slot {
	if n, ok := f.find(id); ok {
		if s, err := f.slot(n, id); err == nil {
			return s
		}
	}
	return nil
}

func (f *File) find(id [16]byte) (uint32, bool) {
	f.mu.RLock()
	n, ok := f.ids[id]
	f.mu.RUnlock()
	return n, ok
}

func (f *File) slot(n uint32, id [16]byte) (*Slot, error) {
	if err := f.gone(); err != nil {
		return nil, err
	}
	c, r := f.record(n)
	return &Slot{r: r, f: f, mark: c.markOf(n), n: n, id: id}, nil
}

// take makes a slot for id. If there is no room it returns the capacity.
func (f *File) take(id [16]byte) (n uint32, room int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n, ok := f.ids[id]; ok {
		return n, 1, nil
	}
	if err := f.gone(); err != nil {
		return 0, 0, err
	}
	switch {
	case id == [16]byte{}:
		return 0, 0, fmt.Errorf("counter file %s: the zero id has no slot", f.path)
	case f.blocked():
		d := f.recovery.Damaged[0]
		return 0, 0, fmt.Errorf("no slot for %x: %w", id, f.wrap(fmt.Errorf("%w: %d slots, the first is %d, %x: %s", ErrDamaged, len(f.recovery.Damaged), d.Slot, d.ID, d.Why)))
	case len(f.free) > 0:
		n = f.free[len(f.free)-1]
	case f.next < f.capacity:
		n = f.next
	default:
		return f.capacity, 0, nil
	}
	c, r := f.record(n)
	r.birth(n, id)
	if len(f.free) > 0 {
		f.free = f.free[:len(f.free)-1]
	} else {
		f.next++
	}
	f.ids[id] = n
	f.touch(c.markOf(n), n)
	return n, 1, nil
}

// record returns slot n, which must exist, and its chunk.
func (f *File) record(n uint32) (*chunk, *record) {
	chunks := *f.chunks.Load()
	i := sort.Search(len(chunks), func(i int) bool { return chunks[i].first > n }) - 1
	c := chunks[i]
	return c, &c.recs[n-c.first]
}

// Len returns the number of ids.
func (f *File) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.ids)
}

// Each calls fn for the slots of all ids that there are at the beginning, in no
// order, until it returns false. It may meet pages that the disk does not give;
// that is the error.
func (f *File) Each(fn func(*Slot) bool) (err error) {
	type entry struct {
		id [16]byte
		n  uint32
	}
	f.mu.RLock()
	all := make([]entry, 0, len(f.ids))
	for id, n := range f.ids {
		all = append(all, entry{id, n})
	}
	f.mu.RUnlock()
	defer f.Guard(debug.SetPanicOnFault(true), &err)
	for _, e := range all {
		s, err := f.slot(e.n, e.id)
		if err != nil {
			return err
		}
		if !fn(s) {
			return nil
		}
	}
	return nil
}

func newChunk(mem []byte, pad int, first, n uint32) *chunk {
	words := (first+n-1)/slotsInWord - first/slotsInWord + 1
	return &chunk{mem: mem, recs: unsafe.Slice((*record)(unsafe.Pointer(&mem[pad])), n), first: first,
		marks: make([]atomic.Uint64, words), taken: make([]uint64, words)}
}

// mapSlots brings n slots from number first on into memory.
func (f *File) mapSlots(first, n uint32) (*chunk, error) {
	mem, pad, err := f.sys.mapFile(f.fd, offset(first), int64(n)*slotLen)
	if err != nil {
		return nil, err
	}
	return newChunk(mem, pad, first, n), nil
}

// offset returns the place of slot n in the file.
func offset(n uint32) int64 { return headerLen + int64(n)*slotLen }

func (f *File) wrap(err error) error { return fmt.Errorf("%s: %w", f.path, err) }
