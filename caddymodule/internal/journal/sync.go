package journal

import (
	"errors"
	"runtime/debug"
)

// aheadPages is how many pages before a writer are made ready for stores. 512
// records are more than come between two page faults of a quiet gateway; a busy
// one fills its segments before the kernel writes them back.
const aheadPages = 8

// Sync makes durable what was drained, and then the pages ready again that
// writers are at: a store into one that was written back costs microseconds.
// After an error the same is tried again by the next call.
func (f *File) Sync() error {
	for _, s := range f.unsynced() {
		to := s.drained
		from := s.chunk.offset(s) + int(s.synced)*slotLen
		if err := f.sys.sync(f.fd, s.chunk, from, s.chunk.offset(s)+int(to)*slotLen); err != nil {
			// The system takes a page that it could not write for written.
			f.touch(s, s.synced*slotLen/pageLen, to*slotLen/pageLen+1)
			return f.wrap(err)
		}
		s.synced = to
	}
	f.ready()
	return nil
}

// offset is where a segment begins in the chunk's memory.
func (c *chunk) offset(s *segment) int { return int(uintptr(s.base) - uintptr(c.base())) }

func (f *File) unsynced() (out []*segment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.used {
		if s.synced < s.drained {
			out = append(out, s)
		}
	}
	return out
}

// ready touches the pages that come next, of shards that were used since the
// last call: those of a gateway that does nothing are left to rest.
func (f *File) ready() {
	for i := range f.shards {
		word := f.shards[i].word.Load()
		if word>>63 != 0 || word == f.seen[i] {
			continue
		}
		f.seen[i] = word
		page := uint32(word) * slotLen / pageLen
		f.touch(f.segments[word>>32], page, page+aheadPages)
	}
}

// touch stores into the pages of a segment, in a way that changes nothing
// whoever else does.
func (f *File) touch(s *segment, from, to uint32) {
	ok := true
	defer f.guard(debug.SetPanicOnFault(true), &ok)
	for p := from; p < min(to, segmentLen/pageLen); p++ {
		s.head(p * (pageLen / slotLen)).Add(0)
	}
}

// Prepare makes sure that there are free segments to come: released ones, and
// where these are too few, new ones at the end of the file. It returns why it
// cannot grow; nil where it has all it may have.
func (f *File) Prepare() error {
	want := sparePerShard * len(f.shards)
	for f.short(want) {
		s := f.takeDirty()
		if s == nil {
			if grown, err := f.grow(); err != nil || !grown {
				return f.wrap(err)
			}
			continue
		}
		if !f.clean(s) {
			return nil
		}
		f.mu.Lock()
		if !f.stopped {
			f.free = append(f.free, s)
			f.frees.Store(int32(len(f.free)))
		}
		f.mu.Unlock()
	}
	return nil
}

// short reports whether segments are wanted: a journal that was stopped needs
// none.
func (f *File) short(want int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.stopped && len(f.free) < want
}

func (f *File) takeDirty() *segment {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.dirty)
	if n == 0 {
		return nil
	}
	s := f.dirty[0]
	f.dirty = f.dirty[1:]
	return s
}

// clean zeroes a segment. The first slot goes first: from then on it is nobody's.
func (f *File) clean(s *segment) (ok bool) {
	ok = true
	defer f.guard(debug.SetPanicOnFault(true), &ok)
	s.head(0).Store(0)
	clear(s.mem())
	return ok
}

// grow adds segments, as many as there are, within bounds. They are on the disk
// as zeros before the first is used: no page is a hole that a full disk could
// refuse.
func (f *File) grow() (grown bool, err error) {
	n := min(max(f.count, minSegments), growSegments, len(f.segments)-f.count)
	if n == 0 {
		return false, nil
	}
	off := headerLen + int64(f.count)*segmentLen
	if err = f.sys.allocate(f.fd, off, int64(n)*segmentLen); err == nil {
		err = f.fd.Sync()
	}
	if err == nil {
		err = f.mapSegments(n)
	}
	if err != nil {
		return false, errors.Join(err, f.fd.Truncate(off))
	}
	return true, nil
}
