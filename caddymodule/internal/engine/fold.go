package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/keytoll/keytoll/caddymodule/internal/counter"
	"github.com/keytoll/keytoll/caddymodule/store"
)

// The blobs that hold the copy of the counters; see package counter.
const (
	blobFold   = "counters/fold"  // name 8 bytes, unix second, number of parts
	blobCounts = "counters/part/" // and the number of the part, in hex
)

const (
	foldLen     = 8 + 8 + 4
	slotsInPart = 256
	foldEvery   = 10 * time.Minute
)

// fold is the head of the copy of the counters in the store.
type fold struct {
	name  [8]byte
	at    int64 // unix second in which it was begun
	parts uint32
}

func partName(n uint32) string { return fmt.Sprintf("%s%06x", blobCounts, n) }

func (f *fold) encode() []byte {
	b := append(make([]byte, 0, foldLen), f.name[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(f.at))
	return binary.BigEndian.AppendUint32(b, f.parts)
}

// readFold returns the head of the copy, or nil if there is none.
func readFold(r store.Reader) (*fold, error) {
	b, err := r.Blob(blobFold)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err == nil && len(b) != foldLen {
		err = errors.New("the copy of the counters in the database has no head")
	}
	if err != nil {
		return nil, err
	}
	return &fold{[8]byte(b), int64(binary.BigEndian.Uint64(b[8:])), binary.BigEndian.Uint32(b[16:])}, nil
}

// folding makes the copies of one Metering.
type folding struct{ mu sync.Mutex }

// A fold goes in steps of a few parts, and rests after each for so many times as
// long as it took: it is a fiftieth of a processor.
const (
	partsInStep = 16
	foldShare   = 50
	foldRest    = 100 * time.Millisecond // at most
	backupRest  = 10 * time.Millisecond  // likewise, where somebody waits for it
)

// foldCounters copies what is counted into the store. When it returns, every
// count of before is there; what has not changed is not written again. A file
// with damaged counters is not copied.
func (e *Engine) foldCounters(ctx context.Context, m *Metering) error {
	return e.foldWithin(ctx, m, foldRest)
}

// foldWithin is foldCounters that rests no longer than that at a time.
func (e *Engine) foldWithin(ctx context.Context, m *Metering, rest time.Duration) error {
	if len(m.Counters.Recovery().Damaged) > 0 {
		return nil // the copy has the damaged ones as they were before
	}
	m.folding.mu.Lock()
	defer m.folding.mu.Unlock()
	f := folder{Engine: e, file: m.Counters, most: rest, next: fold{at: e.clock().Unix()}}
	if err := f.run(ctx); err != nil {
		return fmt.Errorf("folding the counters: %w", err)
	}
	if f.was != nil && !f.changed && f.was.parts == f.next.parts && f.was.name == m.Counters.Fold() {
		return nil
	}
	if _, err := rand.Read(f.next.name[:]); err != nil {
		return err
	}
	if err := e.Store.Update(ctx, f.end); err != nil {
		return fmt.Errorf("folding the counters: %w", err)
	}
	return m.Counters.SetFold(f.next.name)
}

// folder is one fold.
type folder struct {
	*Engine
	file    *counter.File
	most    time.Duration // of a rest
	was     *fold         // the copy of before, nil if there is none
	next    fold          // parts is how many were looked at
	changed bool          // something was written

	values []counter.Value
	text   []byte
	step   map[uint32][]byte // parts that are not as the store has them
}

// run brings all parts up to date. The copy keeps its name meanwhile: should the
// process end, the file that it belongs to goes on, and if that is lost, each
// counter goes on as it was at one fold or the other.
func (f *folder) run(ctx context.Context) error {
	for {
		start := time.Now()
		f.step = make(map[uint32][]byte)
		if err := f.Store.View(ctx, f.read); err != nil {
			return err
		}
		if len(f.step) > 0 {
			if err := f.Store.Update(ctx, f.write); err != nil {
				return err
			}
		}
		if f.done() {
			return nil
		}
		f.rest(min(foldShare*time.Since(start), f.most))
	}
}

// done reports whether all parts were looked at.
func (f *folder) done() bool { return f.next.parts*slotsInPart >= f.file.Extent() }

// rest waits, unless the engine is closed.
func (f *folder) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.stop:
	}
}

// read collects what has changed in the next parts.
func (f *folder) read(r store.Reader) (err error) {
	if f.next.parts == 0 {
		if f.was, err = readFold(r); err != nil {
			return err
		}
	}
	for i := 0; i < partsInStep && !f.done(); i++ {
		if f.values, err = f.file.Values(f.values[:0], f.next.parts*slotsInPart, slotsInPart); err != nil {
			return err
		}
		f.text = counter.AppendValues(f.text[:0], f.values)
		old, err := r.Blob(partName(f.next.parts))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err != nil || !bytes.Equal(old, f.text) {
			f.step[f.next.parts] = append(make([]byte, 0, len(f.text)), f.text...) // empty is not nil
		}
		f.next.parts++
	}
	return nil
}

// write stores what has changed. The head always says how many parts there are.
func (f *folder) write(tx store.Tx) error {
	f.changed = true
	for n, text := range f.step {
		if err := tx.PutBlob(partName(n), text); err != nil {
			return err
		}
	}
	head := fold{at: f.next.at, parts: f.next.parts}
	if f.was != nil {
		head = fold{f.was.name, f.was.at, max(f.was.parts, f.next.parts)}
	}
	return tx.PutBlob(blobFold, head.encode())
}

// end gives the copy its new name, and drops the parts that are left over.
func (f *folder) end(tx store.Tx) error {
	if f.was != nil {
		for n := f.next.parts; n < f.was.parts; n++ {
			if err := tx.PutBlob(partName(n), nil); err != nil {
				return err
			}
		}
	}
	return tx.PutBlob(blobFold, f.next.encode())
}

// unfold brings a file of counters that is not the one that the store's copy
// was made of up to it. It says whether there is a copy and what it did, for
// the log, or nil.
func (e *Engine) unfold(ctx context.Context, file *counter.File) (there bool, told, err error) {
	var copied *fold
	raised := 0
	err = e.Store.View(ctx, func(r store.Reader) (err error) {
		copied, err = readFold(r)
		there = copied != nil
		if err != nil || !there || !file.Recovery().New && copied.name == file.Fold() {
			copied = nil
			return err
		}
		for n := range copied.parts {
			b, err := r.Blob(partName(n))
			if err != nil {
				return fmt.Errorf("part %d of the copy of the counters: %w", n, err)
			}
			if raised, err = adopt(file, b, raised); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || copied == nil {
		return there, nil, err
	}
	at := time.Unix(copied.at, 0).UTC().Format(time.RFC3339)
	switch {
	case raised == 0:
	case file.Recovery().New:
		told = fmt.Errorf("the file of counters was not there: credits and quotas go on as they were at %s; what was used since then is not counted", at)
	default:
		told = fmt.Errorf("the file of counters is not the one that the database goes with: %d counters that were higher in the database at %s are so again", raised, at)
	}
	return true, told, file.SetFold(copied.name)
}

func adopt(file *counter.File, part []byte, raised int) (int, error) {
	values, err := counter.ParseValues(part)
	if err != nil {
		return raised, err
	}
	for _, v := range values {
		changed, err := file.Adopt(v)
		if errors.Is(err, counter.ErrDamaged) {
			continue // it is refused
		}
		if err != nil {
			return raised, fmt.Errorf("putting back counters: %w", err)
		}
		if changed {
			raised++
		}
	}
	return raised, nil
}

// Backup writes a copy of the store with what is counted at its beginning.
func (e *Engine) Backup(ctx context.Context, w io.Writer) (int64, error) {
	e.metered.mu.Lock()
	m := e.metered.m
	e.metered.mu.Unlock()
	if m != nil {
		if err := e.foldWithin(ctx, m, backupRest); err != nil {
			return 0, err
		}
	}
	return e.Store.Backup(ctx, w)
}

// CountersIn finds the copy of the counters among the blobs of a store, for
// those who check a backup.
type CountersIn struct {
	Counters int       // how many
	At       time.Time // when they were copied; zero if there are none
	parts    uint32
	head     fold
}

// Blob looks at one blob, and says what is wrong with it if it is of the copy.
func (c *CountersIn) Blob(name string, value []byte) error {
	switch {
	case name == blobFold:
		if len(value) != foldLen {
			return errors.New("the copy of the counters has no head")
		}
		c.head.at = int64(binary.BigEndian.Uint64(value[8:]))
		c.head.parts = binary.BigEndian.Uint32(value[16:])
		c.At = time.Unix(c.head.at, 0).UTC()
	case strings.HasPrefix(name, blobCounts):
		values, err := counter.ParseValues(value)
		c.Counters += len(values)
		c.parts++
		return err
	}
	return nil
}

// Missing says what is missing of the copy once all blobs were looked at, or
// returns nil.
func (c *CountersIn) Missing() error {
	if c.parts != c.head.parts {
		return fmt.Errorf("the copy of the counters has %d parts, and should have %d", c.parts, c.head.parts)
	}
	return nil
}
